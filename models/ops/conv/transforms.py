"""Spectra of real rows by fast Fourier transforms, or by products of matrices where those are dear.

Either pair has rows of at most `size` numbers, a power of two. If the spectra of two are multiplied
in between, it gives the second half of their convolution; what is longer wraps around into the
first half, by the products with the other sign, and neither keeps that.

A TPU's compiler takes tens of seconds for a transform of a large size, and matrix units are idle in
it (docs/speed.md).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

ONE = 1024  # the largest size that one product transforms; its matrix has as many rows

# Three products of bfloat16 on matrix units, 16 bits of a number; with six a TPU's compiler takes
# five times as long for each.
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGH)


class Transform(NamedTuple):
    """Both ways, along the axis before the last."""

    forward: Callable[[Float[Array, "... T D"], int], Complex[Array, "... F D"]]
    behind: Callable[[Complex[Array, "... F D"], int], Float[Array, "... T D"]]


def _rfft(x: Float[Array, "... T D"], size: int) -> Complex[Array, "... F D"]:
    return jnp.fft.rfft(x, size, axis=-2)


def _irfft(spectrum: Complex[Array, "... F D"], size: int) -> Float[Array, "... T D"]:
    return jnp.fft.irfft(spectrum, size, axis=-2)[..., size // 2 :, :]


def _forward(x: Float[Array, "... T D"], size: int) -> Complex[Array, "... F D"]:
    """X_f = Σ_t x_t e^(-2πi t (f + 1/2) / N), for f = k + m j of k < m/2 and j < n, where N = m n.

    Frequencies are odd multiples of half a step, so that those of a real row are pairs of
    conjugates without exception, and one of each pair has k < m/2. With t = n s + r it is two
    products, over s and over r, with factors e^(-2πi r (k + 1/2) / N) between them.
    """
    m, n = _factors(size)
    x = x.reshape(*x.shape[:-2], -1, n, x.shape[-1])
    outer, between, inner = _angles(m, n)
    y = _product("...srd,cks->c...krd", x, _parts(outer[:, : x.shape[-3]], x.dtype))
    if n > 1:
        y = jnp.stack(_times(y, _parts(between, x.dtype)[..., None]))
        y = _product("c...krd,cejr->e...kjd", y, _turning(inner, x.dtype))
    y = y.reshape(*y.shape[:-3], -1, y.shape[-1])
    return jax.lax.complex(y[0], y[1])


def _behind(spectrum: Complex[Array, "... F D"], size: int) -> Float[Array, "... T D"]:
    """x_t = 2/N Σ_f Re(X_f e^(2πi t (f + 1/2) / N)) for N/2 <= t < N."""
    m, n = _factors(size)
    outer, between, inner = _angles(m, n)
    y = jnp.stack([spectrum.real, spectrum.imag])
    y, dtype = y.reshape(*y.shape[:-2], m // 2, n, y.shape[-1]), y.dtype
    if n > 1:
        y = _product("c...kjd,cejr->e...krd", y, _turning(-inner, dtype))
        y = jnp.stack(_times(y, _parts(-between, dtype)[..., None]))
    cos, sin = _parts(outer[:, m // 2 :], dtype)
    y = _product("c...krd,cks->...srd", y, jnp.stack([cos, sin]) * (2 / size))
    return y.reshape(*y.shape[:-3], -1, y.shape[-1])


def _factors(size: int) -> tuple[int, int]:
    """m and n."""
    if size <= ONE:
        return size, 1
    n = 2 ** ((size.bit_length() - 2) // 2)
    return size // n, n


def _angles(m: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the product over s, [k, s]; of the factors between, [k, r]; of that over r, [j, r]."""
    k, s, r = np.arange(m // 2) + 0.5, np.arange(m), np.arange(n)
    return (
        -2 * np.pi * np.outer(k, s) / m,
        -2 * np.pi * np.outer(k, r) / (m * n),
        -2 * np.pi * np.outer(r, r) / n,
    )


def _parts(angle: np.ndarray, dtype: jnp.dtype) -> Array:
    return jnp.asarray(np.stack([np.cos(angle), np.sin(angle)]), dtype)


def _turning(angle: np.ndarray, dtype: jnp.dtype) -> Float[Array, "2 2 j r"]:
    """The real matrix that multiplies with e^(i angle): from part c to part e."""
    cos, sin = np.cos(angle), np.sin(angle)
    return jnp.asarray(np.stack([np.stack([cos, sin]), np.stack([-sin, cos])]), dtype)


def _times(x: Array, y: Array) -> tuple[Array, Array]:
    """Real and imaginary part of a product; parts are in front."""
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


FAST = Transform(_rfft, _irfft)
PRODUCTS = Transform(_forward, _behind)
