"""Model selection: which step's parameters are tested, as the task's protocol says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from seqzoo.train.config import Experiment, TrainConfig


class Best:
    """The best validation result of each replica, and a copy of the parameters it belongs to.

    Of equal results the first counts. A replica that had no finite result yet keeps its newest
    parameters.

    Args:
        replicas: how many.
        higher_is_better: of the results.
        variables: a first copy, on the devices, with the replicas in front; None: none is kept.
    """

    def __init__(
        self, replicas: int, *, higher_is_better: bool, variables: PyTree[Array] | None = None
    ):
        self.steps: list[int | None] = [None] * replicas  # of the best results; None: no finite one
        self.values = np.full(replicas, np.nan)
        self.variables: Any = variables
        self._sign = 1 if higher_is_better else -1
        if variables is not None:
            where = jax.tree.map(lambda x: x.sharding, variables)
            self._pick = jax.jit(_pick, donate_argnums=2, out_shardings=where)

    def offer(
        self, step: int, values: Float[np.ndarray, " S"], variables: PyTree[Array]
    ) -> Bool[np.ndarray, " S"]:
        """Takes the results that are finite and better than all before, and says which."""
        values = np.asarray(values, np.float64)
        empty = np.isnan(self.values)
        better = np.isfinite(values) & (empty | (self._sign * (values - self.values) > 0))
        if self.variables is not None and np.any(better | empty):
            self.variables = self._pick(better | empty, variables, self.variables)
        self.values = np.where(better, values, self.values)
        self.steps = [step if b else s for b, s in zip(better, self.steps, strict=True)]
        return better


def keeps_copy(train: TrainConfig) -> bool:
    """Whether the best parameters are kept beside the state, not in a checkpoint of their own.

    Replicas have their best results at different steps, so each has its part of one copy.
    """
    return train.keep_best and train.replicas > 1


def check_kept(experiment: Experiment) -> None:
    """Raises ValueError where the protocol tests what the run would not keep."""
    if experiment.task.selection == "best" and not experiment.train.keep_best:
        raise ValueError(
            f"{experiment.task.name} is tested at its best validation result (protocol "
            f"{getattr(experiment.task, 'protocol', 'of the task')}), which --no-keep-best would "
            "not keep; leave that out"
        )


def _pick(take: Bool[Array, " S"], new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    def pick(new: Array, old: Array) -> Array:
        return jnp.where(take.reshape(take.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)
