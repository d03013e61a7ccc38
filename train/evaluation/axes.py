"""A trained model along an axis: longer rows, more pairs, by position, by the streaming form.

length=64,128,256     an option of the task at these values (tasks/axes.py)
streaming=1,16        the streaming form, so many tokens at a time
position              accuracy at every position that has labels, neighbours joined
shuffle=16            blocks of so many steps in another order, what is further away out of place
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from seqzoo.tasks.axes import variants
from seqzoo.tasks.data.positions import POSITIONS
from seqzoo.tasks.shuffled import check_shuffle, shuffled
from seqzoo.train.config import Experiment
from seqzoo.train.loop.evaluate import check_like, evaluate
from seqzoo.train.loop.program import Program, make_program
from seqzoo.train.loop.state import Arrays

POSITION, STREAMING, SHUFFLE = "position", "streaming", "shuffle"
CHUNK = 32  # tokens at a time, where nobody says how many
NOT_DRAWN = ("examples", POSITIONS)


class Axis(NamedTuple):
    """A name and the values as they were written; no values for `position`."""

    name: str
    values: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.values}" if self.values else self.name


class Point(NamedTuple):
    """What is evaluated at one value."""

    value: float
    experiment: Experiment
    chunk: int = 0
    block: int = 0  # steps that stay together, of rows whose blocks change places; 0: all


def axes_of(texts: Sequence[str]) -> list[Axis]:
    """Axes from their texts. Raises ValueError for one without values, or given twice."""
    found: dict[str, Axis] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if name == STREAMING and not equals:
            values = str(CHUNK)
        if not values and name != POSITION:
            raise ValueError(f"axis {text!r} has no values; write {name}=64,128,256, or {POSITION}")
        if name in found:
            raise ValueError(f"axis {name} is given twice; put all values behind one")
        found[name] = Axis(name, values)
    return list(found.values())


def points(experiment: Experiment, axis: Axis) -> list[Point]:
    """The experiment at each value of an axis, before anything is compiled.

    Raises ValueError for what task or model cannot do.
    """
    if axis.name == POSITION:
        if experiment.task.spec.head not in ("lm", "autoencode"):
            raise ValueError(
                f"task {experiment.task.name} has one label a row, so there is no accuracy by "
                "position; leave that axis out"
            )
        return [Point(0, experiment)]
    if axis.name == STREAMING:
        if not experiment.backbone.causal:
            raise ValueError(
                f"{experiment.model} looks both ways (backbone.causal is false), so it has no "
                "streaming form; leave that axis out"
            )
        return [Point(n, experiment, n) for n in _counts(axis)]
    if axis.name == SHUFFLE:
        for block in _counts(axis):
            check_shuffle(experiment.task, block)
        return [Point(n, experiment, block=n) for n in _counts(axis)]
    found = variants(experiment.task, axis.name, axis.values, (POSITION, STREAMING, SHUFFLE))
    return [Point(v.value, dataclasses.replace(experiment, task=v.task)) for v in found]


def _counts(axis: Axis) -> list[int]:
    """The values of an axis that counts tokens."""
    counts = [int(text) for text in axis.values.split(",") if text.isdecimal() and int(text) > 0]
    if len(counts) < axis.values.count(",") + 1:
        raise ValueError(f"{axis.name} takes numbers of tokens, at least 1; got {axis.values!r}")
    return counts


def along(
    program: Program,
    params: Arrays,
    rest: Arrays,
    axis: Axis,
    *,
    split: str = "test",
    seed: int = 0,
) -> dict[str, list]:
    """`at` and, for each metric, the values there; of several replicas a list at each value.

    Raises ValueError where a point needs other arrays than the model has.
    """
    found: list[tuple[float, Mapping[str, Any]]] = []
    for point in points(program.experiment, axis):
        own = program_at(program, point)
        source = point.experiment.task.source(split, seed)
        if point.block:
            source = shuffled(point.experiment.task, source, point.block)
        metrics = evaluate(own, params, rest, source, places=True)
        if axis.name == POSITION:
            return _positions(metrics[POSITIONS])
        found.append((point.value, metrics))
    names = [name for name in found[0][1] if name not in NOT_DRAWN]
    common = [name for name in names if all(name in metrics for _, metrics in found)]
    curves = {name: [np.asarray(m[name]).tolist() for _, m in found] for name in common}
    return {"at": [value for value, _ in found], **curves}


def _positions(curve: Mapping[str, list]) -> dict[str, list]:
    """Values at each position, of several replicas a list each."""
    values = np.asarray(curve["accuracy"])
    return {"at": curve["at"], "accuracy": np.moveaxis(values, -1, 0).tolist()}


def program_at(program: Program, point: Point) -> Program:
    """A program that evaluates there. Raises ValueError where it has other arrays."""
    if point.experiment is program.experiment and not point.chunk:
        return program
    devices = list(program.mesh.devices.flat)
    own = make_program(point.experiment, devices=devices, chunk=point.chunk)
    check_like(program.like, own.like)
    return own
