"""Model selection: which step's parameters are tested, as the task's protocol says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree


class Best:
    """The parameters of each seed at its best validation result, one copy on the devices.

    Of equal results the first counts. A seed that had no finite result yet keeps its newest
    parameters.
    """

    def __init__(self, seeds: int, *, higher_is_better: bool):
        self.steps: list[int | None] = [None] * seeds  # of the best results; None: no finite one
        self.variables: Any = None  # leaves with the seeds in front; None before the first offer
        self._sign = 1 if higher_is_better else -1
        self._values = np.full(seeds, -np.inf)

    def offer(
        self, step: int, values: Float[np.ndarray, "seeds"], variables: PyTree[Array]
    ) -> None:
        """Takes the variables of the seeds whose value is finite and better than all before."""
        values = self._sign * np.asarray(values, np.float64)
        better = np.isfinite(values) & (values > self._values)
        if self.variables is None:
            # A copy, as the next training step is given these buffers to write over.
            self.variables = jax.tree.map(jnp.copy, variables)
            where = jax.tree.map(lambda x: x.sharding, variables)
            self._pick = jax.jit(_pick, donate_argnums=2, out_shardings=where)
        else:
            empty = np.array([s is None for s in self.steps])
            self.variables = self._pick(better | empty, variables, self.variables)
        self._values = np.where(better, values, self._values)
        self.steps = [step if b else s for b, s in zip(better, self.steps, strict=True)]


def _pick(take: Bool[Array, "seeds"], new: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    def pick(new: Array, old: Array) -> Array:
        return jnp.where(take.reshape(take.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)
