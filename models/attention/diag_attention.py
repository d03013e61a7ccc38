"""DiagAttention: softmax or relu attention in blocks (TransNormer: Qin et al. 2022, 2210.10340).

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s,   or   norm(Σ_s relu(q_t·k_s / √K) v_s)

over the keys s of t's block (s <= t if causal). Blocks of `block_size` tokens are counted from the
start of the segment. The relu form is normalised over all heads together, without a gain. Unlike
the authors' code, the last block of a row does not see its padding where it looks both ways.

Cost of L tokens: O(L C K) per head with blocks of C. State: 2 C d_model + 1 elements, the keys and
values of the block that is not complete.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.norm_attention import OutputNorm
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.softmax.local_blocks import (
    Recent,
    block_tags,
    continued_blocks,
    forget,
    latest,
    parallel_blocks,
    weights,
)


class DiagAttention(Mixer):
    """Attention within blocks; see the module docstring."""

    looks_both_ways = True
    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        block_size: int = 64,
        kind: Literal["softmax", "relu"] = "softmax",
        use_bias: bool = True,
        norm_eps: float = 1e-6,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for widths that do not divide, empty blocks and unknown kinds."""
        if num_heads < 1 or d_model % num_heads:
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if block_size < 1:
            raise ValueError(f"a block holds at least 1 token; got {block_size=}")
        if kind not in ("softmax", "relu"):
            raise ValueError(f"unknown {kind=}; known: softmax, relu")
        self.num_heads, self.d_head, self.block_size = num_heads, d_model // num_heads, block_size
        self.kind, self.causal = kind, causal
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, d_model, **options)
        self.k_proj = Linear(d_model, d_model, **options)
        self.v_proj = Linear(d_model, d_model, **options)
        self.out_proj = Linear(d_model, d_model, **options)
        norm = OutputNorm("srms", d_model, eps=norm_eps, rngs=rngs) if kind == "relu" else None
        self.norm = nnx.data(norm)

    def _initial(self, batch_size: int) -> Recent:
        token = jax.ShapeDtypeStruct((self.num_heads, self.d_head), self.kept)
        return forget((token, token), batch_size, self.block_size)

    def state_size(self) -> int:
        """2 C d_model + 1, C the block size."""
        return 2 * self.block_size * self.num_heads * self.d_head + 1

    def _mix(self, x: Float[Array, "B L D"], inner: Recent | None, ctx: Context):
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.num_heads, self.d_head)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        layout = ctx.segments
        tags = block_tags(layout, *x.shape[:2], self.block_size)
        if layout.masked:  # garbage at padding must not get into 0 * garbage
            k, v = (jnp.where(layout.valid[..., None, None], a, 0) for a in (k, v))
        if inner is None:
            places = jnp.broadcast_to(jnp.arange(x.shape[1]), tags.shape)
            rows = (q, tags, places), (k, v, tags, places)
            options = {"size": self.block_size, "ahead": not self.causal}
            o = parallel_blocks(self._step, None, *rows, layout, **options)
        else:
            o, inner = self._continued(q, k, v, tags, inner)
        o = o.reshape(*x.shape[:2], -1)
        o = o if self.norm is None else self.norm(o)
        return self.out_proj(o), inner

    def _continued(self, q, k, v, tags: Int[Array, "B C"], inner: Recent):
        k_tags = inner.tagged(tags)
        places = jnp.broadcast_to(jnp.arange(k_tags.shape[1]), k_tags.shape)
        queries = q, tags, places[:, inner.size :]
        keys = *inner.before((k, v)), k_tags, places
        o = continued_blocks(self._step, None, queries, keys, k_tags > 0, size=self.block_size)
        return o, inner.after((k, v), latest(k_tags))

    def _step(self, carry: None, queries: tuple, keys: tuple) -> tuple[None, Array]:
        return carry, self._weigh(queries, keys)

    def _weigh(self, queries: tuple, keys: tuple) -> Float[Array, "B C H V"]:
        (q, tags, places), (k, v, k_tags, k_places) = queries, keys
        seen = (tags[:, :, None] == k_tags[:, None]) & (k_tags[:, None] > 0)
        if self.causal:
            seen = seen & (places[:, :, None] >= k_places[:, None])
        wide = jnp.promote_types(q.dtype, jnp.float32)
        s = jnp.einsum("BCHK,BSHK->BHCS", q, k, preferred_element_type=wide) * self.d_head**-0.5
        p = weights(s, seen[:, None], self.kind)
        return jnp.einsum("BHCS,BSHV->BCHV", p, v.astype(wide))
