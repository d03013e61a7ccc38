"""A run that starts from what another one, or a published model, has learned.

What the two models have alike, the encoder (embedding, positions, backbone), is taken; heads are
new, unless both runs have the same kind of output. A pretraining objective's extra token is left
behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from seqzoo.models.spec import ModelSpec
from seqzoo.train.loop.learned import Learned, learned
from seqzoo.train.loop.program import Program
from seqzoo.train.loop.state import Arrays, TrainState

SHARED = "encoder/"


class WarmStart(NamedTuple):
    """What was found of a model's variables in another run."""

    run: Path
    when: str
    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]  # of the other run

    def __str__(self) -> str:
        parts = [f"started from {self.run} {self.when}: {len(self.taken)} variables taken"]
        for word, paths in (("new", self.new), ("left behind", self.left)):
            if paths:
                parts.append(f"{word}: {', '.join(paths)}")
        return "; ".join(parts)


def warm_start(program: Program, state: TrainState, run: Path) -> tuple[TrainState, WarmStart]:
    """`state` with what the newest checkpoint of `run`, or published weights there, have for it.

    Raises ValueError where `run` is neither, or where its encoder is another one: the message names
    the variables.
    """
    source = learned(run, program.experiment.task)
    head = _same_head(source.spec, program.experiment.task.spec)
    kinds = [kind for kind in ("params", "rest") if getattr(source, kind) is not None]
    faults = [
        fault
        for kind in kinds
        for fault in _faults(getattr(source, kind), getattr(state, kind), source)
    ]
    if faults:
        raise ValueError(
            f"{run} has another encoder than this model, so its parameters cannot be taken: "
            f"{'; '.join(faults[:8])}{' ...' if len(faults) > 8 else ''}. Use the same --model and "
            "--backbone options for both runs"
        )
    made, taken = {}, []
    for kind in kinds:
        values, target = getattr(source, kind), getattr(state, kind)
        made[kind] = dict(target)
        for path in target.keys() & values.keys() - source.new:
            if path.startswith(SHARED) or head:
                made[kind][path] = _placed(values[path], target[path])
                taken.append(path)
    every = {*state.params, *state.rest}
    left = {*source.params, *(source.rest or ())} - {*taken}
    report = WarmStart(Path(run), source.when, *map(_sorted, (taken, every - {*taken}, left)))
    return state._replace(**made), report


def _same_head(old: ModelSpec, new: ModelSpec) -> bool:
    return (old.head, old.outputs, old.vocab_size) == (new.head, new.outputs, new.vocab_size)


def _faults(source: Arrays, target: Mapping[str, Array], learned: Learned) -> list[str]:
    """How the encoders differ."""
    faults = []
    for path in sorted({*source, *target}):
        if not path.startswith(SHARED) or path in learned.new:
            continue
        if path not in source or path not in target:
            faults.append(f"{path} is only {'there' if path in source else 'here'}")
            continue
        old, new = source[path].shape, target[path].shape
        if behind := learned.behind.get(path, 0):
            old = (old[0] - behind, *old[1:])
        if old != new:
            faults.append(f"{path} is {source[path].shape} there and {new} here")
    return faults


def _placed(value: Array, like: Array) -> Array:
    """The leading rows of a value where `like` lies, on every process's devices."""
    host = np.asarray(value).astype(like.dtype)
    host = host[: like.shape[0]] if like.ndim else host
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])


def _sorted(paths: object) -> tuple[str, ...]:
    return tuple(sorted(paths))
