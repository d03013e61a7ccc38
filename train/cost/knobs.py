"""The numbers of an experiment that change what it costs, each by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from seqzoo.models.config import config_of
from seqzoo.models.registry import mixer, resolve
from seqzoo.train.config import Experiment

WIDEST = 64.0  # expansion of a feed-forward at which the search gives up
LARGEST = 2**15  # of a whole number
STEPS = (1, 2, 4, 8, 16, 32, 64)  # of whole numbers: what must divide them shows in which can be
# Options of mixers that size what they keep or compute, the usual ones first.
SIZES = (
    *("d_state", "d_value", "d_hidden", "d_key", "d_head", "d_qk", "num_features", "kv_rank"),
    *("averages", "block_size", "window", "memory", "num_codes", "num_slots", "landmarks"),
)
HEADS = "num_heads"


class Knob(NamedTuple):
    """One number; `turned(value)` is the experiment with another, ValueError where none can be."""

    name: str
    now: float
    most: float
    turned: Callable[[float], Experiment]
    step: int = 0  # between values; 0: any number
    values: tuple[int, ...] = ()  # all there are, where they are few


def expansion(experiment: Experiment) -> Iterator[Knob]:
    """Hidden units of the feed-forward in units of the width, where there is a feed-forward."""
    if experiment.backbone.feedforward != "none":
        yield Knob(
            "expansion", experiment.backbone.expansion, WIDEST, _field(experiment, "expansion")
        )


def width(experiment: Experiment, can_be: Callable[[Experiment], bool]) -> Iterator[Knob]:
    """Width of the residual stream, in the steps that heads and blocks allow."""
    knob = Knob("d_model", experiment.backbone.d_model, LARGEST, _field(experiment, "d_model"))
    yield from _stepping(knob, can_be)


def depth(experiment: Experiment) -> Iterator[Knob]:
    """Blocks, in whole patterns, at most twice as many: another depth is another model."""
    now, step = experiment.backbone.depth, len(resolve(experiment.model).pattern)
    step = 1 if experiment.backbone.arrangement == "parallel" else step
    if experiment.backbone.arrangement != "listed":
        yield Knob("depth", now, 2 * now, _field(experiment, "depth"), step)


def options(
    experiment: Experiment, measure: Callable[[Experiment], float | None]
) -> Iterator[Knob]:
    """Sizes among the mixers' own options; what is None is what gives the same cost."""
    now = measure(experiment)
    pattern = dict.fromkeys(resolve(experiment.model).pattern)
    for name in pattern:
        path = (name,) if len(pattern) > 1 else ()
        default = dataclasses.asdict(config_of(mixer(name))())
        preset = {**resolve(experiment.model).options, **experiment.mixer}
        chosen = {**default, **(preset.get(name) or {} if path else preset)}
        for option in (o for o in SIZES if o in default):
            turned = _option(experiment, (*path, option))
            guesses = [chosen[option]] if chosen[option] else _guesses(experiment, chosen)
            same = (g for g in guesses if measure_or_none(measure, turned, g) == now)
            for value in [*same][:1]:
                knob = Knob(".".join(("mixer", *path, option)), value, LARGEST, turned)
                yield from _stepping(knob, lambda e: measure(e) is not None)
        if HEADS in default:
            d = experiment.backbone.d_model
            few = tuple(n for n in range(1, d + 1) if d % n == 0)
            turned = _option(experiment, (*path, HEADS))
            label = ".".join(("mixer", *path, HEADS))
            yield Knob(label, chosen[HEADS], d, turned, 1, few)


def turned(experiment: Experiment, values: Mapping[str, float]) -> Experiment:
    """The experiment with knobs of these names at these values."""
    for name, value in values.items():
        first, *path = name.split(".")
        turn = _option(experiment, tuple(path)) if path else _field(experiment, first)
        experiment = turn(value)
    return experiment


def measure_or_none(
    measure: Callable[[Experiment], float | None], turn: Callable, value: float
) -> float | None:
    """What a turned experiment measures; None where it cannot be."""
    try:
        return measure(turn(value))
    except ValueError:
        return None


def _guesses(experiment: Experiment, chosen: Mapping[str, Any]) -> list[int]:
    d, heads = experiment.backbone.d_model, chosen.get(HEADS) or 1
    return [d // heads, d, d // 2, 2 * d, 2 * d // heads, max(1, d // (2 * heads))]


def _stepping(knob: Knob, can_be: Callable[[Experiment], bool]) -> Iterator[Knob]:
    for step in STEPS:
        try:
            if can_be(knob.turned(knob.now + step)):
                yield knob._replace(step=step)
                return
        except ValueError:
            continue


def _field(experiment: Experiment, name: str) -> Callable[[float], Experiment]:
    def turned(value: float) -> Experiment:
        backbone = dataclasses.replace(experiment.backbone, **{name: value})
        return dataclasses.replace(experiment, backbone=backbone)

    return turned


def _option(experiment: Experiment, path: tuple[str, ...]) -> Callable[[float], Experiment]:
    def turned(value: float) -> Experiment:
        made = dict(experiment.mixer)
        if len(path) == 1:
            made[path[0]] = value
        else:
            made[path[0]] = {**(made.get(path[0]) or {}), path[1]: value}
        return dataclasses.replace(experiment, mixer=made)

    return turned
