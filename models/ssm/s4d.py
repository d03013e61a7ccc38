"""S4D: one diagonal state space per channel (Gu et al. 2022, arXiv:2206.11893).

    x' = A x + u,  y = 2 Re(c x) + D u        A = -exp(log_A_real) + i A_imag, one of each pair

in discrete time by zoh or bilinear steps of length exp(log_dt). B is 1: it would only scale c. The
published layer then applies GELU and a linear GLU across channels, which is `gate=True` here.

Differs from the reference: the kernel is not convolved by FFT; the same numbers come from chunks of
matrix products (`ops/diagonal_ssm.py`), which also stream, skip padding and stop at borders. All
initialisations have B = 1 (the reference's LegS has its projected B, clipped).
Cost of L tokens: O(L (T + N)) per channel in chunks of T, plus O(L D^2) for the gate.
State: D d_state elements per sequence.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Complex, Float

from seqzoo.models.mixer import Mixer, config_of
from seqzoo.models.ops.diagonal_ssm import CHUNK, diagonal_ssm, powers
from seqzoo.models.ssm.discretize import Method, discretize
from seqzoo.models.ssm.hippo import check_even, hippo_dplr

Init = Literal["lin", "inv", "legs"]


def s4d_init(name: Init, n: int) -> Complex[np.ndarray, "M"]:
    """The diagonal A of S4D-Lin, S4D-Inv or S4D-LegS, float64; n is the real state size, M = n / 2.

    All have real part -1/2 and negative imaginary parts (LegS: the largest first).

    Raises:
        ValueError: for an unknown name and an n that is not even and positive.
    """
    check_even(n)
    m = np.arange(n // 2)
    if name == "lin":
        return -0.5 - 1j * np.pi * m
    if name == "inv":
        return -0.5 - 1j * (n / np.pi) * (n / (2 * m + 1) - 1)
    if name == "legs":
        return hippo_dplr(n)[0]
    raise ValueError(f"unknown initialisation {name!r}; known: lin, inv, legs")


def s4d_kernel(
    A: Complex[Array, "... M"],
    c: Complex[Array, "... M"],
    dt: ArrayLike,
    length: int,
    *,
    method: Method = "zoh",
) -> Float[Array, "... L"]:
    """The convolution kernel 2 Re(sum_m c dB dA^l), l = 0 .. length - 1, of a system with B = 1.

    Args:
        A: diagonal state matrix; [M] serves all channels of c.
        c: output weights (times B, where it is not 1); its leading axes may exceed A's.
        dt: steps over A's batch axes (c's, if A is [M]), or with a state axis of size 1 or M.
        length: number of taps.
        method: "zoh" or "bilinear".
    """
    A, c = jnp.asarray(A), jnp.asarray(c)
    if A.ndim == 1 and c.ndim > 1:
        A = A[None]
    dA, dB = discretize(A, jnp.ones((), A.dtype), dt, method=method)
    cb = c * dB
    dA = dA.reshape((1,) * (cb.ndim - dA.ndim) + dA.shape)
    # a^(q T + t) = (a^T)^q a^t: only about 2 sqrt(length) powers, then a product of real matrices
    size = 1 << (max(length - 1, 0).bit_length() + 1) // 2
    inner = powers(dA, size + 1)
    outer = powers(inner[-1], -(-length // size))
    front, back = jnp.moveaxis(outer * cb, 0, -2), jnp.moveaxis(inner[:size], 0, -1)
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    kernel = product(front.real, back.real) - product(front.imag, back.imag)
    return 2 * kernel.reshape(*kernel.shape[:-2], -1)[..., :length]


class S4D(Mixer):
    """A diagonal state space per channel; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        init: Init = "lin",
        discretization: Method = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        gate: bool = True,
        chunk_size: int = CHUNK,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_state`: real size N, half as many pairs; steps start log-uniform in [dt_min, dt_max].

        Raises ValueError for an odd d_state, an unknown init or discretisation, and steps that are
        not 0 < dt_min <= dt_max.
        """
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"steps must keep 0 < dt_min <= dt_max; got {dt_min=}, {dt_max=}")
        if discretization not in ("zoh", "bilinear"):
            raise ValueError(f"unknown {discretization=}; known: zoh, bilinear")
        if chunk_size < 1 or chunk_size & (chunk_size - 1):
            raise ValueError(f"chunk_size must be a power of two; got {chunk_size=}")
        A = np.broadcast_to(s4d_init(init, d_state), (d_model, d_state // 2))
        self.d_model, self.d_state, self.dtype = d_model, d_state, dtype
        self.discretization, self.chunk_size = discretization, chunk_size
        steps = jax.random.uniform(
            rngs.params(), (d_model,), param_dtype, np.log(dt_min), np.log(dt_max)
        )
        self.log_dt = nnx.Param(steps, group="dynamics")
        self.log_A_real = nnx.Param(jnp.asarray(np.log(-A.real), param_dtype), group="dynamics")
        self.A_imag = nnx.Param(jnp.asarray(A.imag, param_dtype), group="dynamics")
        self.C_re, self.C_im = (
            nnx.Param(jax.random.normal(rngs.params(), A.shape, param_dtype) * 0.5**0.5)
            for _ in range(2)
        )
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.out_proj = nnx.Linear(d_model, 2 * d_model, **options) if gate else None

    def _initial(self, batch_size: int) -> Float[Array, "B D N"]:
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        return jnp.zeros((batch_size, self.d_model, self.d_state), dtype)

    def state_size(self) -> int:
        """d_model d_state."""
        return self.d_model * self.d_state

    @jax.named_scope("s4d")
    def _mix(self, x, inner, ctx):
        dA, dB, c = self._system()
        u = x.astype(self.dtype)
        y, h = diagonal_ssm(
            u, dA, dB, c, inner, segment_ids=ctx.segments, chunk_size=self.chunk_size
        )
        y = y + self.D[...].astype(u.dtype) * u
        if self.out_proj is not None:
            value, gate = jnp.split(self.out_proj(jax.nn.gelu(y, approximate=False)), 2, axis=-1)
            y = value * jax.nn.sigmoid(gate)
        return y.astype(x.dtype), h

    def _system(self) -> tuple[Array, Array, Array]:
        """The discrete dA, dB and c, complex [D, M], from parameters in at least float32."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        log_dt, log_A_real, A_imag, C_re, C_im = (
            p[...].astype(wide)
            for p in (self.log_dt, self.log_A_real, self.A_imag, self.C_re, self.C_im)
        )
        A = jax.lax.complex(-jnp.exp(log_A_real), A_imag)
        one = jnp.ones((), A.dtype)
        dA, dB = discretize(A, one, jnp.exp(log_dt), method=self.discretization)
        return dA, dB, jax.lax.complex(C_re, C_im)


S4DConfig = config_of(S4D)
