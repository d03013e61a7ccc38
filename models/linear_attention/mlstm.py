"""The mLSTM of xLSTM (Beck et al. 2024, arXiv:2405.04517, eq. 19 to 27), in the layer of xLSTM-7B.

    C_t = σ(f_t) C_{t-1} + e^{i_t} k_t v_tᵀ,   n_t = σ(f_t) n_{t-1} + e^{i_t} k_t,   k = W_k x / √K
    h_t = C_tᵀ q_t / max(|n_tᵀ q_t|, 1),   y_t = W_out (σ(W_o x_t) ⊙ layernorm(h_t) scale)

C and n are kept in units of e^{m_t}, m_t = max(log σ(f_t) + m_{t-1}, i_t) and m_0 = 0, so that no
exponential overflows: gated linear attention with the decay σ(f_t) e^{m_{t-1} - m_t}, n being a
column of C. In those units the denominator has 1e-6 added, as published. The norm is over each
head. Gates are capped softly, a tanh(z / a) (arXiv:2503.13427, which is this layer; the first paper
put it behind an up-projection and a convolution, which `short_conv` of a backbone gives).

Cost of L tokens in chunks of C: O(L C (K + V) + L K V) per head. State: H (K (V + 1) + 1) elements
per sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.matrix_state import (
    MatrixState,
    head_layer_norm,
    matrix_sizes,
)
from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from seqzoo.models.ops.scan.running_max import carried, decayed_max
from seqzoo.models.recurrent.parts import wide

EPS = 1e-6  # beside the denominator


@stream_state
class MLSTMState(NamedTuple):
    """C e^-m with n e^-m as its last column, and m."""

    s: Float[Array, "B H K V+1"]
    m: Float[Array, "B H"]


def mlstm(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B L H K"],
    v: Float[Array, "B L H V"],
    input_gate: Float[Array, "B L H"],
    forget_gate: Float[Array, "B L H"],
    initial: MLSTMState | None = None,
    *,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L H V"], MLSTMState]:
    """h and the state after the last real token; gates are before their nonlinearities."""
    layout = as_segments(segment_ids, q.shape[1])
    i, log_forget = wide(input_gate), jax.nn.log_sigmoid(wide(forget_gate))
    m0 = jnp.zeros(i.shape[:1] + i.shape[2:], i.dtype) if initial is None else initial.m
    m, before = decayed_max(i, log_forget, m0, fresh=0.0, layout=layout)
    if layout.masked:  # at padding e^{i - m} might overflow
        i = jnp.where(layout.valid[..., None], i, m)
    k = wide(k) * (jnp.exp(i - m) * k.shape[-1] ** -0.5)[..., None]
    s0 = None if initial is None else initial.s * carried(m0)[..., None, None]
    o, s = gated_linear_attention(
        wide(q),
        k,
        jnp.concatenate([wide(v), jnp.ones((*v.shape[:3], 1), i.dtype)], axis=-1),
        (log_forget + before - m)[..., None],
        s0,
        chunk_size=chunk_size,
        segment_ids=layout,
    )
    o, weight = o[..., :-1], o[..., -1:]
    h = o / (jnp.maximum(jnp.abs(weight), jnp.exp(-m)[..., None]) + EPS)
    return h.astype(v.dtype), MLSTMState(s, m[:, -1])


class MLSTM(MatrixState):
    """Linear attention with exponential input gates; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        gate_cap: float | None = 15.0,
        norm_eps: float = 1e-6,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_value` is d_model / num_heads by default, `d_key` half of it; `gate_cap`: a.

        Raises ValueError for sizes that cannot be and a cap that is not above 0.
        """
        if gate_cap is not None and gate_cap <= 0:
            raise ValueError(f"gate_cap must be above 0, or None for no cap; got {gate_cap=}")
        sizes = matrix_sizes(d_model, num_heads, d_key, d_value, key_factor=0.5)
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        super().__init__(d_model, sizes, chunk_size, **options)
        self.gate_cap, self.norm_eps = gate_cap, norm_eps
        zeros = nnx.initializers.zeros
        self.in_proj = Linear(d_model, 2 * num_heads, kernel_init=zeros, **options)  # i, f
        open_late = jnp.full(num_heads, -10.0), jnp.linspace(3.0, 6.0, num_heads)
        self.in_proj.bias[...] = jnp.concatenate(open_late).astype(param_dtype)
        inner = num_heads * sizes.d_value
        self.gate_proj = Linear(d_model, inner, use_bias=False, **options)
        self.scale = nnx.Param(jnp.ones(inner, param_dtype))

    def _initial(self, batch_size: int) -> MLSTMState:
        heads, _, d_key, d_value = self.sizes
        s = jnp.zeros((batch_size, heads, d_key, d_value + 1), self.wide)
        return MLSTMState(s, jnp.zeros((batch_size, heads), self.wide))

    def state_size(self) -> int:
        """H (K (V + 1) + 1)."""
        heads, _, d_key, d_value = self.sizes
        return heads * (d_key * (d_value + 1) + 1)

    @jax.named_scope("mlstm")
    def _mix(self, x: Float[Array, "B L D"], inner: MLSTMState | None, ctx: Context):
        q, k, v = (self._heads(p(x)) for p in (self.q_proj, self.k_proj, self.v_proj))
        gates = wide(self.in_proj(x))
        if self.gate_cap is not None:
            gates = self.gate_cap * jnp.tanh(gates / self.gate_cap)
        i, f = jnp.split(gates, 2, axis=-1)
        h, state = mlstm(q, k, v, i, f, inner, chunk_size=self.chunk_size, segment_ids=ctx.segments)
        h = head_layer_norm(h, self.scale[...], None, self.norm_eps)
        y = h * jax.nn.sigmoid(wide(self.gate_proj(x)))
        return self.out_proj(y), state
