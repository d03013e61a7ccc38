"""One training step and one evaluation step, as pure functions.

    step = make_train_step(task, plan, tx, schedule)
    state, metrics = jax.jit(step, donate_argnums=0)(state, batch, key)            # over a mesh
    states, metrics = jax.jit(jax.vmap(step), donate_argnums=0)(states, batches, keys)   # seeds

A step whose loss or gradient is not finite is skipped: it changes nothing, neither the optimiser's
state nor the count of its steps, and says in which group of parameters. A metric that no example of
a batch counts for is NaN; a loss of none (no labelled position) is a step like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Key, PyTree

from seqzoo.models.backbone import aux_losses
from seqzoo.models.blocks.mixture import routing
from seqzoo.models.mixer import AuxLoss
from seqzoo.tasks.data.positions import by_position
from seqzoo.tasks.task import Task, metric_value
from seqzoo.train.devices.sharding import along_sequence
from seqzoo.train.loop.optimizer import Schedule
from seqzoo.train.loop.state import Arrays, Blueprint, TrainState
from seqzoo.train.loop.stateful import Measured, forward

STOPPED = "stopped"  # of a batch: true at all rows of a replica that changes no more
Batch = Mapping[str, Array]
TrainStep = Callable[[TrainState, Batch, Key[Array, ""]], tuple[TrainState, Arrays]]


class Pass(NamedTuple):
    """One forward and backward pass; sums over microbatches mean what one big batch would."""

    grads: Arrays  # of total + weight * auxiliary losses
    rest: Arrays
    measured: Measured
    aux: Float[Array, ""]  # weight * auxiliary losses
    carry: PyTree


def make_train_step(
    task: Task,
    plan: Blueprint,
    tx: optax.GradientTransformation,
    schedule: Schedule,
    *,
    accumulate: int = 1,
) -> TrainStep:
    """The function (state, batch, key) -> (state, metrics), for jit or vmap.

    The loss is that of `task.measure` plus all auxiliary losses. `key` is the seed's; the draws of
    a step follow from it and the step count. With `accumulate` > 1 the batch is cut into that many
    microbatches whose totals and weights are summed before dividing, so that the gradient is that
    of the whole batch; variables that are not trained see the microbatches in turn, and dropout
    draws anew for each. Metrics are scalars: loss, the task's, grad_norm, lr, weight, skipped,
    nonfinite/<group>, and of mixtures of experts dropped, the share of choices without room.
    """

    def train_step(state: TrainState, batch: Batch, key: Key[Array, ""]):
        batch = dict(batch)
        stopped = batch.pop(STOPPED, None)
        key = jax.random.fold_in(key, state.step)
        run = _forward_backward if accumulate == 1 else _accumulated(accumulate)
        done = run(task, plan, state.params, state.rest, batch, key, state.carry)
        total, weight = done.measured["loss"]
        grads = jax.tree.map(lambda g: _ratio(g, weight), done.grads)
        aux = _ratio(done.aux, weight)
        metrics = {name: metric_value(*pair) for name, pair in done.measured.items()}
        metrics |= task.derived(metrics)
        metrics["loss"] += aux
        if plan.of_kind(AuxLoss):
            metrics["aux_loss"] = aux
        nonfinite = _nonfinite(grads, plan.groups)
        finite_loss = jnp.isfinite(_ratio(total, weight) + aux)
        ok = finite_loss & ~jnp.any(jnp.stack(list(nonfinite.values())))
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, done.rest, opt_state, done.carry)
        metrics |= {f"nonfinite/{group}": bad for group, bad in nonfinite.items()}
        metrics["skipped"] = ~ok
        metrics |= {"grad_norm": optax.tree.norm(grads), "lr": schedule(state.step)}
        metrics["weight"] = weight
        if stopped is not None:
            over = jnp.any(stopped)
            metrics["skipped"] &= ~over
            ok &= ~over
        return jax.tree.map(lambda new, old: jnp.where(ok, new, old), new, state), metrics

    return train_step


def make_eval_step(
    task: Task, plan: Blueprint, chunk: int = 0
) -> Callable[[Arrays, Arrays, Batch], Measured]:
    """The function (params, rest, batch) -> name -> (total, weight), with `examples` counted.

    With `chunk`, rows are streamed, so many tokens at a time.
    """

    def eval_step(params: Arrays, rest: Arrays, batch: Batch) -> Measured:
        model = plan.merge(params, rest)
        batch = along_sequence(batch, _length_axis(task))
        if chunk:
            outputs = model.streamed(batch["inputs"], batch.get("segment_ids"), chunk=chunk)
        else:
            outputs, _ = forward(model, batch, ())
        counted = jnp.sum(batch["weight"])
        measured = {**task.measure(outputs, batch), **by_position(outputs, batch)}
        return {**measured, "examples": (counted, jnp.ones(()))}

    return eval_step


def _forward_backward(
    task: Task,
    plan: Blueprint,
    params: Arrays,
    rest: Arrays,
    batch: Batch,
    key: Array,
    carry: PyTree,
) -> Pass:
    batch = along_sequence(batch, _length_axis(task))

    def objective(params: Arrays) -> tuple[Array, tuple]:
        model = plan.merge(params, rest)
        outputs, after = forward(model, batch, carry, nnx.Rngs(dropout=key))
        measured = {**task.measure(outputs, batch), **routing(model)}
        total, weight = measured["loss"]
        # Weighted like the loss, so that the sum over microbatches is divided once for both.
        aux = jax.lax.stop_gradient(weight) * aux_losses(model)
        return total + aux, (plan.split(model)[1], measured, aux, after)

    grads, (rest, *others) = jax.grad(objective, has_aux=True)(params)
    return Pass(grads, rest, *others)


def _accumulated(count: int) -> Callable[..., Pass]:
    def split(x: Array) -> Array:
        # Microbatch i takes rows i, i + count, ...: rows stay on the device that holds them.
        return jnp.moveaxis(x.reshape(x.shape[0] // count, count, *x.shape[1:]), 1, 0)

    def join(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    def run(task, plan, params, rest, batch, key, carry) -> Pass:
        parts = jax.tree.map(split, (dict(batch), carry))

        def body(going: tuple, index_and_part: tuple) -> tuple:
            rest, sums = going
            index, (part, carry) = index_and_part
            draw = jax.random.fold_in(key, index)
            done = _forward_backward(task, plan, params, rest, part, draw, carry)
            sums = jax.tree.map(jnp.add, sums, done._replace(rest=None, carry=None))
            return (done.rest, sums), done.carry

        first = jax.tree.map(lambda x: x[0], parts)
        shapes = jax.eval_shape(
            lambda rest: _forward_backward(task, plan, params, rest, first[0], key, first[1]), rest
        )
        sums = shapes._replace(rest=None, carry=None)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), sums)
        (rest, sums), carries = jax.lax.scan(body, (rest, zeros), (jnp.arange(count), parts))
        return sums._replace(rest=rest, carry=jax.tree.map(join, carries))

    return run


def _length_axis(task: Task) -> int:
    return 2 if task.spec.head in ("two_tower", "views") else 1


def _nonfinite(grads: Arrays, groups: Mapping[str, str]) -> dict[str, Bool[Array, ""]]:
    """Whether the gradient of each group has a norm that is not finite."""
    return {
        group: ~jnp.isfinite(
            optax.tree.norm([g for path, g in grads.items() if groups[path] == group])
        )
        for group in sorted(set(groups.values()))
    }


def _ratio(total: Array, weight: Array) -> Array:
    return total / jnp.where(weight > 0, weight, 1)
