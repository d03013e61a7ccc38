"""What a model costs, without building it: parameters, state, operations of a training step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree

from seqzoo.models.config import config_of
from seqzoo.models.registry import mixer, resolve
from seqzoo.models.ssm.hippo import unread
from seqzoo.models.whole.build import build_model
from seqzoo.train.config import Experiment
from seqzoo.train.devices.flops import operations
from seqzoo.train.loop.program import Program, replica_keys
from seqzoo.train.loop.speed import training_shapes

MAX_LENGTH = "max_length"  # the option of mixers whose state grows


def cost(experiment: Experiment) -> dict[str, Any]:
    """Parameters and state of a model, without building it. Raises ValueError if it cannot be.

    The state is that of one sequence of the task's length: elements, and bytes in their dtypes.
    """
    options = _at_length(experiment)

    def make() -> nnx.Module:
        return build_model(
            experiment.spec, experiment.model, experiment.backbone, options, rngs=nnx.Rngs(0)
        )

    def state(variables: PyTree) -> PyTree:
        return nnx.merge(graphdef, variables).encoder.init_state(1).inner

    with unread():
        model = nnx.eval_shape(make)
    graphdef, variables = nnx.split(model)
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    elements = int(model.state_size()) or None
    return {
        "parameters": sum(math.prod(p.shape) for p in params),
        "state_size": elements,
        "state_bytes": _bytes(jax.eval_shape(state, variables)) if elements else None,
        "state_growth": model.encoder.state_growth,
    }


def step_flops(program: Program) -> float:
    """Floating-point operations of one training step of one replica.

    Counted on what is traced to be compiled: forward pass, backward pass with what it computes
    again, and optimiser; loops as often as they run. No device changes the number.
    """
    task, train = program.experiment.task, program.experiment.train
    batch = training_shapes(program, task, train.batch_size)
    return operations(program.step, program.like, batch, replica_keys(program.experiment)[1]).total


def _bytes(state: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(state))


def _at_length(experiment: Experiment) -> dict[str, Any]:
    """Mixer options with which a state that grows has the size it has at the task's length."""
    length = experiment.task.spec.length
    options = dict(experiment.mixer)
    for name in resolve(experiment.model).pattern:
        kept = getattr(config_of(mixer(name))(), MAX_LENGTH, None)
        own = options.get(name)
        if kept is None:
            continue
        if isinstance(own, Mapping):
            options[name] = {**own, MAX_LENGTH: min(length, own.get(MAX_LENGTH, kept))}
        else:
            options[MAX_LENGTH] = min(length, options.get(MAX_LENGTH, kept))
    return options
