"""MoBA: a mixture of blocks of attention (Lu et al. 2025, arXiv:2502.13189).

    o_t = Σ_s softmax_s(q_t·k_s / √K) v_s     s <= t in t's own block and in the `top` blocks
                                              before it of largest q_t · mean(k of the block)

(section 2.2, equations 2 to 6), a choice for every query and head. Blocks of `block_size` tokens
are counted from the start of the segment. Choosing has no gradient; keys learn by being attended.

Where ours differs: scores of other blocks are made and put out of reach (`chosen.py`), so that the
cost is that of full attention, O(L² (K + L / C)) per head for L tokens in blocks of C: what MoBA
learns can be compared, what it saves cannot. `top` does not count the query's own block, which
there is one of them. State: 2 max_length d_model + 1 elements, keys, values and a count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.attention.cache import KVCache
from seqzoo.models.attention.sparse.chosen import ChosenBlocks, best
from seqzoo.models.attention.sparse_parts import PositionKind
from seqzoo.models.mixer import Context


class MoBA(ChosenBlocks):
    """Attention to the blocks whose mean key suits the query; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        block_size: int = 64,
        top: int = 2,
        positions: PositionKind = "rope",
        use_bias: bool = False,
        max_length: int = 2048,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`top`: blocks that a query chooses beside its own.

        Raises ValueError for widths that do not divide, empty blocks and negative counts.
        """
        sizes = (d_model, num_heads, block_size, top, positions, use_bias, max_length)
        super().__init__(*sizes, dtype=dtype, param_dtype=param_dtype, rngs=rngs)

    @jax.named_scope("moba")
    def _mix(self, x: Float[Array, "B L D"], inner: KVCache | None, ctx: Context):
        q, keys, after = self._projected(x, inner, ctx.segments)
        means = keys.blocks.pack(keys.k.astype(self.wide)).mean(2)  # of those that are complete
        scores = jnp.einsum("BLHK,BNHK->BLHN", q.astype(self.wide), means)
        mine, before = keys.before(q.shape[1])
        own = mine[..., None] == jnp.arange(before.shape[-1])
        chosen = best(scores, before, self.top) | own[:, :, None]
        return self._put_out(keys.attend_chosen(q, chosen), x), after
