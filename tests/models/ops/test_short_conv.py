"""Short causal convolution against a token-by-token reference."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.conv.short import short_conv
from tests.helpers import assert_close, x64
from tests.references import short_conv as reference

IDS = np.array(
    [
        [0, 0, 1, 1, 0, 1, 2, 2, 0, 2, 2, 2],  # left and inner padding
        [3, 3, 1, 3, 3, 3, 3, 0, 3, 0, 0, 0],  # a repeated id, right padding
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2],  # a border before the last token
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
)
WIDTH, DIM = 4, 3


def draw(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*IDS.shape, DIM))
    return x, rng.normal(size=(WIDTH, DIM)), rng.normal(size=(IDS.shape[0], WIDTH - 1, DIM))


@pytest.mark.parametrize("ids", [None, IDS], ids=["plain", "segments"])
def test_equals_reference(ids):
    x, kernel, window = draw()
    want, want_window = reference.short_conv(
        x, kernel, window, np.ones_like(IDS) if ids is None else ids
    )
    with x64():
        got, last = short_conv(*map(jnp.asarray, (x, kernel, window)), segment_ids=ids)
    assert_close(last, want_window, ratio=1e-14)
    real = np.ones(IDS.shape, bool) if ids is None else ids > 0
    assert_close(np.asarray(got)[real], want[real], ratio=1e-14)
    assert np.all(np.isfinite(got))


def test_gradients():
    arguments = draw(1)
    rng = np.random.default_rng(2)
    valid = (IDS > 0)[..., None]
    weights = rng.normal(size=(*IDS.shape, DIM)) * valid
    last_weights = rng.normal(size=(IDS.shape[0], WIDTH - 1, DIM))

    def loss(f, *args):
        y, last = f(*args)
        return (y * weights).sum() + (last * last_weights).sum()

    with x64():
        got = jax.grad(
            lambda *a: loss(lambda *b: short_conv(*b, segment_ids=jnp.asarray(IDS)), *a),
            argnums=(0, 1, 2),
        )(*map(jnp.asarray, arguments))
    for which, grad in enumerate(got):
        direction = rng.normal(size=grad.shape)
        ends = []
        for sign in (1, -1):  # the op is bilinear, so a central difference is exact
            moved = list(arguments)
            moved[which] = moved[which] + sign * 1e-2 * direction
            ends.append(loss(lambda *a: reference.short_conv(*a, IDS), *moved))
        assert_close((np.asarray(grad) * direction).sum(), (ends[0] - ends[1]) / 2e-2, ratio=1e-10)


def test_extends_over_any_split():
    x, kernel, window = draw(3)
    ids = np.where(IDS > 0, 1, 0)
    with x64():
        x, kernel, window = map(jnp.asarray, (x, kernel, window))
        whole, last = short_conv(x, kernel, window, segment_ids=ids)
        parts = []
        for a, b in [(0, 1), (1, 6), (6, 7), (7, 12)]:
            y, window = short_conv(x[:, a:b], kernel, window, segment_ids=ids[:, a:b])
            parts.append(y)
    real = ids > 0
    assert_close(np.concatenate(parts, 1)[real], np.asarray(whole)[real], ratio=1e-14)
    assert_close(window, last, ratio=1e-14)


def test_bfloat16_keeps_dtype_and_a_wide_window():
    x, kernel, _ = draw(4)
    y, window = short_conv(jnp.asarray(x, jnp.bfloat16), jnp.asarray(kernel, jnp.float32))
    assert y.dtype == jnp.bfloat16
    assert window.dtype == jnp.float32
    want, _ = reference.short_conv(x, kernel, np.zeros(window.shape), np.ones_like(IDS))
    assert_close(y.astype(jnp.float32), want, ratio=0.01)


def test_width_one_has_an_empty_window():
    x, kernel, _ = draw(5)
    y, window = short_conv(jnp.asarray(x), jnp.asarray(kernel[:1]), segment_ids=IDS)
    assert window.shape == (4, 0, DIM)
    assert_close(np.asarray(y)[IDS > 0], (x * kernel[0])[IDS > 0], ratio=1e-6)


def test_wrong_shapes_are_named():
    x = jnp.zeros((2, 5, 3))
    with pytest.raises(ValueError, match=r"kernel must be \[W, D\].*\(4, 2\)"):
        short_conv(x, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"window must be .*\(2, 4, 3\)"):
        short_conv(x, jnp.zeros((4, 3)), jnp.zeros((2, 4, 3)))
