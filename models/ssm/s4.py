"""S4: one diagonal plus low-rank state space per channel (Gu et al. 2022, arXiv:2111.00396).

    x' = (diag(lam) - sum_r p_r p_r*) x + b u,   y = 2 Re(c x) + D u

in discrete time by bilinear steps of length exp(log_dt), from HiPPO matrices: their normal plus
low-rank form makes the whole of A learnable, and the layer remembers its input's past from the
start. Then GELU and a linear GLU across channels (`gate=True`), as published. With `causal=False`
a second c reads the reversed system: y_t = sum_{s<=t} K0[t-s] u_s + sum_{s>t} K1[s-t-1] u_s.

Differs from the reference: no Cauchy kernel and no FFT. The discrete system, dense on real planes,
runs in chunks of matrix products (`ops/ssm/dense.py`), which equal the convolution, stream, skip
padding and stop at borders; so c is trained itself, not c (1 - A^L), which ties a layer to one
length. b is not clipped.
Cost of L tokens: O(L (T + N + N² / T)) per channel in chunks of T, O(N³ log T) for the powers, plus
O(L D²) for the gate. State: D d_state elements per sequence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from seqzoo.models.bidirectional import delay
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.ssm.dense import CHUNK, dense_ssm
from seqzoo.models.ssm.dplr import bilinear_dplr, dplr_step, planes, readout, resolvent
from seqzoo.models.ssm.hippo import Measure, nplr
from seqzoo.models.ssm.parts import check_chunk, check_steps, gelu_glu, log_steps, wide_complex

SLOWEST = 1e-4  # least decay that log_A_real can start from, as published


class S4(Mixer):
    """A diagonal plus low-rank state space per channel; see the module docstring."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        measure: Measure = "legs",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        step_rescale: float = 1.0,
        gate: bool = True,
        chunk_size: int = CHUNK,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Steps start log-uniform in [dt_min, dt_max].

        Args:
            d_model: channels D.
            d_state: real size N of each channel's state, half as many conjugate pairs.
            measure: the HiPPO matrix that A and b start from; see `nplr`.
            dt_min: least step at the start.
            dt_max: largest step at the start.
            step_rescale: factor of all steps: the old over the new sampling rate, after training.
            gate: whether GELU and GLU follow.
            chunk_size: tokens a chunk, a power of two.
            causal: False adds the reversed system.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: random streams.

        Raises ValueError for an odd d_state, a measure without a DPLR form, steps that are not
        0 < dt_min <= dt_max and a chunk size that is no power of two.
        """
        check_steps(dt_min, dt_max, step_rescale)
        check_chunk(chunk_size)
        lam, p, b, _ = nplr(measure, d_state)
        self.d_state = d_state
        self.causal, self.step_rescale, self.chunk_size = causal, step_rescale, chunk_size

        def repeated(z: np.ndarray) -> nnx.Param:
            values = np.broadcast_to(z, (d_model, *z.shape))
            return nnx.Param(jnp.asarray(values, param_dtype), group="dynamics")

        steps = log_steps(rngs, d_model, dt_min, dt_max, param_dtype)
        self.log_dt = nnx.Param(steps, group="dynamics")
        self.log_A_real = repeated(np.log(np.maximum(-lam.real, SLOWEST)))
        self.A_imag = repeated(lam.imag)
        self.P_re, self.P_im = repeated(p.real), repeated(p.imag)
        self.B_re, self.B_im = repeated(b.real), repeated(b.imag)
        shape = (d_model, d_state // 2) if causal else (2, d_model, d_state // 2)
        self.C_re, self.C_im = (
            nnx.Param(jax.random.normal(rngs.params(), shape, param_dtype) * 0.5**0.5)
            for _ in range(2)
        )
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.out_proj = Linear(d_model, 2 * d_model, **options) if gate else None

    def _initial(self, batch_size: int) -> Float[Array, "B D N"]:
        return jnp.zeros((batch_size, self.d_model, self.d_state), self.wide)  # as planes

    def state_size(self) -> int:
        """d_model d_state."""
        return self.d_model * self.d_state

    @jax.named_scope("s4")
    def _mix(self, x, inner, ctx):
        u = x
        if inner is not None and u.shape[1] == 1:
            y, h = self._step(u[:, 0], inner, ctx)
        else:
            y, h = self._chunks(u, inner, ctx.segments)
        y = y + self.D[...].astype(u.dtype) * u
        return gelu_glu(y, self.out_proj), h

    def _chunks(self, u: Array, inner: Array | None, layout: Segments) -> tuple[Array, Array]:
        A, b = bilinear_dplr(*self._system())
        c = readout(wide_complex(self.C_re, self.C_im, self.dtype))
        options = {"chunk_size": self.chunk_size}
        if self.causal:
            return dense_ssm(u, A, b, c, inner, segment_ids=layout, **options)
        y, h = dense_ssm(u, A, b, c[0], segment_ids=layout, **options)
        flipped = layout.flip()
        back, _ = dense_ssm(jnp.flip(u, 1), A, b, c[1], segment_ids=flipped, **options)
        return y + jnp.flip(delay(back, flipped), 1), h

    def _step(self, u: Float[Array, "B D"], h: Array, ctx: Context) -> tuple[Array, Array]:
        """One token without any N by N matrix; it continues the state, or is padding."""
        lam, p, b, dt = self._system()
        new = dplr_step(resolvent(lam, p, dt), h, planes(b) * u[..., None].astype(h.dtype), dt)
        if ctx.segments.masked:
            new = jnp.where(ctx.segments.valid[:, :, None], new, h)
        c = readout(wide_complex(self.C_re, self.C_im, self.dtype))
        return jnp.sum(c * new, -1)[:, None].astype(u.dtype), new

    def _system(self) -> tuple[Complex[Array, "D M"], Array, Array, Float[Array, "D"]]:
        """lam, p, b and the steps, from parameters in at least float32."""
        real = -jnp.exp(self.log_A_real[...].astype(self.wide))
        return (
            jax.lax.complex(real, self.A_imag[...].astype(self.wide)),
            wide_complex(self.P_re, self.P_im, self.wide),
            wide_complex(self.B_re, self.B_im, self.wide),
            jnp.exp(self.log_dt[...].astype(self.wide)) * self.step_rescale,
        )
