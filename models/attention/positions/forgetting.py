"""A forget gate in softmax attention (Lin et al. 2025, arXiv:2503.02130): "FoX".

    o_t = Σ_s softmax_s(q_t . k_s / sqrt(K) + Σ_{s < l <= t} log f_l) v_s,  f_l = σ(w_f x_l + b_f)

per head (eq. 5 to 7): what tokens say takes the place of positions. The sum of a pair is a
difference of two running sums, so a token has one number a head, which streams keep beside its key.
Where ours differs: both ways, which the paper does not have, gates between the two tokens count,
whichever comes first.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seqzoo.models.attention.positions.encodings import Encoding, PlugIn, Scored, Sizes, Tokens
from seqzoo.models.linear import Linear
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ops.softmax.relative import Relative, Terms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forgetting(Encoding):
    """The logarithms of forget gates between query and key (Lin et al. 2025, arXiv:2503.02130)."""

    kind = "forgetting"

    def plug_in(self, sizes: Sizes, rngs: nnx.Rngs) -> PlugIn:
        """A gate a head."""
        return Gates(sizes, rngs)


class Gates(PlugIn):
    """The gates, and the running sums of their logarithms as marks of tokens."""

    def __init__(self, sizes: Sizes, rngs: nnx.Rngs):
        super().__init__(sizes)
        self.num_marks, self.term = sizes.num_heads, Between(sizes.causal)
        dtypes = {"dtype": sizes.dtype, "param_dtype": sizes.param_dtype}
        self.gate_proj = Linear(sizes.d_model, sizes.num_heads, **dtypes, rngs=rngs)

    def mark(
        self, x: Float[Array, "B L D"], layout: Segments, before: Float[Array, "B H"] | None
    ) -> Float[Array, "B L H"]:
        """Sums of log f over the tokens of the segment so far."""
        logits = self.gate_proj(x)
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        one = jnp.ones(1, logits.dtype)
        return linear_scan(one, jax.nn.log_sigmoid(logits), before, segment_ids=layout)

    def score(self, q: Array, k: Array, q_at: Tokens, k_at: Tokens) -> Scored:
        """Differences of sums, exact to the last digit of the larger one."""
        return q, k, Relative(self.term, Terms(None, q_at.marks[..., None], k_at.marks[..., None]))


@dataclasses.dataclass(frozen=True)
class Between:
    """by_query - by_key of sums that fall: the gates after the key, up to the query."""

    causal: bool

    def __call__(
        self,
        shared: None,
        by_query: Float[Array, "B H b 1"],
        by_key: Float[Array, "B H c 1"],
        ahead: Int[Array, "#B b c"],
    ) -> Float[Array, "B H b c"]:
        """The term of one block."""
        passed = by_query - jnp.swapaxes(by_key, -1, -2)
        return passed if self.causal else -jnp.abs(passed)
