"""What a configuration compiles to: model, optimiser, mesh, and the functions over them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Key, PyTree

from seqzoo.models.heads import build_model
from seqzoo.train.config import Experiment
from seqzoo.train.devices.sharding import (
    batch_sharding,
    check_batch,
    check_length,
    make_mesh,
    place_state,
    replicated,
)
from seqzoo.train.loop.optimizer import make_optimizer, make_schedule
from seqzoo.train.loop.state import (
    Arrays,
    Blueprint,
    ModelFactory,
    TrainState,
    blueprint,
    init_state,
)
from seqzoo.train.loop.stateful import LaneEvaluation, initial_carry, lane_evaluation
from seqzoo.train.loop.step import Measured, TrainStep, make_eval_step, make_train_step


class Program(NamedTuple):
    """The compiled side of an experiment; functions compile at their first call."""

    experiment: Experiment
    mesh: Mesh
    plan: Blueprint
    init: Callable[[Key[Array, ""]], TrainState]  # born sharded
    step: TrainStep  # donates the state
    evaluate: Callable[[Arrays, Arrays, PyTree], Measured]
    like: TrainState  # shapes, dtypes and shardings of the state
    rows: NamedSharding  # of batches
    lanes: LaneEvaluation  # evaluation of a task whose rows continue each other
    by_shape: tuple[str, ...]  # parameters that no sharding rule names


def make_program(
    experiment: Experiment,
    *,
    make_model: ModelFactory | None = None,
    devices: Sequence[jax.Device] | None = None,
    length: int = 0,
) -> Program:
    """The program of an experiment over its mesh of all devices, or of the given ones.

    `length` is that of the rows where it is not the task's. Raises ValueError for a configuration
    that cannot be.
    """
    task, train, optim = experiment.task, experiment.train, experiment.optim
    mesh = make_mesh(experiment.mesh, devices)
    check_batch(mesh, train.batch_size, train.accumulate)
    check_length(mesh, length or task.spec.length)
    make_model = make_model or model_factory(experiment)
    plan = blueprint(make_model)
    tx = make_optimizer(optim, train.steps, plan.groups)
    schedule = make_schedule(optim, train.steps)
    start = functools.partial(initial_carry, task, lanes=train.batch_size)
    init = functools.partial(init_state, make_model, plan, tx, start=start)
    shapes = jax.eval_shape(init, jax.random.key(0))
    whole, rows = replicated(mesh), batch_sharding(mesh)
    placement = place_state(shapes, mesh, rows)
    step = _over(mesh, make_train_step(task, plan, tx, schedule, accumulate=train.accumulate))
    state = placement.shardings
    return Program(
        experiment,
        mesh,
        plan,
        jax.jit(init, out_shardings=state),
        jax.jit(
            step, in_shardings=(state, rows, whole), out_shardings=(state, whole), donate_argnums=0
        ),
        jax.jit(
            _over(mesh, make_eval_step(task, plan)),
            in_shardings=(state.params, state.rest, rows),
            out_shardings=whole,
        ),
        jax.tree.map(_with_sharding, shapes, state),
        rows,
        _compiled(lane_evaluation(task, plan), state, rows, whole),
        placement.by_shape,
    )


def _compiled(
    lanes: LaneEvaluation, state: TrainState, rows: NamedSharding, whole: NamedSharding
) -> LaneEvaluation:
    inputs = (state.params, state.rest)
    return LaneEvaluation(
        jax.jit(lanes.start, static_argnums=2, in_shardings=inputs, out_shardings=rows),
        jax.jit(
            lanes.step,
            in_shardings=(*inputs, rows, rows),
            out_shardings=(whole, rows),
            donate_argnums=2,
        ),
    )


def model_factory(experiment: Experiment) -> ModelFactory:
    """What builds the experiment's model from random streams."""

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return build_model(
            experiment.task.spec,
            experiment.model,
            experiment.backbone,
            experiment.mixer,
            rngs=rngs,
        )

    return make_model


def count_parameters(params: Arrays) -> int:
    """Trained numbers."""
    return sum(int(np.prod(p.shape)) for p in params.values())


def digest(params: Arrays) -> str:
    """sha256 over path, dtype, shape and bytes of every parameter, in the order of the paths."""
    total = hashlib.sha256()
    for path in sorted(params):
        value = np.ascontiguousarray(params[path])
        total.update(f"{path} {value.dtype} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def _over(mesh: Mesh, function: Callable) -> Callable:
    """The function with the mesh as the ambient one, which the layers ask."""

    @functools.wraps(function)
    def call(*args: PyTree) -> PyTree:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return call


def _with_sharding(shape: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
