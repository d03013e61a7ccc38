"""A run that starts from what another one has learned: pretraining, then fine-tuning.

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
from seqzoo.tasks.pretraining import Pretraining
from seqzoo.tasks.task import Task
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.program import Program
from seqzoo.train.loop.state import Arrays, TrainState

SHARED = "encoder/"
EMBEDDING = "encoder/embed/embedding"


class WarmStart(NamedTuple):
    """What was found of a model's variables in another run."""

    run: Path
    step: int
    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]  # of the other run

    def __str__(self) -> str:
        parts = [f"started from {self.run} at step {self.step}: {len(self.taken)} variables taken"]
        for word, paths in (("new", self.new), ("left behind", self.left)):
            if paths:
                parts.append(f"{word}: {', '.join(paths)}")
        return "; ".join(parts)


def warm_start(program: Program, state: TrainState, run: Path) -> tuple[TrainState, WarmStart]:
    """`state` with the parameters and statistics that the newest checkpoint of `run` has for it.

    Raises ValueError where `run` is no run, or where its encoder is another one: the message names
    the variables.
    """
    other, learned, meta = load_run(run)
    old, new = other.experiment.task, program.experiment.task
    extra = max(_extra_tokens(old) - _extra_tokens(new), 0)
    head = _same_head(old.spec, new.spec)
    faults = [
        fault
        for kind in ("params", "rest")
        for fault in _faults(getattr(learned, kind), getattr(state, kind), extra)
    ]
    if faults:
        raise ValueError(
            f"{run} has another encoder than this model, so its parameters cannot be taken: "
            f"{'; '.join(faults[:8])}{' ...' if len(faults) > 8 else ''}. Use the same --model and "
            "--backbone options for both runs"
        )
    made, taken = {}, []
    for kind in ("params", "rest"):
        source, target = getattr(learned, kind), getattr(state, kind)
        made[kind] = dict(target)
        for path in target:
            if path in source and (path.startswith(SHARED) or head):
                made[kind][path] = _placed(source[path], target[path])
                taken.append(path)
    every = {*state.params, *state.rest}
    left = {*learned.params, *learned.rest} - {*taken}
    report = WarmStart(Path(run), meta["step"], *map(_sorted, (taken, every - {*taken}, left)))
    return state._replace(**made), report


def _extra_tokens(task: Task) -> int:
    tokens = task.spec.vocab_size is not None
    return task.extra_tokens if isinstance(task, Pretraining) and tokens else 0


def _same_head(old: ModelSpec, new: ModelSpec) -> bool:
    return (old.head, old.outputs, old.vocab_size) == (new.head, new.outputs, new.vocab_size)


def _faults(source: Arrays, target: Mapping[str, Array], extra: int) -> list[str]:
    """How the encoders differ."""
    faults = []
    for path in sorted({*source, *target}):
        if not path.startswith(SHARED):
            continue
        if path not in source or path not in target:
            faults.append(f"{path} is only {'there' if path in source else 'here'}")
            continue
        old, new = source[path].shape, target[path].shape
        if path == EMBEDDING:
            old = (old[0] - extra, *old[1:])
        if old != new:
            faults.append(f"{path} is {source[path].shape} there and {new} here")
    return faults


def _placed(value: Array, like: Array) -> Array:
    """The leading rows of a value where `like` lies, on every process's devices."""
    host = np.asarray(value)[: like.shape[0]] if like.ndim else np.asarray(value)
    return jax.make_array_from_callback(like.shape, like.sharding, lambda index: host[index])


def _sorted(paths: object) -> tuple[str, ...]:
    return tuple(sorted(paths))
