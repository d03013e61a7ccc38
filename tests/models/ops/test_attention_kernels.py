"""Kernels of others against the blocks: the one for TPUs interpreted, calls of cuDNN replaced."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from seqzoo.models.ops import attention
from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.softmax import cudnn, splash
from tests.helpers import assert_trees_close

L, K = 512, 8
PACKED = np.array([[1] * 200 + [0] * 12 + [2] * 300, [3] * 500 + [0] * 12])


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    monkeypatch.setattr(splash, "INTERPRET", True)


def _draw(heads=2, key_heads=2, dtype=jnp.float32, rows=2, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(rows, L, n, K) for n in (heads, key_heads, key_heads)]
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def _both(inputs, kernel="splash", **options):
    def everything(inputs):
        out, pull = jax.vjp(lambda x: attention(*x, **options), inputs)
        return out, pull(jnp.sin(out))

    found = []
    for form in (kernel, "large blocks"):
        with forms.forced("attention", form):
            found.append(jax.jit(everything)(inputs))
    return found


@pytest.mark.parametrize(
    ("heads", "options"),
    [
        (2, {"causal": True, "segment_ids": PACKED}),
        (4, {"causal": True, "window": 100, "scale": 0.3}),
        (2, {"window": 70, "segment_ids": PACKED}),
        (2, {}),
    ],
)
def test_the_kernel_is_the_blocks(heads, options):
    assert_trees_close(*_both(_draw(heads), **options), ratio=1e-6)


@pytest.mark.slow
def test_the_kernel_in_bfloat16():
    kernel, blocks = _both(_draw(dtype=jnp.bfloat16), causal=True)
    exact = _both(_draw(), causal=True)[1]
    for rounded in (kernel, blocks):
        assert rounded[0].dtype == jnp.bfloat16
        assert_trees_close(rounded, exact, ratio=2e-2)


def test_the_kernel_does_not_read_padding():
    inputs = _draw()
    spoiled = [jnp.where(PACKED[:, :, None, None] > 0, x, jnp.nan) for x in inputs]
    with forms.forced("attention", "splash"):

        def total(x):
            return jnp.sin(attention(*x, causal=True, segment_ids=PACKED)).sum()

        value = jax.jit(jax.value_and_grad(total))
        assert_trees_close(value(spoiled), value(inputs), ratio=1e-6)


def test_what_the_kernel_cannot_do_is_left_to_the_blocks():
    q, k, v = _draw()

    def taken(*inputs, **options):
        with forms.forced("attention", "splash"):
            jaxpr = jax.make_jaxpr(lambda *x: attention(*x, **options))(*inputs)
        return "by_platform" in str(jaxpr)

    assert taken(q, k, v, causal=True)
    assert not taken(q, k, v, causal=True, bias=jnp.ones((L, L)))
    assert not taken(q, k, v, causal=True, k_positions=jnp.arange(L), q_positions=jnp.arange(L))
    assert not taken(q[:, :500], k[:, :500], v[:, :500], causal=True)
    assert not taken(q[:, :256], k[:, :256], v[:, :256], causal=True)
    with jax.enable_x64(True):
        assert not taken(*(x.astype(jnp.float64) for x in (q, k, v)), causal=True)


def test_derivatives_of_a_higher_order_are_those_of_the_blocks():
    q, k, v = _draw(rows=1)

    def total(q):
        return jnp.sin(attention(q, k, v, causal=True)).sum()

    found = []
    for form in ("splash", "large blocks"):
        with forms.forced("attention", form):
            found.append(jax.jit(lambda q: jax.jvp(jax.grad(total), (q,), (jnp.cos(q),))[1])(q))
    assert_trees_close(*found, ratio=1e-5)


@pytest.mark.slow
def test_each_device_runs_the_kernel_on_its_rows_and_heads():
    inputs, axes = _draw(4, 2), (AxisType.Auto,) * 2
    alone = _both(inputs, causal=True, segment_ids=PACKED)[1]
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=axes, devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec("data", None, "tensor"))
        placed = jax.device_put(inputs, place)
        kernel, _ = _both(placed, causal=True, segment_ids=PACKED)
        assert kernel[0].sharding.is_equivalent_to(place, 4)
    assert_trees_close(kernel, alone, ratio=1e-6)


@pytest.fixture
def asked(monkeypatch):
    """What is asked of cuDNN, which XLA gives in float32."""
    seen = []

    def value(options):
        window = options["sliding_window_length"]
        seen.append(options)
        own = {"scale": options["scale"], "is_causal": options["mask_type"] == "causal"}
        own["local_window_size"] = None if window is None else (window - 1, 0)
        return functools.partial(jax.nn.dot_product_attention, return_residual=True, **own)

    def ahead(q, k, v, *unused, is_training, **options):
        o, lse = value(options)(q, k, v)
        return o, lse.transpose(0, 2, 1)

    def back(q, k, v, *more, **options):
        lse, o, do = more[-3:]
        (again, sums), pull = jax.vjp(value(options), q, k, v)
        lse = lse.transpose(0, 2, 1)
        wrong = jnp.abs(o - again).max() + jnp.abs(lse - sums).max()  # of what was kept
        return *pull((do + wrong, jnp.zeros_like(lse))), None

    masks = SimpleNamespace(CAUSAL="causal", NO_MASK="full")
    calls = {"forward": ahead, "backward": back, "masks": masks, "layout": 0}
    monkeypatch.setattr(cudnn, "_library", lambda: calls)
    monkeypatch.setattr(cudnn, "there", lambda: True)
    monkeypatch.setattr(cudnn, "HALF", (jnp.dtype("float32"),))
    return seen


@pytest.mark.parametrize(
    ("heads", "options"), [(4, {"causal": True, "window": 100, "scale": 0.3}), (2, {})]
)
def test_cudnn_is_asked_for_what_the_blocks_are(heads, options, asked):
    assert_trees_close(*_both(_draw(heads), "cudnn", **options), ratio=1e-6)
    assert asked[0]["sliding_window_length"] == options.get("window")


def test_what_cudnn_cannot_do_is_left_to_the_blocks():
    def taken(*inputs, **options):
        with forms.forced("attention", "cudnn"):
            jaxpr = jax.make_jaxpr(lambda *x: attention(*x, **options))(*inputs)
        return "by_platform" in str(jaxpr)

    half = _draw(dtype=jnp.bfloat16)
    assert taken(*half, causal=True, window=9)
    assert not taken(*half, window=9)
    assert not taken(*_draw(), causal=True)
    assert not taken(*(x[..., :4] for x in half))
    assert not taken(*(jnp.tile(x, 17) for x in half))
    assert not taken(*half, segment_ids=PACKED)
    assert not taken(*half, bias=jnp.ones((L, L)))
    assert not taken(half[0], *(x[:, :-1] for x in half[1:]))


def test_without_cudnn_the_blocks_run(monkeypatch):
    monkeypatch.setattr(cudnn, "there", lambda: False)
    q, k, v = _draw(rows=1, dtype=jnp.bfloat16)
    found = []
    for form in ("cudnn", "large blocks"):
        with forms.forced("attention", form):
            found.append(jax.jit(lambda q: attention(q, k, v, causal=True))(q))
    assert_trees_close(*found, ratio=1e-6)
