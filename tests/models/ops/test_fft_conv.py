"""FFT convolution against the sum over pairs of tokens."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.conv import transforms
from seqzoo.models.ops.conv.fft import fft_conv, good_size
from seqzoo.models.ops.layout import backends
from tests.helpers import assert_close, x64
from tests.references import fft_conv as reference
from tests.references.attention import runs

LENGTH, DIM = 71, 3  # no power of two, more than two levels of splitting


def packed_ids():
    """Borders on, beside and away from midpoints; all kinds of padding; a repeated id."""
    ids = np.zeros((4, LENGTH), int)
    ids[0] = np.repeat([1, 2, 1, 3], [16, 17, 1, 37])
    ids[1, 5:60] = np.repeat([4, 0, 4, 9, 0, 9], [10, 3, 12, 20, 5, 5])
    ids[2, :40] = np.arange(40) // 3 + 1
    return ids


def padded_ids():
    """One segment in every row."""
    ids = np.ones((4, LENGTH), int)
    ids[0, :9] = ids[1, 60:] = ids[2, 20:33] = ids[3] = 0
    return ids


LAYOUTS = {"plain": lambda: None, "padded": padded_ids, "packed": packed_ids}


def draw(kernel_length, reverse_length, seed=0):
    rng = np.random.default_rng(seed)
    u, cotangent = rng.normal(size=(2, 4, LENGTH, DIM))
    reverse = rng.normal(size=(reverse_length, DIM)) if reverse_length else None
    return u, rng.normal(size=(kernel_length, DIM)), reverse, cotangent


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("lengths", [(100, 0), (LENGTH, 100), (3, 40)], ids=str)
def test_equals_reference(layout, lengths):
    check_against_reference(layout, lengths)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_split_rows_equal_the_reference_by_products_of_matrices_too(layout):
    with backends.forced("fft_conv", "products"):
        check_against_reference(layout, (LENGTH, 40), strict=True)


def check_against_reference(layout, lengths, *, strict=False):
    u, kernel, reverse, cotangent = draw(*lengths)
    ids = LAYOUTS[layout]()
    tags = None if ids is None else runs(ids)
    real = np.ones((4, LENGTH), bool) if ids is None else ids > 0
    cotangent = cotangent * real[..., None]
    want, want_grads = reference.fft_conv(u, kernel, cotangent, reverse_kernel=reverse, tags=tags)

    @jax.jit
    def both(*args):
        options = {"segment_ids": ids, "strict": strict}
        y, pull = jax.vjp(lambda u, k, r: fft_conv(u, k, reverse_kernel=r, **options), *args)
        return y, pull(jnp.asarray(cotangent))

    with x64():
        got, grads = both(u, kernel, reverse)
        assert got.dtype == jnp.float64
    assert_close(np.asarray(got)[real], want[real], ratio=1e-13)
    assert np.all(np.isfinite(got))
    for name, grad, want_grad in zip(("u", "kernel", "reverse"), grads, want_grads, strict=True):
        if grad is not None:
            assert_close(grad, want_grad, ratio=1e-13, what=name)


def test_no_value_leaks_between_segments_or_from_padding():
    u, kernel, reverse, _ = draw(LENGTH, LENGTH, seed=1)
    ids = packed_ids()
    f = jax.jit(lambda u: fft_conv(u, kernel, reverse_kernel=reverse, segment_ids=ids))
    changed = np.where((ids == 2)[..., None] | (ids == 0)[..., None], 1e3, u)
    others = ids * (ids != 2) > 0
    with x64():
        assert_close(np.asarray(f(changed))[others], np.asarray(f(u))[others], ratio=1e-12)


def test_low_precision_keeps_dtype_and_float32_arithmetic():
    u, kernel, _, cotangent = draw(LENGTH, 0, seed=2)
    y = fft_conv(jnp.asarray(u, jnp.bfloat16), jnp.asarray(kernel, jnp.float32))
    assert y.dtype == jnp.bfloat16
    want, _ = reference.fft_conv(np.asarray(jnp.asarray(u, jnp.bfloat16)), kernel, cotangent)
    assert_close(y.astype(jnp.float32), want, ratio=3e-3)


def test_vmapped_gradient_equals_the_loop():
    u, kernel, _, _ = draw(LENGTH, 0, seed=3)
    u, kernel = jnp.asarray(u, jnp.float32), jnp.asarray(kernel, jnp.float32)
    grad = jax.grad(lambda k, u: (fft_conv(u, k) ** 2).sum())
    kernels = jnp.stack([kernel, 2 * kernel])
    together = jax.jit(jax.vmap(grad, (0, None)))(kernels, u)
    apart = jnp.stack([grad(k, u) for k in kernels])
    assert_close(together, apart, ratio=1e-5)


@pytest.mark.parametrize("half", [16, 1024])
def test_products_of_matrices_give_what_transforms_do(half):
    rng = np.random.default_rng(half)
    x, window = rng.normal(size=(2, half, 3)), rng.normal(size=(2 * half, 3))

    def behind(way, dtype):
        spectra = (way.forward(jnp.asarray(v, dtype), 2 * half) for v in (x, window))
        return way.behind(math.prod(spectra), 2 * half)

    with x64():
        want = np.asarray(behind(transforms.FAST, jnp.float64))
        assert_close(behind(transforms.PRODUCTS, jnp.float64), want, ratio=1e-13)
    assert_close(behind(transforms.PRODUCTS, jnp.float32), want, ratio=1e-6)


def test_good_sizes():
    assert [good_size(n) for n in (1, 2, 7, 11, 141, 4095, 8191)] == [2, 2, 8, 12, 144, 4096, 8192]


def test_wrong_kernels_are_named():
    u = jnp.zeros((1, 4, 3))
    with pytest.raises(ValueError, match=r"kernel must be .* D = 3 .*\(4, 2\)"):
        fft_conv(u, jnp.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"reverse_kernel must be .*\(0, 3\)"):
        fft_conv(u, jnp.zeros((4, 3)), reverse_kernel=jnp.zeros((0, 3)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strict_sums_do_not_feel_the_future(layout):
    """Not in a single bit, however large the future is."""
    u, kernel = (x.astype(np.float32) for x in draw(100, 0)[:2])
    ids = LAYOUTS[layout]()
    later = u.copy()
    later[:, 40:] = 1e6
    plain = fft_conv(u, kernel, segment_ids=ids)
    strict = jax.jit(lambda u: fft_conv(u, jnp.asarray(kernel), segment_ids=ids, strict=True))
    real = np.ones((4, LENGTH), bool) if ids is None else ids > 0
    assert_close(np.asarray(strict(u))[real], np.asarray(plain)[real], ratio=1e-6)
    now = real[:, :40]
    same = np.asarray(strict(u))[:, :40][now], np.asarray(strict(later))[:, :40][now]
    np.testing.assert_array_equal(*same)
