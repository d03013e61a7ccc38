"""From continuous to discrete time, for diagonal systems x' = A x + B u with steps of length dt.

zoh (input constant over a step):  dA = exp(dt A),                    dB = (dA - 1) / A * B
bilinear (trapezoid):              dA = (1 + dt A/2) / (1 - dt A/2),  dB = dt / (1 - dt A/2) * B
forward (Euler):                   dA = 1 + dt A,                     dB = dt B
backward (Euler):                  dA = 1 / (1 - dt A),               dB = dt / (1 - dt A) * B
"""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Inexact

Method = Literal["zoh", "bilinear", "forward", "backward"]
LayerMethod = Literal["zoh", "bilinear"]  # exact, or stable at any step and accurate


def discretize(
    A: Inexact[Array, "... M"],
    B: Inexact[Array, "... M"],
    dt: ArrayLike,
    *,
    method: Method,
) -> tuple[Complex[Array, "... M"], Complex[Array, "... M"]]:
    """The discrete pair (dA, dB), complex.

    Args:
        A: diagonal of the state matrix, real or complex.
        B: input weights, broadcast to A.
        dt: steps over the batch axes [...], or with a state axis of size 1 or M and A's rank.
        method: "zoh", "bilinear", or Euler's "forward" (not stable at large steps) or "backward".

    Raises:
        ValueError: for an unknown method.
    """
    dtype = jnp.result_type(A, B, jnp.complex64, jnp.asarray(dt).dtype)
    A, B = jnp.asarray(A, dtype), jnp.asarray(B, dtype)
    dt = jnp.asarray(dt, A.real.dtype)
    if dt.ndim and not (dt.ndim >= A.ndim and dt.shape[-1] in (1, A.shape[-1])):
        dt = dt[..., None]
    if method == "zoh":
        return _zoh(A, B, dt)
    if method == "bilinear":
        below = 1 - 0.5 * dt * A
        return (1 + 0.5 * dt * A) / below, dt / below * B
    if method == "forward":
        return 1 + dt * A, dt * B
    if method == "backward":
        return 1 / (1 - dt * A), dt / (1 - dt * A) * B
    raise ValueError(f"unknown discretisation {method!r}; known: {', '.join(get_args(Method))}")


def _zoh(A: Array, B: Array, dt: Array) -> tuple[Array, Array]:
    x, y = dt * A.real, dt * A.imag
    grown = jnp.exp(x)
    # exp(z) - 1 without cancellation at small z = x + i y
    less_one = jax.lax.complex(
        jnp.expm1(x) * jnp.cos(y) - 2 * jnp.sin(0.5 * y) ** 2, grown * jnp.sin(y)
    )
    still = A == 0
    factor = jnp.where(still, dt, less_one / jnp.where(still, 1, A))
    return less_one + 1, factor * B
