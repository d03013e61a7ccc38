"""Gated attention units, GAU (Hua et al. 2022, arXiv:2202.10447).

    o = W_out (g ⊙ Σ_s w_ts v_s),   v, g = silu(W x),   z = silu(W_qk x),   q, k = γ ⊙ z + β

One head with wide values and narrow keys. Weights are relu(s / n)², the Laplace function of s / n,
or softmax(s); s_ts = q_t·k_s + √D b_(t-s) with T5 buckets b. The authors' n is the length of the
row. Here it is how many tokens the query sees, so that a stream and a packed row mean the same, or
the option `length`.

Cost of L tokens: O(L² (K + E)), E = expansion d_model. State: M (K + E) + 1 elements, M =
max_length. The same in linear time is FLASH (`flash.py`).
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.cache import KVCache, slot_positions, write
from seqzoo.models.attention.gated.unit import GatedUnit
from seqzoo.models.mixer import Context
from seqzoo.models.ops.softmax.local_blocks import WeightKind, all_blocks, run_tags, weights

QUERIES = 256  # at a time, so that scores are never all there


def joined(keys: tuple, cache: KVCache) -> tuple[tuple, KVCache]:
    """The cached keys, values, tags and positions before the new ones, and the cache after them."""
    k, v, tags, place = keys
    slots = slot_positions(cache.length, cache.k.shape[1])
    old = cache.k[:, :, 0], cache.v[:, :, 0], (slots >= 0).astype(tags.dtype), slots
    both = tuple(jnp.concatenate([a.astype(b.dtype), b], 1) for a, b in zip(old, keys, strict=True))
    return both, write(cache, k[:, :, None], v[:, :, None], place, tags)


class GAU(GatedUnit):
    """Gated attention unit with quadratic attention; see the module docstring."""

    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        d_qk: int = 128,
        expansion: float = 2.0,
        kind: WeightKind = "squared_relu",
        rotary: bool = False,
        relative_bias: bool = True,
        length: int | None = None,
        max_length: int = 2048,
        causal: bool = True,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`length`: what scores are divided by; None for how many tokens a query sees.

        `max_length`: most tokens of a segment, if causal. Raises ValueError for what cannot
        be.
        """
        dtypes = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        flags = {"kind": kind, "rotary": rotary, "relative_bias": relative_bias}
        super().__init__(
            d_model, d_qk, expansion, 2, **flags, length=length, causal=causal, **dtypes
        )
        if max_length < 1:
            raise ValueError(f"max_length counts tokens, at least 1; got {max_length=}")
        self.slots, self.max_length = max_length, max_length if causal else None

    def _initial(self, batch_size: int) -> KVCache:
        k, v = (
            jnp.zeros((batch_size, self.slots, 1, n), self.kept) for n in (self.d_qk, self.d_value)
        )
        return KVCache(k, v, jnp.zeros(batch_size, jnp.int32))

    def state_size(self) -> int:
        """M (K + E) + 1."""
        return self.slots * (self.d_qk + self.d_value) + 1

    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        layout, (batch, length) = ctx.segments, x.shape[:2]
        z, v, gate = self._project(x)
        q, k, v = self._zeroed([*self._scaled(z, layout.position), v], layout)
        tags = run_tags(layout, batch, length)
        place = jnp.broadcast_to(layout.position, tags.shape)
        n = jnp.broadcast_to(self._seen_tokens(layout, length), tags.shape)
        queries, keys = (q, tags, place, n), (k, v, tags, place)
        in_order = inner is None
        if inner is not None:
            keys, inner = joined(keys, inner)
        options = {"size": QUERIES, "causal": in_order and self.causal}
        o = all_blocks(self._weigh, queries, keys, **options)
        return self._out(o, gate, x), inner

    def _weigh(self, queries: tuple, keys: tuple) -> Float[Array, "B C E"]:
        (q, tags, place, n), (k, v, k_tags, k_place) = queries, keys
        seen = (tags[:, :, None] == k_tags[:, None]) & (k_tags[:, None] > 0)
        if self.causal:
            seen = seen & (place[:, :, None] >= k_place[:, None])
        s = jnp.einsum("BCK,BSK->BCS", q, k)
        if self.kind == "softmax":
            s = s * self.d_qk**-0.5 + self._bias(place, k_place, self.d_model)
        else:
            n = jnp.maximum(n, 1)[..., None]  # 0 where a block is filled up
            s = (s + self._bias(place, k_place, self.d_model)) / n.astype(s.dtype)
        return weights(s, seen, self.kind) @ v
