"""Diagonal plus low-rank (DPLR) systems by the bilinear rule (Gu et al. 2022, arXiv:2111.00396).

    x' = M x + B u,   M = diag([lam, lam*]) - sum_r p_r p_r*,   p_r, B completed by their conjugates

One of each conjugate pair is kept, as real planes z = [Re x, Im x] of size N = 2 M, in which M is
the real matrix diag(lam) - 2 sum_r q_r q_r^T with q = [Re p, Im p]. All comes from the resolvent
V = (1 - dt M / 2)^-1, by Woodbury's identity another diagonal minus low rank:

    A = (1 - dt M / 2)^-1 (1 + dt M / 2) = 2 V - 1,     dB = dt V B
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float

from seqzoo.models.ops.ssm.dense import dense_kernel


class Resolvent(NamedTuple):
    """(1 - dt M / 2)^-1 = diag(e) - sum_r left_r right_r^T on planes."""

    e: Complex[Array, "... M"]
    left: Float[Array, "... R N"]
    right: Float[Array, "... R N"]

    def apply(self, z: Float[Array, "... N"]) -> Float[Array, "... N"]:
        """V z; leading axes broadcast."""
        along = jnp.sum(self.right * z[..., None, :], -1, keepdims=True)
        return planes(self.e * pairs(z)) - jnp.sum(along * self.left, -2)

    def dense(self) -> Float[Array, "... N N"]:
        """V as a matrix."""
        one = jnp.eye(self.e.shape[-1], dtype=self.e.real.dtype)
        re, im = (x[..., None, :] * one for x in (self.e.real, self.e.imag))
        turn = jnp.block([[re, -im], [im, re]])
        return turn - jnp.einsum(
            "...RM,...RN->...MN", self.left, self.right, precision=jax.lax.Precision.HIGHEST
        )


def resolvent(
    lam: Complex[Array, "... M"], p: Complex[Array, "... R M"], dt: Float[Array, "..."]
) -> Resolvent:
    """The resolvent of a system with eigenvalues of its diagonal part in the left half plane."""
    half = 0.5 * jnp.asarray(dt)[..., None]
    e = 1 / (1 - half * lam)
    left = planes(e[..., None, :] * p)
    right = planes(e.conj()[..., None, :] * p)
    twice = 2 * half[..., None]
    # S = 1 + dt Q^T diag(e) Q couples the R terms
    coupling = jnp.einsum(
        "...RN,...SN->...RS", planes(p), left, precision=jax.lax.Precision.HIGHEST
    )
    coupling = jnp.eye(p.shape[-2], dtype=left.dtype) + twice * coupling
    if p.shape[-2] == 1:
        left = twice * left / coupling
    else:
        left = jnp.linalg.solve(jnp.swapaxes(coupling, -1, -2), twice * left)
    return Resolvent(e, left, right)


def bilinear_dplr(
    lam: Complex[Array, "... M"],
    p: Complex[Array, "... R M"],
    b: Complex[Array, "... M"],
    dt: ArrayLike,
) -> tuple[Float[Array, "... N N"], Float[Array, "... N"]]:
    """The discrete (A, B) on planes, A dense."""
    dt = jnp.asarray(dt, lam.real.dtype)
    v = resolvent(lam, p, dt)
    A = 2 * v.dense()
    return A - jnp.eye(A.shape[-1], dtype=A.dtype), dt[..., None] * v.apply(planes(b))


def dplr_step(
    v: Resolvent, z: Float[Array, "... N"], b: Float[Array, "... N"], dt: Float[Array, "..."]
) -> Float[Array, "... N"]:
    """A z + dB in O(N R), without the matrix; `b` is the input weights times the input."""
    return v.apply(2 * z + dt[..., None] * b) - z


def readout(c: Complex[Array, "... M"]) -> Float[Array, "... N"]:
    """The real form of y = 2 Re(c x) on planes."""
    return planes(2 * c.conj())


def s4_kernel(
    lam: Complex[Array, "... M"],
    p: Complex[Array, "... R M"],
    b: Complex[Array, "... M"],
    c: Complex[Array, "... M"],
    dt: ArrayLike,
    length: int,
) -> Float[Array, "... L"]:
    """The convolution kernel Re([c, c*] A^l dB), l = 0 .. length - 1, of a DPLR system.

    Args:
        lam: eigenvalues of the diagonal part, one of each pair; real parts at most 0.
        p: low-rank vectors, R of them; it is their own conjugates that they are multiplied by.
        b: input weights.
        c: output weights, the original ones and not those times 1 - A^length that the published
            layer trains; its leading axes may exceed the others'.
        dt: steps.
        length: number of taps.
    """
    lam, p, b, c = (jnp.asarray(x) for x in (lam, p, b, c))
    A, dB = bilinear_dplr(lam, p, b, dt)
    return dense_kernel(A, dB, readout(c), length)


def planes(z: Complex[Array, "... M"]) -> Float[Array, "... N"]:
    """Real parts, then imaginary parts."""
    return jnp.concatenate([z.real, z.imag], axis=-1)


def pairs(z: Float[Array, "... N"]) -> Complex[Array, "... M"]:
    """The complex numbers of planes."""
    return jax.lax.complex(*jnp.split(z, 2, axis=-1))
