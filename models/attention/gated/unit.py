"""What GAU and FLASH share: projections, scalings of one narrow z, and what a query sees."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.positions.encodings import Sizes
from seqzoo.models.attention.positions.relative import T5
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.softmax.local_blocks import WeightKind, check_kind
from seqzoo.models.ops.softmax.rope import rope

# The backward pass makes sigmoids again; kept, they would be a sixth of all that is.
silu = jax.checkpoint(jax.nn.silu)
_gated = jax.checkpoint(lambda o, gate: o * jax.nn.silu(gate))


class GatedUnit(Mixer):
    """The projections that GAU and FLASH share."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        d_qk: int,
        expansion: float,
        num_scalings: int,
        *,
        kind: WeightKind,
        rotary: bool,
        relative_bias: bool,
        length: int | None,
        causal: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for sizes below 1, unknown weights and an odd d_qk to be rotated."""
        check_kind(kind)
        if d_qk < 1 or expansion * d_model < 1 or (length is not None and length < 1):
            raise ValueError(
                f"d_qk, expansion * d_model and length are at least 1; got {d_qk=}, {expansion=}, "
                f"{length=}"
            )
        if rotary and d_qk % 2:
            raise ValueError(f"rotary positions need an even width; got {d_qk=}")
        self.d_qk, self.d_value = d_qk, round(expansion * d_model)
        self.kind, self.rotary, self.length = kind, rotary, length
        self.causal = causal
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.v_proj = Linear(d_model, self.d_value, **options)
        self.gate_proj = Linear(d_model, self.d_value, **options)
        self.qk_proj = Linear(d_model, d_qk, **options)
        self.out_proj = Linear(self.d_value, d_model, **options)
        noise = jax.random.normal(rngs.params(), (num_scalings, d_qk), param_dtype)
        self.scale = nnx.Param(1 + 0.02 * noise)
        self.bias = nnx.Param(jnp.zeros((num_scalings, d_qk), param_dtype))
        table = None
        if relative_bias:
            heads = {"num_heads": 1, "num_kv_heads": 1, "d_head": d_qk}
            sizes = Sizes(d_model=d_model, **heads, causal=causal, param_dtype=param_dtype)
            table = T5().plug_in(sizes, rngs)
        self.positions = nnx.data(table)

    def _project(self, x: Array) -> tuple[Array, Array, Array]:
        """z, values, and gates before their silu."""
        wide = jnp.promote_types(x.dtype, jnp.float32)
        z, v = (silu(p(x)).astype(wide) for p in (self.qk_proj, self.v_proj))
        return z, v, self.gate_proj(x)

    def _scaled(self, z: Float[Array, "B L K"], positions: Int[Array, "#B L"]) -> list[Array]:
        """Queries and keys made of z."""
        items = [z * a + b for a, b in zip(self.scale[...], self.bias[...], strict=True)]
        if not self.rotary:
            return items
        return [rope(a[:, :, None], positions, interleaved=True)[:, :, 0] for a in items]

    def _zeroed(self, items: list[Array], layout: Segments) -> list[Array]:
        """0 at padding."""
        if not layout.masked:
            return items
        return [jnp.where(layout.valid[..., None], a, 0) for a in items]

    def _bias(self, positions: Int[Array, "#B C"], k_positions: Int[Array, "#B S"], factor: float):
        """The bias of each distance, or 0."""
        if self.positions is None:
            return 0.0
        table = self.positions.embed[...].T
        ahead = positions[:, :, None] - k_positions[:, None]
        return factor**0.5 * self.positions.term(table, None, None, ahead)[:, 0]

    def _out(self, o: Array, gate: Array, x: Array) -> Array:
        return self.out_proj(_gated(o.astype(x.dtype), gate))

    def _seen_tokens(self, layout: Segments, length: int) -> Float[Array, "#B L"]:
        """n: the tokens that each query may see, or the option."""
        if self.length is not None:
            return jnp.full((1, length), self.length, self.wide)
        if not self.causal and not layout.masked:
            return jnp.full((1, length), length, self.wide)
        count = layout.position + 1
        if not self.causal:
            count = count + jnp.flip(layout.flip().position, 1)
        return count.astype(self.wide)
