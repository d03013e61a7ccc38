"""The selective scan's kernel, in Pallas' interpreter, against the loop; what has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.scan import selective, selective_kernel, selective_tpu
from seqzoo.models.ops.scan.selective import selective_scan
from tests.helpers import assert_trees_close

IDS = np.array([[0, 0, 1, 1, 0, 1, 2, 2, 2], [3, 3, 1, 1, 1, 2, 0, 2, 0]])


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    for name, module in (("interpreted", selective_kernel), ("for TPUs", selective_tpu)):
        monkeypatch.setitem(selective.KERNELS, name, selective.Kernel(module, True))


def draw(dtype=jnp.float32, *, width=32, states=4, rows=2, length=9):
    rng = np.random.default_rng(width)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    tokens = rows, length
    return {
        "u": normal(*tokens, width),
        "dt": jnp.exp(normal(*tokens, width) - 1),
        "A": -jnp.exp(normal(width, states)),
        "B": normal(*tokens, states),
        "C": normal(*tokens, states),
        "D": normal(width),
        "h0": normal(rows, width, states),
    }


def gradients(arguments, ids, form, chunk=4):
    """Of a scalar of outputs and last state, and those; and whether a kernel made them."""

    def loss(arguments):
        y, h = selective_scan(**arguments, segment_ids=ids, chunk_size=chunk)
        return jnp.sum(jnp.sin(y).astype(jnp.float32)) + jnp.sum(jnp.cos(h)), (y, h)

    with forms.forced("selective_scan", form):
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(arguments)
        return lowered.compile()(arguments), "pallas_call" in lowered.as_text(debug_info=True)


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("ids", "dtype", "ratio"),
    [(None, jnp.float32, 5e-6), (IDS, jnp.float32, 5e-6), (IDS, jnp.bfloat16, 2e-3)],
)
def test_a_kernel_equals_the_loop(ids, dtype, ratio):
    arguments = draw(dtype)
    expected, _ = gradients(arguments, ids, "sequential")
    actual, in_kernels = gradients(arguments, ids, "interpreted")
    assert in_kernels
    assert_trees_close(actual, expected, ratio=ratio)


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("packed", "dtype", "ratio"),
    [(False, jnp.float32, 5e-6), (True, jnp.float32, 5e-6), (True, jnp.bfloat16, 2e-3)],
)
def test_the_kernel_for_tpus_equals_the_loop(packed, dtype, ratio):
    length = 150  # two blocks, the second not whole
    ids = np.repeat([[0, 1, 1, 2, 2, 0, 3, 3, 0, 0]], 15, axis=1) if packed else None
    arguments = draw(dtype, width=128, states=8, rows=1, length=length)
    expected, _ = gradients(arguments, ids, "sequential", 16)
    actual, in_kernels = gradients(arguments, ids, "for TPUs", 16)
    assert in_kernels
    assert_trees_close(actual, expected, ratio=ratio)


@pytest.mark.every_case
@pytest.mark.parametrize("sizes", [{"width": 24}, {"states": 3}])
def test_sizes_that_no_program_has_take_the_prefix(sizes):
    _, in_kernels = gradients(draw(**sizes), None, "interpreted")
    assert not in_kernels


@pytest.mark.slow
def test_devices_scan_their_own_rows():
    arguments = draw(rows=4)
    expected, _ = gradients(arguments, None, "sequential")
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        shared = {"A": jax.P(), "D": jax.P()}
        arguments = {
            k: jax.device_put(v, jax.NamedSharding(mesh, shared.get(k, jax.P("data"))))
            for k, v in arguments.items()
        }
        actual, in_kernels = gradients(arguments, None, "interpreted")
    assert in_kernels
    assert_trees_close(actual, expected, ratio=5e-6)


def test_a_gpu_has_two_kernels():
    shapes = jax.eval_shape(lambda: draw(width=64))
    traced = jax.jit(jax.grad(lambda a: selective_scan(**a)[0].sum())).trace(shapes)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("@__gpu$xla.gpu.triton") == 2
    assert "stablehlo.while" not in text
