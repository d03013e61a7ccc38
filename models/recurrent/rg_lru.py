"""The real-gated linear recurrent unit in Griffin's block (De et al. 2024, arXiv:2402.19427).

    r_t = σ(W_a x_t + b_a),  i_t = σ(W_i x_t + b_i),   log a_t = -8 r_t softplus(decay)
    h_t = a_t ⊙ h_{t-1} + sqrt(1 - a_t²) ⊙ i_t ⊙ x_t                               (eq. 1 to 4)
    out = W_out (h ⊙ gelu(W_gate u)),   x = conv(W_in u)                     (section 2.3, figure 2)

At the first token of a segment a_t is 0 and the root 1, so that the first input enters whole, as in
the released code. W_a and W_i are block-diagonal. softplus(decay) = -log ρ, ρ in [0.9, 0.999] and
uniform in area, also as released (the text has ρ^8 there). The derivative of the root is bounded by
1000, since it has no bound where a_t = 1. Cost of L tokens: O(L W (d_model + W / num_blocks)).
State: W d_conv elements per sequence, W = d_hidden: the convolution's window and h.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.recurrent.parts import hidden_width, wide

C = 8.0  # the paper's c
STEEPEST = 1000.0  # bound on the derivative of the root


@stream_state
class RGLRUState(NamedTuple):
    """The last inputs of the convolution and the state of the recurrence."""

    window: Float[Array, "B W-1 E"]
    h: Float[Array, "B E"]


@jax.custom_jvp
def bounded_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, with a derivative of at most `STEEPEST`."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals, tangents):
    (x,), (dx,) = primals, tangents
    root = jnp.sqrt(x)
    return root, dx / jnp.maximum(2 * root, 1 / STEEPEST)


def rg_lru(
    x: Float[Array, "B L W"],
    input_gate: Float[Array, "B L W"],
    decay_gate: Float[Array, "B L W"],
    decay: Float[Array, "W"],
    position: Int[Array, "#B L"],
    h0: Float[Array, "B W"] | None = None,
    *,
    segments: Segments | None = None,
) -> Float[Array, "B L W"]:
    """All states in at least float32; gates are in (0, 1), `position` is 0 where a segment starts.

    h[:, -1] is the state after the last real token.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    x, input_gate, decay_gate, decay = (a.astype(dtype) for a in (x, input_gate, decay_gate, decay))
    log_a = -C * decay_gate * jax.nn.softplus(decay)
    first = (position == 0)[..., None]
    a = jnp.where(first, 0, jnp.exp(log_a))
    root = jnp.where(first, 1, bounded_sqrt(-jnp.expm1(2 * log_a)))
    return linear_scan(a, root * input_gate * x, h0, segment_ids=segments)


class BlockDiagonal(nnx.Module):
    """A linear map whose matrix is block-diagonal, blocks [in, out] along the first axis."""

    def __init__(
        self,
        width: int,
        num_blocks: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        size = width // num_blocks
        self.num_blocks, self.dtype = num_blocks, dtype
        draw = jax.random.normal(rngs.params(), (num_blocks, size, size), param_dtype)
        self.kernel = nnx.Param(draw * size**-0.5)
        self.bias = nnx.Param(jnp.zeros((num_blocks, size), param_dtype))

    def __call__(self, x: Float[Array, "B L W"]) -> Float[Array, "B L W"]:
        """The map on the last axis."""
        blocks = x.astype(self.dtype).reshape(*x.shape[:-1], self.num_blocks, -1)
        y = jnp.einsum("BLHI,HIO->BLHO", blocks, self.kernel[...].astype(self.dtype))
        return (y + self.bias[...].astype(self.dtype)).reshape(x.shape)


def decay_init(
    key: Array, width: int, low: float, high: float, dtype: DTypeLike
) -> Float[Array, "W"]:
    """softplus^-1(-log ρ) of ρ uniform in area on low <= ρ <= high."""
    rate = -0.5 * jnp.log(jax.random.uniform(key, (width,), dtype, low**2, high**2))
    return rate + jnp.log(-jnp.expm1(-rate))


class RGLRU(Mixer):
    """Griffin's recurrent block around the RG-LRU; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_hidden: int | None = None,
        num_blocks: int = 4,
        d_conv: int = 4,
        decay_min: float = 0.9,
        decay_max: float = 0.999,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_hidden`: width of the recurrence, by default d_model; `num_blocks`: of the gates.

        Raises ValueError where num_blocks does not divide the width and unless
        0 < decay_min < decay_max < 1.
        """
        width = hidden_width(d_hidden, d_model)
        if num_blocks < 1 or width % num_blocks:
            raise ValueError(f"num_blocks must divide the width {width}; got {num_blocks=}")
        if not 0 < decay_min < decay_max < 1:
            raise ValueError(
                f"decays must keep 0 < decay_min < decay_max < 1; got {decay_min=}, {decay_max=}"
            )
        self.d_hidden = width
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, width, **options)
        self.gate_proj = Linear(d_model, width, **options)
        self.conv = DepthwiseConv(width, d_conv, **options)
        self.input_gate_proj = BlockDiagonal(width, num_blocks, **options)
        self.decay_gate_proj = BlockDiagonal(width, num_blocks, **options)
        decay = decay_init(rngs.params(), width, decay_min, decay_max, param_dtype)
        self.decay = nnx.Param(decay, group="dynamics")
        self.out_proj = Linear(width, d_model, **options)

    def _initial(self, batch_size: int) -> RGLRUState:
        h = jnp.zeros((batch_size, self.d_hidden), self.wide)
        return RGLRUState(self.conv.initial(batch_size), h)

    def state_size(self) -> int:
        """d_hidden d_conv."""
        return self.conv.state_size() + self.d_hidden

    @jax.named_scope("rg_lru")
    def _mix(self, x: Float[Array, "B L D"], inner: RGLRUState | None, ctx: Context):
        layout = ctx.segments
        window, h0 = (None, None) if inner is None else inner
        gate = jax.nn.gelu(self.gate_proj(x))
        u, window = self.conv(self.in_proj(x), window, layout)
        input_gate, decay_gate = (
            jax.nn.sigmoid(wide(p(u))) for p in (self.input_gate_proj, self.decay_gate_proj)
        )
        h = rg_lru(
            u,
            input_gate,
            decay_gate,
            self.decay[...],
            layout.position,
            h0,
            segments=layout,
        )
        return self.out_proj(h.astype(x.dtype) * gate), RGLRUState(window, h[:, -1])
