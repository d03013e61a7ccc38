"""What a configuration compiles to: model, optimiser, mesh, and the functions over them.

With several replicas the same functions are vmapped, or on a CPU called in turn: states and
training batches have the replicas in front, evaluation batches are shared. A replica gives what it
gives alone, up to rounding: the order of summation inside a batched product may differ.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Key, PyTree

from seqzoo.models.ops.layout.sharding import SEQUENCE_AXIS
from seqzoo.models.pretrained.adapters import adapt
from seqzoo.models.whole.build import build_model
from seqzoo.tasks.task import Task
from seqzoo.train.config import Experiment, OptimConfig
from seqzoo.train.devices.backend import run_once
from seqzoo.train.devices.sharding import (
    batch_sharding,
    behind_replicas,
    check_batch,
    check_length,
    make_mesh,
    place_state,
    replica_axis,
    replicated,
)
from seqzoo.train.loop.optimizer import (
    evaluated_weights,
    make_optimizer,
    make_schedule,
    with_numbers,
)
from seqzoo.train.loop.state import (
    Arrays,
    Blueprint,
    ModelFactory,
    TrainState,
    blueprint,
    init_state,
    seed_keys,
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
    rows: NamedSharding  # of training batches
    eval_rows: NamedSharding  # of evaluation batches
    lanes: LaneEvaluation  # evaluation of a task whose rows continue each other
    by_shape: tuple[str, ...]  # parameters that no sharding rule names
    weights: Callable[[TrainState], Arrays]  # that are evaluated: the parameters, or an average

    def given(self, experiment: Experiment) -> Program:
        """What is compiled, for an experiment that has other seeds and numbers of trials alone."""
        step = self.step
        if experiment.swept:
            step = functools.partial(step.func, _numbers(experiment))
        return self._replace(experiment=experiment, step=step)


def mesh_for(
    experiment: Experiment, devices: Sequence[jax.Device] | None = None, length: int = 0
) -> Mesh:
    """The mesh of an experiment. Raises ValueError where devices, batch and rows do not fit."""
    mesh = make_mesh(experiment.mesh, devices)
    check_batch(mesh, experiment.train.batch_size, experiment.train.accumulate)
    check_length(mesh, length or experiment.task.spec.length)
    if experiment.packed_length:
        _check_packed(experiment.task, mesh)
    return mesh


def _check_packed(task: Task, mesh: Mesh) -> None:
    if mesh.shape[SEQUENCE_AXIS] > 1:
        raise ValueError(
            "packed rows stay whole, and the mesh divides rows along their length "
            f"(seq={mesh.shape[SEQUENCE_AXIS]}); choose --mesh.seq 1 or --pack 0"
        )
    if "segment_ids" not in task.source("train")[0]:
        raise ValueError(
            f"the rows of task {task.name} have no padding, so there is nothing to pack; "
            "choose --pack 0"
        )


def make_program(
    experiment: Experiment,
    *,
    make_model: ModelFactory | None = None,
    devices: Sequence[jax.Device] | None = None,
    length: int = 0,
    chunk: int = 0,
) -> Program:
    """The program of an experiment over its mesh of all devices, or of the given ones.

    `length` is that of the rows where it is not the task's; with `chunk` evaluation streams them.
    Raises ValueError for a configuration that cannot be.
    """
    task, train, optim = experiment.task, experiment.train, experiment.optim
    mesh = mesh_for(experiment, devices, length)
    if train.replicas > 1 and train.init_from:
        raise ValueError("replicas start from scratch; fine-tune with --replicas 1, seed by seed")
    make_model = make_model or model_factory(experiment)
    plan = blueprint(make_model)
    tx = make_optimizer(optim, train.steps, plan.groups)
    start = functools.partial(initial_carry, task, lanes=train.batch_size)
    axis = replica_axis(mesh, train.replicas)
    each = _each_of(train.replicas, axis, in_turn=take_turns(mesh))
    init = each(functools.partial(init_state, make_model, plan, tx, start=start))
    shapes = jax.eval_shape(init, replica_keys(experiment)[0])
    whole, eval_rows = replicated(mesh), batch_sharding(mesh)
    rows = behind_replicas(eval_rows, axis) if train.replicas > 1 else eval_rows
    placement = place_state(shapes, mesh, rows, replicas=train.replicas)
    state = placement.shardings
    return Program(
        experiment,
        mesh,
        plan,
        jax.jit(init, out_shardings=state, compiler_options=run_once(mesh)),
        _compiled_step(experiment, plan, mesh, each, state, rows),
        jax.jit(
            _over(mesh, each(make_eval_step(task, plan, chunk), shared=1)),
            in_shardings=(state.params, state.rest, eval_rows),
            out_shardings=whole,
        ),
        jax.tree.map(_with_sharding, shapes, state),
        rows,
        eval_rows,
        _compiled(lane_evaluation(task, plan), each, state, rows, eval_rows),
        placement.by_shape,
        _weights(optim, each),
    )


def _weights(optim: OptimConfig, each: Callable[..., Callable]) -> Callable[[TrainState], Arrays]:
    of = evaluated_weights(optim)
    if of is None:
        return lambda state: state.params
    made = jax.jit(each(of))
    return lambda state: made(state.opt_state, state.params)


def take_turns(mesh: Mesh) -> bool:
    """Whether replicas take their step one after another, inside of one program.

    What one of them computes stays in a CPU's cache then: as fast as side by side or faster but for
    the smallest, in a quarter of the memory (docs/speed.md). Chips have to be filled.
    """
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def _each_of(replicas: int, axis: str | None, in_turn: bool) -> Callable[..., Callable]:
    """What makes a function of one replica one of all; its last `shared` arguments are shared."""

    def each(function: Callable, shared: int = 0) -> Callable:
        if replicas == 1:
            return function

        def call(*args: PyTree) -> PyTree:
            own = len(args) - shared
            if in_turn:
                return jax.lax.map(lambda given: function(*given, *args[own:]), args[:own])
            axes = (0,) * own + (None,) * shared
            return jax.vmap(function, in_axes=axes, spmd_axis_name=axis)(*args)

        return call

    return each


def _step_with(experiment: Experiment, plan: Blueprint, numbers: Arrays) -> TrainStep:
    """A training step with some numbers of the optimiser in place of the configuration's."""
    train, optim = experiment.train, with_numbers(experiment.optim, numbers)
    tx = make_optimizer(optim, train.steps, plan.groups)
    schedule = make_schedule(optim, train.steps)
    return make_train_step(experiment.task, plan, tx, schedule, accumulate=train.accumulate)


def _compiled_step(
    experiment: Experiment,
    plan: Blueprint,
    mesh: Mesh,
    each: Callable[..., Callable],
    state: TrainState,
    rows: NamedSharding,
) -> TrainStep:
    """A training step; the numbers of trials are not of its program, which they are given."""
    whole = replicated(mesh)

    def compiled(step: Callable, *first: NamedSharding) -> Callable:
        return jax.jit(
            _over(mesh, each(step)),
            in_shardings=(*first, state, rows, whole),
            out_shardings=(state, whole),
            donate_argnums=len(first),
        )

    if not experiment.swept:
        return compiled(_step_with(experiment, plan, {}))

    def step(numbers: Arrays, *args: PyTree) -> PyTree:
        return _step_with(experiment, plan, numbers)(*args)

    return functools.partial(compiled(step, whole), _numbers(experiment))


def _numbers(experiment: Experiment) -> dict[str, np.ndarray]:
    """What is swept, for every replica."""
    seeds = experiment.train.replicas // experiment.trials
    dtype = jnp.result_type(float)
    return {n: np.repeat(np.asarray(v, dtype), seeds) for n, v in experiment.swept.items()}


def replica_keys(experiment: Experiment) -> tuple[Key[Array, "*S"], Key[Array, "*S"]]:
    """`seed_keys` of the run's seed, or of the seeds of its replicas in front of each other."""
    if experiment.train.replicas == 1:
        return seed_keys(experiment.train.seed)
    first, steps = zip(*map(seed_keys, experiment.seeds), strict=True)
    return jnp.stack(first), jnp.stack(steps)


def _compiled(
    lanes: LaneEvaluation,
    each: Callable[..., Callable],
    state: TrainState,
    rows: NamedSharding,
    eval_rows: NamedSharding,
) -> LaneEvaluation:
    inputs = (state.params, state.rest)

    def start(params: Arrays, rest: Arrays, count: int) -> PyTree:
        return each(functools.partial(lanes.start, lanes=count))(params, rest)

    return LaneEvaluation(
        jax.jit(start, static_argnums=2, in_shardings=inputs, out_shardings=rows),
        jax.jit(
            each(lanes.step, shared=1),
            in_shardings=(*inputs, rows, eval_rows),
            out_shardings=(replicated(eval_rows.mesh), rows),
            donate_argnums=2,
        ),
    )


def model_factory(experiment: Experiment) -> ModelFactory:
    """What builds the experiment's model from random streams."""

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        model = build_model(
            experiment.spec,
            experiment.model,
            experiment.backbone,
            experiment.mixer,
            rngs=rngs,
        )
        if experiment.train.adapter:
            adapt(model, experiment.train.adapter, rngs=rngs)
        return model

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
