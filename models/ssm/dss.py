"""DSS: a diagonal state space with softmax kernels (Gupta et al. 2022, arXiv:2203.14343).

    y_t = Re sum_m c_m sum_s w_m exp(dt A_m (t - s)) u_s + D u_t        A complex, no conjugates

kernel="exp":      w = (exp(dt A) - 1) / A, S4D's by zoh (proposition 1a)
kernel="softmax":  w = (exp(dt A) - 1) / (A (exp(dt A length) - 1)): the kernel of m is 1 / A
                   times a softmax over `length` positions (proposition 1b)

`length` is an option and not read off the input: rows of any length, chunks and steps agree.
Both have A = -exp(log_A_real) + i A_imag, from HiPPO-LegS's normal part; the paper's softmax form
lets A grow too. Everything else is S4D's: chunks of matrix products, GELU and GLU.
Cost of L tokens, as S4D's: O(L (T + N)) per channel in chunks of T, plus O(L D^2) for the gate.
State: D d_state elements per sequence, the planes of d_state / 2 complex states.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Complex

from seqzoo.models.ops.ssm.diagonal import CHUNK
from seqzoo.models.ssm.discretize import discretize
from seqzoo.models.ssm.s4d import S4D

EPS = 1e-7  # of the reciprocal of a complex number near zero, as published


def softmax_weights(
    A: Complex[Array, "... M"], dt: ArrayLike, length: float
) -> Complex[Array, "... M"]:
    """1 / (A (exp(dt A length) - 1)), finite where that is 0; dt as `discretize` takes it."""
    whole = discretize(A, jnp.ones((), A.dtype), jnp.asarray(dt) * length, method="zoh")[1]
    x = A * A * whole
    return x.conj() / (x.real**2 + x.imag**2 + EPS)


class DSS(S4D):
    """A diagonal state space per channel with normalised kernels; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        kernel: Literal["softmax", "exp"] = "softmax",
        length: int = 1024,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        step_rescale: float = 1.0,
        gate: bool = True,
        chunk_size: int = CHUNK,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`kernel` and `length` as above; the rest are S4D's options.

        Raises ValueError for an unknown kernel, a length below 1, and what S4D refuses.
        """
        if kernel not in ("softmax", "exp"):
            raise ValueError(f"unknown {kernel=}; known: softmax, exp")
        if length < 1:
            raise ValueError(f"softmax goes over length >= 1 positions; got {length=}")
        super().__init__(
            d_model,
            d_state=d_state,
            init="legs",
            dt_min=dt_min,
            dt_max=dt_max,
            step_rescale=step_rescale,
            gate=gate,
            chunk_size=chunk_size,
            dtype=dtype,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.kernel, self.length = kernel, length

    def _system(self) -> tuple[Array, Array, Array]:
        """The discrete dA, dB and c; c is halved, since no conjugate doubles it."""
        dA, dB, c = super()._system()
        if self.kernel == "softmax":
            A, dt = self._continuous()
            # In time units, so that another sampling rate changes nothing but the steps.
            dB = dB * A * softmax_weights(A, dt / self.step_rescale, self.length)
        return dA, dB, 0.5 * c
