"""Attention of one sequence to another, as in an encoder-decoder (Vaswani et al. 2017, 3.2.3).

    o_t = sum_s softmax_s(q_t . k_s / sqrt(K)) v_s      q from x, k and v from the context

No order is kept between the two. `CrossMixer` is the interface of whatever lets one sequence read
another; it is no `Mixer`, since its state would be the whole context. `Reader` is one, in the
blocks of a decoder: what it reads travels through them as what they share.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models import door
from seqzoo.models.construct import Construction
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer, real_only
from seqzoo.models.ops.softmax.attention import attention


class CrossMixer(nnx.Module, metaclass=Construction):
    """A map [B, L, D], [B, S, E] -> [B, L, D] in which a token reads the context of its own id.

    A token with segment id i > 0 reads every context token with the id i, wherever it stands; 0 is
    padding in both. Rows of x may so be packed with the contexts that belong to them. Without ids
    all tokens are of one segment. A token that has no context reads 0.
    """

    @abc.abstractmethod
    def __call__(
        self,
        x: Float[Array, "B L D"],
        context: Float[Array, "B S E"],
        segment_ids: Int[Array, "B L"] | None = None,
        context_segment_ids: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B L D"]:
        """What the tokens read."""


class CrossAttention(CrossMixer):
    """Multi-head cross-attention; cost O(L S K) per head, memory linear in L and S."""

    def __init__(
        self,
        d_model: int,
        d_context: int | None = None,
        *,
        num_heads: int = 4,
        num_kv_heads: int | None = None,
        d_head: int | None = None,
        scale: float | None = None,
        use_bias: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_context`: width of the context, d_model by default; `scale` of scores, K^-0.5.

        `num_heads` of queries share the `num_kv_heads` of keys and values (as many by default),
        each `d_head` wide (d_model / num_heads by default); `use_bias`: of the projections.

        Raises ValueError for numbers of heads that do not divide.
        """
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or (d_head is None and d_model % num_heads):
            raise ValueError(
                f"num_heads must divide d_model (or give d_head); got {d_model=}, {num_heads=}"
            )
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads; got {num_kv_heads=}, {num_heads=}"
            )
        d_head = d_model // num_heads if d_head is None else d_head
        d_context = d_model if d_context is None else d_context
        self.d_head, self.d_context, self.scale = d_head, d_context, scale
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, num_heads * d_head, **options)
        self.k_proj = Linear(d_context, num_kv_heads * d_head, **options)
        self.v_proj = Linear(d_context, num_kv_heads * d_head, **options)
        self.out_proj = Linear(num_heads * d_head, d_model, **options)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        context: Float[Array, "B S E"],
        segment_ids: Int[Array, "B L"] | None = None,
        context_segment_ids: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B L D"]:
        """See `CrossMixer`. Raises ValueError for inputs or ids that cannot be."""
        name = type(self).__name__
        door.check_rows(x, self.d_model, name)
        door.check_rows(context, self.d_context, name, "context")
        if len(x) != len(context):
            raise ValueError(f"{name}: x has {len(x)} rows and their contexts {len(context)}")
        door.check_ids(segment_ids, x.shape[:2], name)
        door.check_ids(context_segment_ids, context.shape[:2], name, "context_segment_ids")
        ids = (segment_ids, context_segment_ids)
        return door.through(_read, self, x, None, context, *ids, rngs=None)[0]

    def kept_of(self, context: Float[Array, "B S E"]) -> tuple[Array, Array]:
        """Keys and values [B, S, H, K] of a context."""
        projections = (self.k_proj, self.v_proj)
        keys, values = (
            p(context).reshape(*context.shape[:2], -1, self.d_head) for p in projections
        )
        return keys, values

    def read(
        self,
        x: Float[Array, "B L D"],
        keys: Float[Array, "B S H K"],
        values: Float[Array, "B S H V"],
        ids: Int[Array, "B L"] | None,
        context_ids: Int[Array, "B S"] | None,
    ) -> Float[Array, "B L D"]:
        """What tokens read of keys and values that were made before."""
        q = self.q_proj(x).reshape(*x.shape[:2], -1, self.d_head)
        tags = {"segment_ids": ids, "k_segment_ids": context_ids}
        o = attention(q, keys, values, scale=self.scale, **tags)
        return self.out_proj(o.reshape(*x.shape[:2], -1)).astype(x.dtype)


def _read(
    mixer: CrossAttention,
    x: Array,
    state: None,
    context: Array,
    ids: Array | None,
    context_ids: Array | None,
    rngs: None,
) -> tuple[Array, None]:
    """What the tokens read, 0 at padding."""
    if 0 in x.shape[:2]:
        return x, state
    if context.shape[1] == 0:  # one token that nobody reads
        context = jnp.zeros((x.shape[0], 1, context.shape[2]), context.dtype)
        context_ids = jnp.zeros((x.shape[0], 1), jnp.int32)
    valid = None if ids is None else ids > 0
    if ids is not None or context_ids is not None:
        ids, context_ids = (
            jnp.ones(a.shape[:2], jnp.int32) if ids is None else ids.astype(jnp.int32)
            for a, ids in ((x, ids), (context, context_ids))
        )
        x, context = real_only(x, ids > 0), real_only(context, context_ids > 0)
    y = mixer.read(x, *mixer.kept_of(context), ids, context_ids)
    return real_only(y, valid), state


class Memory(NamedTuple):
    """What the readers of a decoder read; the batch axis comes first in every leaf that is kept.

    Keys and values are those of each layer, made once for a context. `layer` is which one is next,
    in the course of a call.
    """

    keys: Float[Array, "B N S H K"]
    values: Float[Array, "B N S H V"]
    ids: Int[Array, "B S"]  # of the context
    reading: Int[Array, "B L"] | None = None  # of the tokens that read; None: 1
    layer: Int[Array, ""] | None = None


class Reader(Mixer):
    """Cross-attention in a decoder's block: it reads layer n of `ctx.shared`, a `Memory`.

    State: none.
    """

    def __init__(self, d_model: int, *, rngs: nnx.Rngs, **options: Any):
        """`options`: of `CrossAttention`."""
        self.cross = CrossAttention(d_model, **options, rngs=rngs)
        self.d_model, self.dtype = d_model, options.get("dtype", jnp.float32)
        scale = self.cross.scale
        self.usual_queries = 1.0 if scale is None else self.cross.d_head**-0.5 / scale

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """None."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: Any, ctx: Context):
        memory: Memory = ctx.shared
        keys, values = (
            jnp.take(part, memory.layer, axis=1) for part in (memory.keys, memory.values)
        )
        reading = jnp.ones(x.shape[:2], jnp.int32) if memory.reading is None else memory.reading
        ctx.shared = memory._replace(layer=memory.layer + 1)
        return self.cross.read(x, keys, values, reading, memory.ids), inner
