"""S5: one diagonal state space with many inputs and outputs (Smith et al. 2023, arXiv:2208.04933).

    x' = diag(lam) x + B u,   y = 2 Re(C x) + D ⊙ u        x complex [P], B [P, D], C [D, P]

discretised by zoh or bilinear steps, one a state. lam starts as the eigenvalues of the normal part
of HiPPO-LegS, in `num_blocks` equal blocks, and B and C as random real matrices seen from its
eigenvectors. With `conj_sym` only the members of conjugate pairs with negative imaginary part are
kept, else there is no factor 2. GELU (tanh form) and one of the published gates follow. With
`causal=False` a second C reads the states of the reversed row, which include the current token.

Cost of L tokens: O(L D P), plus O(L D²) for the gate.
State: d_state elements per sequence with conj_sym, else 2 d_state.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ssm.discretize import LayerMethod, discretize
from seqzoo.models.ssm.dplr import pairs, planes
from seqzoo.models.ssm.hippo import check_even, nplr
from seqzoo.models.ssm.parts import check_steps, log_steps

Gate = Literal["none", "gelu", "half_glu1", "half_glu2", "full_glu"]
GATES = ("none", "gelu", "half_glu1", "half_glu2", "full_glu")
SLOWEST = -1e-4  # largest real part of an eigenvalue with clip_eigs, as published


def s5_init(
    n: int, blocks: int = 1, *, conj_sym: bool = True
) -> tuple[Complex[np.ndarray, "P"], Complex[np.ndarray, "N P"]]:
    """Eigenvalues and eigenvectors of a block-diagonal HiPPO-N matrix of real size n, float64.

    P is n, or n / 2 with conj_sym: one of each pair, with negative imaginary part.

    Raises:
        ValueError: for blocks that do not divide n in even sizes.
    """
    if blocks < 1 or n % blocks:
        raise ValueError(f"blocks must divide the state; got {n=}, {blocks=}")
    size = n // blocks
    check_even(size)
    lam, _, _, v = nplr("legsd", size)
    if not conj_sym:
        lam = np.concatenate([lam, lam[::-1].conj()])
        v = np.concatenate([v, v[:, ::-1].conj()], axis=1)
    return np.tile(lam, blocks), np.kron(np.eye(blocks), v)


class S5(Mixer):
    """A diagonal state space shared by the channels; see the module docstring."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        num_blocks: int = 1,
        conj_sym: bool = True,
        discretization: LayerMethod = "zoh",
        clip_eigs: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        step_rescale: float = 1.0,
        gate: Gate = "half_glu1",
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Steps start log-uniform in [dt_min, dt_max].

        Args:
            d_model: channels D.
            d_state: real size of the HiPPO matrix.
            num_blocks: its equal diagonal blocks.
            conj_sym: whether one of each conjugate pair stands for both.
            discretization: "zoh" or "bilinear".
            clip_eigs: keeps the real parts of lam below -1e-4.
            dt_min: least step at the start.
            dt_max: largest step at the start.
            step_rescale: factor of all steps: the old over the new sampling rate, after training.
            gate: of g = gelu(y): "half_glu1" g * sigmoid(W g), "half_glu2" y * sigmoid(W g),
                "full_glu" (W' g) * sigmoid(W g), "gelu" g alone; "none" is y.
            causal: False adds the reversed direction.
            dtype: of the computation.
            param_dtype: of the parameters.
            rngs: random streams.

        Raises ValueError for blocks that are not of one even size, an unknown gate or
        discretisation, and steps that are not 0 < dt_min <= dt_max.
        """
        check_steps(dt_min, dt_max, step_rescale)
        if discretization not in ("zoh", "bilinear"):
            raise ValueError(f"unknown {discretization=}; known: zoh, bilinear")
        if gate not in GATES:
            raise ValueError(f"unknown {gate=}; known: {', '.join(GATES)}")
        lam, v = s5_init(d_state, num_blocks, conj_sym=conj_sym)
        self.size, self.gate = len(lam), gate
        self.conj_sym, self.clip_eigs, self.causal = conj_sym, clip_eigs, causal
        self.discretization, self.step_rescale = discretization, step_rescale
        self.A_real = nnx.Param(jnp.asarray(lam.real, param_dtype), group="dynamics")
        self.A_imag = nnx.Param(jnp.asarray(lam.imag, param_dtype), group="dynamics")
        steps = log_steps(rngs, len(lam), dt_min, dt_max, param_dtype)
        self.log_dt = nnx.Param(steps, group="dynamics")
        B, C = self._weights(v, d_model, jnp.promote_types(param_dtype, jnp.float32), rngs)
        self.B_re, self.B_im = (
            nnx.Param(x.astype(param_dtype), group="dynamics") for x in (B.real, B.imag)
        )
        self.C_re, self.C_im = (nnx.Param(x.astype(param_dtype)) for x in (C.real, C.imag))
        self.D = nnx.Param(jax.random.normal(rngs.params(), (d_model,), param_dtype))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        gated = gate.endswith(("glu", "glu1", "glu2"))
        self.gate_proj = Linear(d_model, d_model, **options) if gated else None
        self.out_proj = Linear(d_model, d_model, **options) if gate == "full_glu" else None

    def _weights(self, v: np.ndarray, width: int, dtype: DTypeLike, rngs: nnx.Rngs):
        """Random real B and complex C of variance one over their inputs, in the eigenbasis."""
        n, v = v.shape[0], jax.lax.complex(*(jnp.asarray(a, dtype) for a in (v.real, v.imag)))
        B = jax.random.normal(rngs.params(), (n, width), dtype) * width**-0.5
        shape = (n, 2) if self.causal else (2, n, 2)
        shape = (*shape[:-2], width, *shape[-2:])
        C = jax.random.normal(rngs.params(), shape, dtype) * (2 * n) ** -0.5
        return v.conj().T @ B, jax.lax.complex(C[..., 0], C[..., 1]) @ v

    def _initial(self, batch_size: int) -> Float[Array, "B N"]:
        return jnp.zeros((batch_size, 2 * self.size), self.wide)  # real and imaginary planes

    def state_size(self) -> int:
        """d_state with conj_sym, else 2 d_state."""
        return 2 * self.size

    @jax.named_scope("s5")
    def _mix(self, x, inner, ctx):
        u = x
        decay, inputs = self._inputs(u)
        h0 = None if inner is None else pairs(inner)
        h = linear_scan(decay, inputs, h0, segment_ids=ctx.segments)
        last = planes(h[:, -1])
        if not self.causal:
            back = linear_scan(decay, inputs, reverse=True, segment_ids=ctx.segments)
            h = jnp.concatenate([h, back], axis=-1)
        y = self._readout(h) + self.D[...].astype(u.dtype) * u
        return self._gated(y), last

    def _inputs(self, u: Float[Array, "B L D"]) -> tuple[Array, Complex[Array, "B L P"]]:
        """The decays of one step and dB u, in at least float32."""
        real, imag, log_dt, B_re, B_im = (
            p[...].astype(self.wide)
            for p in (self.A_real, self.A_imag, self.log_dt, self.B_re, self.B_im)
        )
        if self.clip_eigs:
            real = jnp.minimum(real, SLOWEST)
        dt = jnp.exp(log_dt) * self.step_rescale
        lam = jax.lax.complex(real, imag)
        decay, factor = discretize(lam, jnp.ones((), lam.dtype), dt, method=self.discretization)
        B = factor[:, None] * jax.lax.complex(B_re, B_im)
        B = jnp.concatenate([B.real, B.imag]).astype(u.dtype)
        return decay, pairs(jnp.einsum("BLD,ND->BLN", u, B).astype(self.wide))

    def _readout(self, h: Complex[Array, "B L P"]) -> Float[Array, "B L D"]:
        """s Re(C h), s = 2 where pairs stand for both members."""
        C_re, C_im = self.C_re[...], self.C_im[...]
        if not self.causal:
            C_re, C_im = (jnp.concatenate([*x], axis=-1) for x in (C_re, C_im))
        C = jnp.concatenate([C_re, -C_im], axis=-1) * (2 if self.conj_sym else 1)
        return jnp.einsum("BLN,DN->BLD", planes(h).astype(self.dtype), C.astype(self.dtype))

    def _gated(self, y: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        if self.gate == "none":
            return y
        g = jax.nn.gelu(y, approximate=True)
        if self.gate_proj is None:
            return g
        value = y if self.gate == "half_glu2" else g
        if self.out_proj is not None:
            value = self.out_proj(g)
        return value * jax.nn.sigmoid(self.gate_proj(g))
