"""The walk over chunks as a kernel, in Pallas' interpreter, against the walk; what has none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models import ops
from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.matrix import chunk_kernel
from seqzoo.models.ops.matrix.decayed_pairs import Reader, decayed_pairs, prepared
from seqzoo.models.ops.matrix.on_chip import Decay
from tests.helpers import assert_close, assert_trees_close

H, K, V = 2, 8, 4
# Borders of segments inside and at those of chunks; padding within, behind and in all of a chunk.
IDS = np.array([[0] * 3 + [1] * 13 + [0] * 4 + [2] * 20, [1] * 9 + [3] * 5 + [4] * 3 + [0] * 23])


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    monkeypatch.setitem(chunk_kernel.KERNELS, "interpreted", True)
    monkeypatch.setattr(chunk_kernel, "WIDTHS", (V, K, 64))


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def draw(groups=H, length=40):
    q, k = normal(0, 2, length, groups, K), unit(normal(1, 2, length, groups, K))
    return q, k, normal(2, 2, length, H, V)


def log_decays(width, rows=2):
    return -np.exp(normal(3, rows, 40, H, width))


def linear(g, groups=H, **options):
    return ops.gated_linear_attention, (*draw(groups), g, normal(4, 2, H, K, V)), options


def delta(g):
    q, k, v = draw()
    beta = 1 / (1 + np.exp(normal(5, 2, 40, H)))
    return ops.gated_delta_rule, (q, k, v, beta, g, normal(4, 2, H, K, V)), {}


def dplr(g):
    q, k, v = draw()
    return ops.dplr_delta_rule, (q, k, v, -k, k * unit(normal(5, 2, 40, H, 2))[..., :1], g), {}


CASES = {
    "linear": lambda: linear(None),
    "linear of groups, a decay a head": lambda: linear(log_decays(1), groups=1),
    "linear, a decay a head, of all rows": lambda: linear(log_decays(1, rows=1)),
    "linear, a decay a channel": lambda: linear(log_decays(K)),
    "linear, read before": lambda: linear(log_decays(K), read_before=True),
    "linear of groups, a decay a channel": lambda: linear(log_decays(K), groups=1),
    "linear, read before, a decay a head": lambda: linear(log_decays(1), read_before=True),
    "delta rule, a decay a head": lambda: delta(log_decays(1)),
    "delta rule, a decay a channel": lambda: delta(log_decays(K)),
    "dplr, a decay a channel": lambda: dplr(log_decays(K)),
    "dplr, a decay a head": lambda: dplr(log_decays(1)),
}
SOME = (
    "linear, a decay a head, of all rows",
    "delta rule, a decay a head",
    "dplr, a decay a channel",
)
VARIANTS = [
    *((name, IDS, jnp.float32, 1e-6) for name in CASES),
    *((name, None, jnp.float32, 1e-6) for name in SOME),
    *((name, IDS, jnp.bfloat16, 5e-3) for name in SOME),
]


def gradients(op, arrays, options, ids, form):
    """Of a scalar of outputs and last state, and those; and whether a kernel made them."""

    def loss(arrays):
        o, s = op(*arrays, segment_ids=ids, chunk_size=16, **options)
        return jnp.sum(jnp.sin(o).astype(jnp.float32)) + jnp.sum(jnp.cos(s)), (o, s)

    with forms.forced("chunks", form):
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(arrays)
        return lowered.compile()(arrays), "pallas_call" in lowered.as_text(debug_info=True)


@pytest.mark.of_the_day
@pytest.mark.parametrize(("name", "ids", "dtype", "ratio"), VARIANTS)
def test_a_kernel_equals_the_walk(name, ids, dtype, ratio):
    op, arrays, options = CASES[name]()
    arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), arrays)
    expected, _ = gradients(op, arrays, options, ids, "walk")
    actual, in_kernels = gradients(op, arrays, options, ids, "interpreted")
    assert in_kernels
    assert_trees_close(actual, expected, ratio=ratio)


@pytest.mark.parametrize("width", [1, K])
def test_pairs_of_a_head_are_those_of_all(width):
    readers = [(normal(0, 32, K), True, False), (normal(1, 32, K), False, width == K)]
    writers, g = [normal(2, 32, K), normal(3, 32, K)], -np.exp(normal(4, 32, width)) / 8

    @jax.jit
    def both(g):
        def leaves(lead, decay):
            add = [Reader(jnp.asarray(x)[lead], *how) for x, *how in readers]
            pairs = decayed_pairs(add, [jnp.asarray(y)[lead] for y in writers], decay)
            return jax.tree.leaves(pairs)

        of_all = [x[0, 0] for x in leaves((None, None), prepared(g[None, None]))]
        return leaves((), Decay(g)), of_all

    for actual, desired in zip(*both(g), strict=True):
        assert_close(actual, desired, ratio=1e-6)


@pytest.mark.every_case
@pytest.mark.parametrize("chunk", [8, 12])
def test_chunks_that_no_kernel_has_are_walked(chunk):
    op, arrays, options = CASES["linear"]()

    def run(arrays):
        return op(*arrays, chunk_size=chunk, **options)

    with forms.forced("chunks", "interpreted"):
        assert "pallas_call" not in jax.jit(run).lower(arrays).as_text(debug_info=True)


@pytest.mark.parametrize("precision", [None, "high"])
def test_a_tpu_has_two_kernels(precision):
    x = jax.ShapeDtypeStruct((1, 64, 2, 64), jnp.bfloat16)

    def loss(q, k, v, a, b, g):
        return ops.dplr_delta_rule(q, k, v, a, b, g, chunk_size=16)[0].astype(jnp.float32).sum()

    with jax.default_matmul_precision(precision):
        lowered = jax.jit(jax.grad(loss)).trace(*[x] * 6).lower(lowering_platforms=("tpu",))
    text = lowered.as_text()
    assert text.count("@tpu_custom_call") == 2
    assert "stablehlo.while" not in text


@pytest.mark.slow
def test_devices_walk_their_own_rows():
    op, arrays, options = CASES["linear, a decay a channel"]()
    expected, _ = gradients(op, arrays, options, IDS, "walk")
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        arrays = jax.device_put(arrays, jax.NamedSharding(mesh, jax.P("data")))
        actual, in_kernels = gradients(op, arrays, options, IDS, "interpreted")
    assert in_kernels
    assert_trees_close(actual, expected, ratio=1e-6)
