"""A run that starts from what another one, or a published model, has learned.

What the two models have alike, the encoder (embedding, positions, backbone), is taken; heads are
new, unless both runs have the same kind of output. A pretraining objective's extra token is left
behind. Weights that an adapter holds as they are, are taken like those that go on learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from seqzoo.models.pretrained.adapters import OWN, Held, magnitudes
from seqzoo.train.loop.learned import Learned, learned, same_head
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
    head = same_head(source.spec, program.experiment.task.spec)
    kinds = [kind for kind in ("params", "rest") if getattr(source, kind) is not None]
    held = {path: state.rest[path] for path in program.plan.of_kind(Held)}
    targets = {
        "params": {p: v for p, v in (state.params | held).items() if not OWN.fullmatch(p)},
        "rest": {p: v for p, v in state.rest.items() if p not in held},
    }
    faults = [
        fault for kind in kinds for fault in _faults(getattr(source, kind), targets[kind], source)
    ]
    if faults:
        raise ValueError(
            f"{run} has another encoder than this model, so its parameters cannot be taken: "
            f"{'; '.join(faults[:8])}{' ...' if len(faults) > 8 else ''}. Use the same --model and "
            "--backbone options for both runs"
        )
    every, taken = {**state.params, **state.rest}, []
    for kind in kinds:
        values, target = getattr(source, kind), targets[kind]
        for path in target.keys() & values.keys() - source.new:
            if path.startswith(SHARED) or head:
                every[path] = _placed(values[path], target[path])
                taken.append(path)
    every |= {p: _placed(m, every[p]) for p, m in magnitudes(every.__getitem__, every).items()}
    if lost := sorted(held.keys() - {*taken}):
        raise ValueError(
            f"the adapter holds what {run} does not have for this task: {', '.join(lost[:8])}; let "
            f"it learn: --adapter '{program.experiment.train.adapter},whole=EXPRESSION'"
        )
    left = {*source.params, *(source.rest or ())} - {*taken}
    report = WarmStart(Path(run), source.when, *map(_sorted, (taken, {*every} - {*taken}, left)))
    params, rest = ({p: every[p] for p in part} for part in (state.params, state.rest))
    return state._replace(params=params, rest=rest), report


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
