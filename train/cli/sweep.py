"""`--sweep FIELD=VALUES` of `seqzoo compare`: texts that become a `Sweep`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any

from seqzoo.train.cli.flags import CommandLine, Given, value_of
from seqzoo.train.compare.sweep import Range, Sweep, field_kind
from seqzoo.train.config import Experiment

FLAG, TO = "--sweep", ".."


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What is tried for every model first, on validation; final runs have other seeds."""

    sweep: tuple[str, ...] = ()  # optim.peak-lr=1e-3,3e-3,1e-2 or =1e-4..1e-2; several: their grid
    trials: str = "grid"  # all combinations; random:N or random:N:SEED draws, ranges by logarithm
    tuning_seeds: int = 1  # of each trial
    budget: str = ""  # trials=N, flops=X or seconds=X for the trials of each model; empty: all


def every_sweep(line: CommandLine) -> CommandLine:
    """The line with what all its --sweep flags say in one, as none counts for more."""
    own = [flag for flag in line.given if flag.name == FLAG]
    if len(own) < 2:
        return line
    words = tuple(w for flag in own for w in flag.words)
    rest = (flag for flag in line.given if flag.name != FLAG)
    return line._replace(given=(*rest, Given(FLAG, words, False)))


def sweep_of(options: SweepOptions, experiments: Mapping[str, Experiment]) -> Sweep | None:
    """The sweep that was asked for. Raises ValueError for what cannot be tried."""
    if not options.sweep:
        own = [field for field in dataclasses.fields(SweepOptions) if field.name != "sweep"]
        said = [f.name for f in own if getattr(options, f.name) != f.default]
        if said:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in said)
            raise ValueError(f"{flags}: of which trials? give --sweep optim.peak-lr=1e-3,3e-3,1e-2")
        return None
    fields: dict[str, Any] = {}
    for text in options.sweep:
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"{FLAG} {text!r} is no FIELD=A,B,C and no FIELD=LOW..HIGH")
        name = name.strip().replace("-", "_")
        if name in fields:
            raise ValueError(f"{FLAG} has {name} twice; give all its values in one")
        kinds = [field_kind(name, experiment, label) for label, experiment in experiments.items()]
        fields[name] = _values(name, kinds[0], values)
    return Sweep(
        fields=fields, trials=options.trials, seeds=options.tuning_seeds, budget=options.budget
    )


def _values(name: str, kind: Any, text: str) -> tuple[Any, ...] | Range:
    """`A,B,C`, or, of numbers, `LOW..HIGH`."""
    if TO in text and {int, float} & {kind, *typing.get_args(kind)}:
        low, high, *more = (value_of(name, kind, end) for end in text.split(TO))
        if not more:
            return Range(low, high)
    return tuple(value_of(name, kind, part.strip()) for part in text.split(",") if part.strip())
