"""Recurrent nets compiled for an H100 that is not here, by XLA, Triton and ptxas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build
from seqzoo.train.plan.compiled import launches_of
from seqzoo.train.plan.hlo import Module
from seqzoo.train.plan.topology import Plan, devices_of, has_cuda_compiler


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "slstm"])
def test_a_layer_is_a_few_launches_whatever_its_length(name):
    if not has_cuda_compiler():
        pytest.skip("needs the extra plan-gpu")
    mesh = jax.sharding.Mesh(np.array(devices_of(Plan(topology="h100:1"))), ("x",))
    here = jax.NamedSharding(mesh, jax.P())
    module = nnx.eval_shape(lambda: build(name, 128, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))
    graph, state = nnx.split(module)

    def loss(state, x):
        return jnp.sum(nnx.merge(graph, state)(x).astype(jnp.float32) ** 2)

    def placed(a):
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=here)

    x = jax.ShapeDtypeStruct((4, 256, 128), jnp.bfloat16)
    with jax.set_mesh(mesh):  # its devices can compute nothing here
        lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*jax.tree.map(placed, (state, x)))
    program = lowered.compile()
    assert launches_of(Module(program.as_text()))["launches"] < 80
