"""Ops on sequences that are divided over devices, against the same call on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from seqzoo.models import ops
from seqzoo.models.attention.patterns import BlockPattern
from seqzoo.models.ops import linear_scan
from seqzoo.models.ops.layout.segments import as_segments
from seqzoo.models.ops.softmax import block_sparse
from seqzoo.models.ops.softmax.local_blocks import all_blocks, near_blocks, weights
from seqzoo.models.ops.softmax.packed_blocks import segment_blocks
from seqzoo.train.plan.hlo import Module
from tests.helpers import assert_trees_close
from tests.models.ops.calls import CALLS, IDS, B, D, L, normal, qkv

NORMAL = np.random.default_rng(0).normal(size=(8, B, L, D)).astype(np.float32)


def mesh_of(**axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def divided(mesh, f, *args):
    """f(*args) compiled for a mesh, rows of L divided along it."""

    def call(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return f(*args)

    def place(x):
        rows = np.ndim(x) > 1 and x.shape[:2] == (B, L)
        return NamedSharding(mesh, P("data", "seq") if rows else P())

    shardings = jax.tree.map(place, args)
    outputs = jax.tree.map(place, jax.eval_shape(f, *args))
    return jax.jit(call, in_shardings=shardings, out_shardings=outputs).lower(*args).compile()


def agrees(mesh, f, *args):
    """Values and gradients of all floating arguments, on the mesh and on one device."""

    def both(*args):
        y, pull = jax.vjp(f, *args)
        weights = jax.tree.map(lambda y: jnp.cos(jnp.arange(y.size, dtype=y.dtype)), y)
        return y, pull(jax.tree.map(lambda w, y: w.reshape(y.shape), weights, y))

    compiled = divided(mesh, both, *args)
    assert_trees_close(compiled(*args), jax.jit(both)(*args), ratio=1e-5)
    return compiled


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("ids", [None, IDS], ids=["whole", "packed"])
def test_linear_scan(reverse, ids):
    a = np.tanh(np.abs(NORMAL[0]))
    f = functools.partial(linear_scan, reverse=reverse, segment_ids=ids)
    agrees(mesh_of(data=2, seq=4), f, a, NORMAL[1], NORMAL[2, :, 0])


def test_linear_scan_of_a_constant_decay():
    a = np.tanh(NORMAL[0, 0, :1] + 1j * NORMAL[3, 0, :1]) / 2
    agrees(mesh_of(data=1, seq=8), linear_scan, a, NORMAL[1] + 1j * NORMAL[2])


# Much of what others show.
SLOW = ("dplr_delta_rule", "dense_ssm", "log_linear_delta_rule", "block_scan")


@pytest.mark.parametrize(
    "op", [pytest.param(op, marks=[pytest.mark.slow] if op in SLOW else []) for op in CALLS]
)
def test_packed_rows(op):
    """Segments that cross the borders of the parts go on, others end, padding is passed over."""

    def real(*args):
        def hide(y):
            rows = y.shape[:2] == (B, L)
            real = (IDS > 0).reshape(B, L, *(1,) * (y.ndim - 2)) if rows else True
            return jnp.where(real, y, 0)

        return jax.tree.map(hide, CALLS[op][0](IDS, *args))

    agrees(mesh_of(data=2, seq=4), real, *CALLS[op][1:])


@pytest.mark.parametrize("causal", [True, False])
def test_a_window_asks_the_neighbours(causal):
    def window(q, k, v):
        return ops.attention(q, k, v, causal=causal, window=6)

    compiled = agrees(mesh_of(data=2, seq=4), window, *qkv(1))
    kinds = {c.kind for c in Module(compiled.as_text()).collectives()}
    assert kinds == {"collective-permute"}


def test_a_length_that_the_axis_does_not_divide_is_left_to_the_compiler():
    x, kernel = normal(0, B, 30, D), normal(1, 3, D)
    agrees(mesh_of(data=2, seq=4), lambda x, k: ops.short_conv(x, k), x, kernel)


@pytest.mark.parametrize("ahead", [False, True])
def test_blocks_ask_the_neighbours(ahead):
    def step(carry, queries, keys):
        return carry, weights(jnp.einsum("BCK,BSK->BCS", queries, keys), True, "relu") @ keys

    def near(q, k):
        return near_blocks(step, None, q, k, size=4, back=2, ahead=ahead)[1]

    compiled = agrees(mesh_of(data=2, seq=4), near, NORMAL[0], NORMAL[1])
    assert {c.kind for c in Module(compiled.as_text()).collectives()} == {"collective-permute"}


def test_all_blocks_gather_the_keys():
    def run(queries, keys):
        (q, at), (k, k_at) = queries, keys
        seen = at[:, :, None] >= k_at[:, None]
        return weights(jnp.einsum("BCK,BSK->BCS", q, k), seen, "softmax") @ k

    def every(q, k):
        at = jnp.broadcast_to(jnp.arange(L), (B, L))
        return all_blocks(run, (q, at), (k, at), size=4, causal=True)

    agrees(mesh_of(data=2, seq=4), every, NORMAL[0], NORMAL[1])


def test_an_fft_stays_where_its_rows_are():
    compiled = divided(mesh_of(data=4, seq=1), ops.fft_conv, normal(0, B, L, 8), normal(1, L, 8))
    assert Module(compiled.as_text()).collectives() == []


def test_an_fft_exchanges_tokens_for_channels():
    args = normal(0, B, L, 8), normal(1, L, 8)
    compiled = agrees(mesh_of(data=2, seq=2, tensor=2), ops.fft_conv, *args)
    assert "all-to-all" in {c.kind for c in Module(compiled.as_text()).collectives()}


@pytest.mark.of_the_day
@pytest.mark.parametrize("block", [4, 3], ids=["whole blocks", "cut blocks"])
def test_flash_passes_its_sum_on(block):
    """Rows without padding, whose blocks are chunks."""
    from seqzoo.models import Flash

    mixer = Flash(D, d_qk=4, block_size=block, rngs=nnx.Rngs(0))
    graphdef, params = nnx.split(mixer)
    agrees(mesh_of(data=2, seq=4), lambda p, x: nnx.merge(graphdef, p)(x), params, NORMAL[0])


OTHERS = [pytest.param(x, marks=pytest.mark.slow) for x in ({"compressive": False}, {"memory": 3})]


@pytest.mark.of_the_day(days=3)
@pytest.mark.parametrize("options", [{}, *OTHERS], ids=str)
def test_groups_of_keys_are_passed_on(options):
    """Transformer-VQ over rows without padding: what is gathered is a sum for each part."""
    from seqzoo.models import TransformerVQ

    sizes = {"num_heads": 2, "num_codes": 3, "block_size": 2, "memory": 2}
    mixer = TransformerVQ(D, **(sizes | options), rngs=nnx.Rngs(0))
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)

    def run(params, x):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    compiled = agrees(mesh_of(data=2, seq=4), run, params, NORMAL[0])
    rows, others, groups = B // 2, 3, 2 * 3 * mixer.d_value
    for sent in Module(compiled.as_text()).collectives():
        assert sent.kind in ("all-gather", "all-reduce", "collective-permute")
        assert sent.times == 1
        assert sent.kind != "all-gather" or sent.sent <= 4 * others * rows * groups


@pytest.mark.parametrize("ids", [None, IDS], ids=["whole", "packed"])
@pytest.mark.parametrize("pattern", ["near", "both ways", "anywhere"])
def test_named_blocks(pattern, ids, monkeypatch):
    """Keys are sent before the loop over groups of blocks, and of near blocks only the next ones.

    Packed tokens move to blocks and back, as whole rows, once.
    """
    monkeypatch.setattr(block_sparse, "GROUP", 2)
    random = {"first": True, "num_random": 1} if pattern == "anywhere" else {}
    made = BlockPattern(size=2, back=1, causal=pattern != "both ways", **random)
    layout = as_segments(ids, L)

    def run(q, k, v):
        blocks = segment_blocks(layout, B, L, made.size)
        rows = (blocks.pack(a) for a in (q, k, v))
        o = block_sparse.attend_blocks(*rows, blocks, made.table, made.sees, 1.0, near=made.near)
        y = blocks.unpack(block_sparse.join([o]), L)
        return y if ids is None else jnp.where((ids > 0)[..., None, None], y, 0)

    compiled = agrees(mesh_of(data=2, seq=4), run, *qkv(1))
    sent = Module(compiled.as_text()).collectives()
    assert all(c.times == 1 for c in sent)
    if ids is None and pattern != "anywhere":
        assert {c.kind for c in sent} == {"collective-permute"}
