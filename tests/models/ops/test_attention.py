"""Attention against a loop over queries: dense and in blocks, outputs and gradients."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout.segments import segments
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.train.config import MeshConfig
from seqzoo.train.devices.sharding import make_mesh
from tests.helpers import assert_close, x64
from tests.references import attention as reference

LENGTHS = {"dense": 23, "blocks": 530}  # 530: three blocks on CPU, the last padded
BATCH, HEADS, KEY_HEADS, WIDTH, VALUES = 2, 4, 2, 4, 3


def draw(length, keys=None, seed=0, batch=BATCH):
    rng = np.random.default_rng(seed)
    keys = keys or length
    q = rng.normal(size=(batch, length, HEADS, WIDTH))
    k = rng.normal(size=(batch, keys, KEY_HEADS, WIDTH))
    v = rng.normal(size=(batch, keys, KEY_HEADS, VALUES))
    return q, k, v, rng.normal(size=(batch, length, HEADS, VALUES))


def packed_ids(length):
    """Padding left, inside and right; a repeated id; borders that are not those of blocks."""
    parts = np.array([[2, 5, 3, 8, 5], [6, 6, 1, 4, 6]]) * length // 23
    names = [[0, 1, 0, 1, 2], [3, 7, 0, 3, 0]]
    ids = np.zeros((BATCH, length), int)
    for row, sizes, name in zip(ids, parts, names, strict=True):
        row[: sizes.sum()] = np.repeat(name, sizes)
    return ids


def compare(arrays, bias=None, ratio=1e-12, reference_options=None, real=None, **options):
    """Outputs and gradients of one call against the reference."""
    q, k, v, cotangent = arrays
    if real is not None:
        cotangent = cotangent * real[..., None, None]
    want, want_grads = reference.attention(
        q,
        k,
        v,
        cotangent,
        bias=0.0 if bias is None else bias,
        **(options if reference_options is None else reference_options),
    )

    @jax.jit
    def both(q, k, v, bias):
        o, pull = jax.vjp(lambda *a: attention(*a[:3], bias=a[3], **options), q, k, v, bias)
        return o, pull(jnp.asarray(cotangent))

    with x64():
        o, grads = both(q, k, v, bias)
    assert o.dtype == np.float64
    assert np.all(np.isfinite(o))
    real = np.ones(q.shape[:2], bool) if real is None else real
    assert_close(np.asarray(o)[real], want[real], ratio=ratio, what="o")
    for name, grad, want_grad in zip("qkv", grads, want_grads, strict=False):
        assert_close(grad, want_grad, ratio=ratio, what=f"d{name}")
    if bias is not None:
        axes = tuple(a for a in range(4) if bias.shape[a] == 1)
        assert_close(grads[3], want_grads[3].sum(axes, keepdims=True), ratio=ratio, what="dbias")


@pytest.mark.parametrize("form", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 7])
def test_equals_reference(form, causal, window):
    compare(draw(LENGTHS[form], batch=1), causal=causal, window=window, scale=0.7)


@pytest.mark.parametrize("window", [None, 40])
def test_long_rows(monkeypatch, window):
    blockwise = importlib.import_module("seqzoo.models.ops.softmax.blockwise")
    monkeypatch.setitem(blockwise.BLOCKS, "small blocks", 64)
    plans, plan = [], blockwise._plan
    monkeypatch.setattr(blockwise, "_plan", lambda *a: plans.append(plan(*a)) or plans[-1])
    compare(draw(517, batch=1), causal=True, window=window)
    sizes = {(made.block_q, made.block_k) for made in plans if made.most == 64}
    assert sizes == {(64, 104 if window is None else 64)}


@pytest.mark.of_the_day("halves")
def test_one_row_goes_whole_and_two_in_halves():
    compare(draw(LENGTHS["blocks"]), causal=True)

    def products(batch):
        q, k, v, _ = draw(LENGTHS["blocks"], batch=batch)
        text = jax.jit(lambda *a: attention(*a, causal=True)).lower(q, k, v).as_text()
        return text.count("stablehlo.dot_general")

    assert products(2) == 2 * products(1)
    with jax.set_mesh(make_mesh(MeshConfig(data=8))):
        assert products(2) == products(1)


@pytest.mark.parametrize("form", LENGTHS)
def test_other_number_of_keys(form):
    compare(draw(LENGTHS[form], keys=LENGTHS[form] // 2, batch=1))


@pytest.mark.parametrize("form", LENGTHS)
@pytest.mark.parametrize("shape", ["full", "keys"])
def test_bias_and_its_gradient(form, shape):
    length = LENGTHS[form]
    rows = (BATCH, HEADS, length) if shape == "full" else (1, HEADS, 1)
    bias = 3 * np.random.default_rng(1).normal(size=(*rows, length))
    compare(draw(length), bias=bias, causal=shape == "keys")


@pytest.mark.parametrize("form", LENGTHS)
@pytest.mark.parametrize(
    ("causal", "window", "biased"),
    [(True, None, False), (False, 7, False), (True, 7, True)],
    ids=["causal", "window", "window and bias"],
)
def test_segments(form, causal, window, biased):
    """Nothing passes between segments, and a window counts real tokens."""
    length = LENGTHS[form]
    ids = packed_ids(length)
    tags = reference.runs(ids)
    position = np.asarray(segments(jnp.asarray(ids)).position)
    bias = np.random.default_rng(2).normal(size=(1, HEADS, 1, length)) if biased else None
    compare(
        draw(length, seed=3),
        bias=bias,
        real=ids > 0,
        causal=causal,
        window=window,
        segment_ids=ids,
        reference_options={
            "causal": causal,
            "window": window,
            "q_tags": tags,
            "k_tags": tags,
            "q_positions": position,
            "k_positions": position,
        },
    )


@pytest.mark.parametrize("form", LENGTHS)
def test_a_ring_of_keys_with_positions_and_tags(form):
    """A cache: keys in any order, some slots empty, some of another segment."""
    length, keys = LENGTHS[form] // 2, LENGTHS[form]
    rng = np.random.default_rng(4)
    k_positions = np.stack([rng.permutation(keys) for _ in range(BATCH)])
    k_tags = rng.integers(0, 3, size=(BATCH, keys))
    q_positions = keys // 2 + np.arange(length)[None].repeat(BATCH, 0)
    q_tags = np.repeat([[1, 0, 2]], [length // 3, 2, length - length // 3 - 2], axis=1)
    q_tags = q_tags.repeat(BATCH, 0)
    options = {"causal": True, "window": keys // 2}
    options |= {"q_positions": q_positions, "k_positions": k_positions}
    compare(
        draw(length, keys, seed=5),
        **options,
        segment_ids=q_tags,
        k_segment_ids=k_tags,
        reference_options=options | {"q_tags": q_tags, "k_tags": k_tags},
    )


@pytest.mark.of_the_day
@pytest.mark.parametrize("form", LENGTHS)
def test_no_visible_key_gives_zero_and_no_nan(form):
    length = LENGTHS[form]
    q, k, v, _ = (jnp.asarray(a, jnp.float32) for a in draw(length))
    ones = jnp.ones((BATCH, length), jnp.int32)
    bias = jnp.full((1, 1, length, 1), -jnp.inf).at[:, :, 3:].set(0)

    def loss(q, k, v):
        blind = attention(q, k, v, segment_ids=ones, k_segment_ids=0 * ones)
        o = attention(q, k, v, bias=bias, causal=True)
        return (o**2).sum() + blind.sum(), (blind, o)

    grads, (blind, o) = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    assert not np.any(blind)
    assert not np.any(o[:, :3])
    assert np.all(np.any(o[:, 3:], axis=-1))
    assert all(np.all(np.isfinite(g)) for g in grads)


@pytest.mark.parametrize("form", LENGTHS)
def test_large_scores_and_bfloat16(form):
    """Scores in the hundreds: the maximum must be subtracted, in float32."""
    q, k, v, cotangent = draw(LENGTHS[form], seed=6, batch=1)
    q, k, v, cotangent = (jnp.asarray(a, jnp.bfloat16) for a in (30 * q, 5 * k, v, cotangent))

    @jax.jit
    def both(*args):
        o, pull = jax.vjp(lambda *a: attention(*a, causal=True), *args)
        return o, pull(cotangent)

    o, got_grads = both(q, k, v)
    assert o.dtype == jnp.bfloat16
    exact, grads = reference.attention(q, k, v, cotangent, causal=True)
    assert_close(o.astype(jnp.float32), exact, ratio=0.01)
    for got, want in zip(got_grads, grads, strict=False):
        assert got.dtype == jnp.bfloat16
        assert_close(got.astype(jnp.float32), want, ratio=0.03)


def test_memory_is_linear_in_length():
    """At L = 4096 nothing near an L x L array is kept, forward or backward."""
    length, heads = 4096, 4
    x = jax.ShapeDtypeStruct((1, length, heads, 8), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(q, k, v, ids):
        return attention(q, k, v, causal=True, segment_ids=ids).sum()

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, ids).compile()
    scores = heads * length * length * 4
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 20


@pytest.mark.parametrize(("causal", "share"), [(True, 0.6), (False, 1.0)])
def test_only_visible_blocks_are_visited(causal, share):
    visibility = importlib.import_module("seqzoo.models.ops.softmax.masks")

    def visited(window):
        rule = visibility.Rule(causal, window)
        return sum(map(len, visibility.block_pairs(rule, False, 4096, 4096, 256, 256)))

    assert visited(None) <= share * 16 * 16
    assert visited(200) <= (2 if causal else 3) * 16


def test_vmap_equals_the_loop():
    q, k, v, _ = (jnp.asarray(a, jnp.float32) for a in draw(70))
    grad = jax.jit(jax.grad(lambda scale: (attention(scale * q, k, v, causal=True) ** 2).sum()))
    scales = jnp.array([0.5, 2.0])
    assert_close(jax.vmap(grad)(scales), jnp.stack([grad(s) for s in scales]), ratio=1e-4)


def test_wrong_arguments_are_named():
    q, k, v, _ = (jnp.asarray(a) for a in draw(5))
    with pytest.raises(ValueError, match="multiple of those of k"):
        attention(q[:, :, :3], k, v)
    with pytest.raises(ValueError, match=r"k and v must agree.*v \(2, 4"):
        attention(q, k, v[:, :4])
    with pytest.raises(ValueError, match="at least 1; got 0"):
        attention(q, k, v, window=0)
    with pytest.raises(ValueError, match=r"bias must broadcast.*\(3, 5, 5\)"):
        attention(q, k, v, bias=jnp.zeros((3, 5, 5)))
    with pytest.raises(ValueError, match="S=4 keys; give k_segment_ids"):
        attention(q, k[:, :4], v[:, :4], segment_ids=jnp.ones((2, 5), int))
    with pytest.raises(ValueError, match="without segment_ids"):
        attention(q, k, v, k_segment_ids=jnp.ones((2, 5), int))
    with pytest.raises(ValueError, match=r"q_positions must be \[5\] or \[2, 5\]"):
        attention(q, k, v, causal=True, q_positions=jnp.arange(4))
