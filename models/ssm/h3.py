"""H3, "hungry hungry hippos" (Fu et al. 2022, arXiv:2212.14052).

    q, k, v = W_q x, W_k x, W_v x,   y = W_o (q ⊙ S4D(shift(k) ⊙ v))

Two state spaces with products between them: the shift SSM remembers the last d_shift keys, the
diagonal one carries what a key met. Heads of d_head channels remember outer products:
y_j = sum_i q_i S4D(shift(k)_i v_j), one system a head (section 3.1).

The shift SSM, whose A moves its state on by one and whose B is the first unit vector, is a filter
with the taps C; its skip connection D is part of the first tap here. C and D start standard
normal.
Cost of L tokens: O(L d_model (d_model + d_shift)) and S4D's for d_model d_head channels.
State: (d_shift - 1) d_model + d_model d_head d_state elements per sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.ssm.diagonal import CHUNK
from seqzoo.models.ssm.s4d import S4D, Init


@stream_state
class H3State(NamedTuple):
    """The last keys, and the diagonal systems: P = d_head² products for each of H heads."""

    window: Float[Array, "B W-1 D"]
    h: Float[Array, "B P H N"]


class H3(Mixer):
    """A shift and a diagonal state space with gates; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        d_shift: int = 64,
        d_head: int = 1,
        init: Init = "lin",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        step_rescale: float = 1.0,
        chunk_size: int = CHUNK,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_shift`: how many keys the shift SSM remembers; the rest are S4D's options.

        Raises ValueError for a d_head that does not divide d_model, a d_shift below 1, and what
        S4D refuses.
        """
        if d_head < 1 or d_model % d_head:
            raise ValueError(f"d_head must divide d_model; got {d_model=}, {d_head=}")
        self.d_head, self.num_heads = d_head, d_model // d_head
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, d_model, **options)
        self.k_proj = Linear(d_model, d_model, **options)
        self.v_proj = Linear(d_model, d_model, **options)
        self.conv = DepthwiseConv(d_model, d_shift, use_bias=False, **options)
        taps = jax.random.normal(rngs.params(), (d_shift + 1, d_model), param_dtype)
        self.conv.kernel[...] = taps[1:].at[-1].add(taps[0])
        steps = {"dt_min": dt_min, "dt_max": dt_max, "step_rescale": step_rescale}
        system = {"d_state": d_state, "init": init, "gate": False, "chunk_size": chunk_size}
        self.ssm = S4D(self.num_heads, **system, **steps, **options)
        self.out_proj = Linear(d_model, d_model, **options)

    def _initial(self, batch_size: int) -> H3State:
        products = self.d_head**2
        h = self.ssm._initial(batch_size * products)
        return H3State(self.conv.initial(batch_size), h.reshape(batch_size, products, *h.shape[1:]))

    def state_size(self) -> int:
        """(d_shift - 1) d_model + d_model d_head d_state."""
        return self.conv.state_size() + self.d_head**2 * self.ssm.state_size()

    @jax.named_scope("h3")
    def _mix(self, x: Float[Array, "B L D"], inner: H3State | None, ctx: Context):
        window, h = (None, None) if inner is None else inner
        k, window = self.conv(self.k_proj(x), window, ctx.segments)
        q, k, v = (_heads(a, self.d_head) for a in (self.q_proj(x), k, self.v_proj(x)))
        products, h = self._remember(k[..., :, None] * v[..., None, :], h, ctx)
        y = jnp.einsum("BLHI,BLHIJ->BLHJ", q, products).reshape(x.shape)
        return self.out_proj(y), H3State(window, h)

    def _remember(self, products: Float[Array, "B L H I J"], h: Array | None, ctx: Context):
        """The diagonal SSM over each product of a head's channels, as further rows."""
        batch, length, heads, *_ = shape = products.shape
        count = self.d_head**2
        rows = products.reshape(batch, length, heads, count)
        rows = jnp.moveaxis(rows, 3, 1).reshape(batch * count, length, heads)
        layout = _repeat_rows(ctx.segments, batch, count)
        h = None if h is None else h.reshape(batch * count, *h.shape[2:])
        y, h = self.ssm._mix(rows, h, Context(layout, ctx.rngs))
        y = jnp.moveaxis(y.reshape(batch, count, length, heads), 1, 3).reshape(shape)
        return y, h.reshape(batch, count, *h.shape[1:])


def _heads(x: Float[Array, "B L D"], width: int) -> Float[Array, "B L H I"]:
    return x.reshape(*x.shape[:2], -1, width)


def _repeat_rows(layout: Segments, batch: int, count: int) -> Segments:
    """The layout of rows that follow each other `count` times."""
    if count == 1:
        return layout

    def repeat(a: Array) -> Array:
        return jnp.repeat(jnp.broadcast_to(a, (batch, *a.shape[1:])), count, axis=0)

    return jax.tree.map(repeat, layout)
