"""S4D: one diagonal state space per channel (Gu et al. 2022, arXiv:2206.11893).

    x' = A x + u,  y = 2 Re(c x) + D u        A = -exp(log_A_real) + i A_imag, one of each pair

in discrete time by zoh or bilinear steps of length exp(log_dt). B is 1: it would only scale c. The
published layer then applies GELU and a linear GLU across channels, which is `gate=True` here.

Differs from the reference: the kernel is not convolved by FFT; the same numbers come from chunks of
matrix products (`ops/ssm/diagonal.py`), which also stream, skip padding and stop at borders. All
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

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.ssm.diagonal import CHUNK, diagonal_ssm, powers
from seqzoo.models.ssm.discretize import LayerMethod, Method, discretize
from seqzoo.models.ssm.hippo import check_even, hippo_dplr
from seqzoo.models.ssm.parts import check_chunk, check_steps, gelu_glu, log_steps, wide_complex

Init = Literal["lin", "inv", "legs", "inv2", "quad", "real", "random"]


def s4d_init(name: Init, n: int) -> Complex[np.ndarray, "M"]:
    """The diagonal A of S4D-Lin, -Inv, -LegS, ..., float64; n is the real state size, M = n / 2.

    All have real part -1/2 and negative imaginary parts (LegS: the largest first), but for "real",
    which is -1 .. -M.

    Raises:
        ValueError: for an unknown name and an n that is not even and positive.
    """
    check_even(n)
    m = np.arange(n // 2)
    if name == "lin":
        return -0.5 - 1j * np.pi * m
    if name == "inv":
        return -0.5 - 1j * (n / np.pi) * (n / (2 * m + 1) - 1)
    if name == "inv2":
        return -0.5 - 1j * (n / np.pi) * (n / (m + 1) - 1)
    if name == "quad":
        return -0.5 - 1j * (2 * m + 1) ** 2 / np.pi
    if name == "legs":
        return hippo_dplr(n)[0]
    if name == "real":
        return -(m + 1.0) + 0j
    raise ValueError(
        f"unknown initialisation {name!r}; known: lin, inv, legs, inv2, quad, real, and random as "
        "an option of S4D, which draws anew for every channel"
    )


def _initial_planes(init: Init, d_model: int, n: int, rngs: nnx.Rngs) -> tuple[Array, Array]:
    """log(-Re A) and Im A of all channels; "random": -Re A uniform in (0, 1), -Im A in (0, n/2)."""
    if init == "random":
        check_even(n)
        real, imag = jax.random.uniform(rngs.params(), (2, d_model, n // 2), minval=1e-4)
        return jnp.log(real), -0.5 * n * imag
    A = np.broadcast_to(s4d_init(init, n), (d_model, n // 2))
    return np.log(-A.real), A.imag


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
        discretization: LayerMethod = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        step_rescale: float = 1.0,
        gate: bool = True,
        chunk_size: int = CHUNK,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_state`: real size N, half as many pairs; steps start log-uniform in [dt_min, dt_max].

        `step_rescale` is a factor of all steps, for inputs at another sampling rate than in
        training: the old rate over the new one.
        Raises ValueError for an odd d_state, an unknown init or discretisation, and steps that are
        not 0 < dt_min <= dt_max.
        """
        check_steps(dt_min, dt_max, step_rescale)
        if discretization not in ("zoh", "bilinear"):
            raise ValueError(f"unknown {discretization=}; known: zoh, bilinear")
        check_chunk(chunk_size)
        log_A_real, A_imag = _initial_planes(init, d_model, d_state, rngs)
        self.d_state = d_state
        self.discretization, self.chunk_size = discretization, chunk_size
        self.step_rescale = step_rescale
        steps = log_steps(rngs, d_model, dt_min, dt_max, param_dtype)
        self.log_dt = nnx.Param(steps, group="dynamics")
        self.log_A_real = nnx.Param(jnp.asarray(log_A_real, param_dtype), group="dynamics")
        self.A_imag = nnx.Param(jnp.asarray(A_imag, param_dtype), group="dynamics")
        self.C_re, self.C_im = (
            nnx.Param(jax.random.normal(rngs.params(), A_imag.shape, param_dtype) * 0.5**0.5)
            for _ in range(2)
        )
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.out_proj = Linear(d_model, 2 * d_model, **options) if gate else None

    def _initial(self, batch_size: int) -> Float[Array, "B D N"]:
        return jnp.zeros((batch_size, self.d_model, self.d_state), self.wide)

    def state_size(self) -> int:
        """d_model d_state."""
        return self.d_model * self.d_state

    @jax.named_scope("s4d")
    def _mix(self, x, inner, ctx):
        dA, dB, c = self._system()
        u = x
        y, h = diagonal_ssm(
            u, dA, dB, c, inner, segment_ids=ctx.segments, chunk_size=self.chunk_size
        )
        y = y + self.D[...].astype(u.dtype) * u
        return gelu_glu(y, self.out_proj), h

    def _system(self) -> tuple[Array, Array, Array]:
        """The discrete dA, dB and c, complex [D, M], from parameters in at least float32."""
        A, dt = self._continuous()
        dA, dB = discretize(A, jnp.ones((), A.dtype), dt, method=self.discretization)
        return dA, dB, wide_complex(self.C_re, self.C_im, self.dtype)

    def _continuous(self) -> tuple[Complex[Array, "D M"], Float[Array, "D"]]:
        """A and the steps."""
        real = -jnp.exp(self.log_A_real[...].astype(self.wide))
        dt = jnp.exp(self.log_dt[...].astype(self.wide)) * self.step_rescale
        return jax.lax.complex(real, self.A_imag[...].astype(self.wide)), dt
