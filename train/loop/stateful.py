"""State carried from batch to batch: truncated back-propagation through a long text.

A stateful task's rows continue each other, lane by lane (`data._Lanes`). The model's stream state
lies in `TrainState.carry`, so that it is saved and restored with everything else; each step starts
from it, forgets it in rows that `fresh` marks, and gradients stop at it. A carry of () means none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from seqzoo.models.ops.layout.packed import Packed
from seqzoo.tasks.data.positions import by_position
from seqzoo.tasks.data.shared_rows import PACKED
from seqzoo.tasks.task import Task
from seqzoo.train.loop.state import Arrays, Blueprint

Measured = dict[str, tuple[Array, Array]]


def forward(
    model: nnx.Module, batch: Mapping[str, Array], carry: PyTree, rngs: nnx.Rngs | None = None
) -> tuple[Array, PyTree]:
    """Outputs and the carry after them; a model that carries nothing is called as a whole."""
    ids = batch.get("segment_ids")
    if not jax.tree.leaves(carry):
        packed = {"packed": Packed(*map(batch.get, PACKED))} if PACKED[0] in batch else {}
        return model(batch["inputs"], ids, rngs=rngs, **packed), carry
    if "fresh" in batch:
        carry = _forget(batch["fresh"], model.init_state(len(batch["fresh"])), carry)
    return model.extend(batch["inputs"], carry, ids, rngs=rngs)


def initial_carry(task: Task, model: nnx.Module, lanes: int) -> PyTree:
    """The state before the first batch of `lanes` rows, () for a task without state.

    Raises ValueError for a model whose state grows with every token, or that looks both ways.
    """
    if not task.stateful:
        return ()
    if model.state_growth == "linear":
        raise ValueError(
            "a state that is carried through a text must not grow with it; give attention a "
            "window, choose another mixer, or train on rows='windows'"
        )
    return model.init_state(lanes)


class LaneEvaluation(NamedTuple):
    """Evaluation that carries state from batch to batch."""

    start: Callable[[Arrays, Arrays, int], PyTree]  # params, rest, lanes -> carry
    step: Callable[..., tuple[Measured, PyTree]]  # params, rest, carry, batch


def lane_evaluation(task: Task, plan: Blueprint) -> LaneEvaluation:
    """The pure functions of an evaluation in lanes."""

    def start(params: Arrays, rest: Arrays, lanes: int) -> PyTree:
        return initial_carry(task, plan.merge(params, rest), lanes)

    def step(params: Arrays, rest: Arrays, carry: PyTree, batch: Mapping[str, Array]):
        outputs, carry = forward(plan.merge(params, rest), batch, carry)
        examples = jnp.sum(batch["weight"]), jnp.ones(())
        measured = {**task.measure(outputs, batch), **by_position(outputs, batch)}
        return {**measured, "examples": examples}, carry

    return LaneEvaluation(start, step)


def _forget(rows: Array, new: PyTree, old: PyTree) -> PyTree:
    def pick(new: Array, old: Array) -> Array:
        return jnp.where(rows.reshape(rows.shape + (1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)
