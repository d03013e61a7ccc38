"""SLiCE: a structured linear controlled differential equation (Walker et al. 2025, 2505.17761).

    h_t = (I + A(x_t)) h_{t-1} + W_B x_t,   A(x) = A_0 + Σ_i x_i A_i,   y_t = W_out h_t

(equations 2 and 6, steps of Euler). A(x) is made of blocks of `block_size` b along its diagonal,
each linear in x: 1 is a diagonal, d_state a dense matrix. From b = 4 or so on one layer can follow
words of groups that no diagonal recurrence of any depth can, A5 for one (`group_words`).

Where ours differs: h_{-1} is learned and the first token acts on it as any other does, where the
authors' code reads the first state from it; W_B x_t is added at every token, as in equation 2, and
not in that code. The channel of time is A_0. A(x) starts at the size that the authors' step of 1/40
gives it for inputs of unit variance. Nothing keeps products of I + A(x_t) from growing; training
does, and the growth at the start is about e^(L / 3000).

Cost of L tokens with N = d_state: O(L N (b d_model + b)). State: N elements per sequence.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.scan.blocks import block_scan


class SLiCE(Mixer):
    """A linear recurrence with blocks that depend on the input; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int | None = None,
        block_size: int = 4,
        step: float = 1 / 40,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_state`: N, d_model by default; `step`: size of A(x) at first.

        Raises ValueError for a block size that does not divide N and a step that is not positive.
        """
        states = d_model if d_state is None else d_state
        if states < 1 or block_size < 1 or states % block_size:
            raise ValueError(
                "block_size must be at least 1 and divide d_state; got "
                f"{block_size=}, d_state={states}"
            )
        if not step > 0:
            raise ValueError(f"step must be above 0; got {step=}")
        self.blocks, self.block_size = states // block_size, block_size
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        small = nnx.initializers.normal(step / (block_size * (d_model + 1)) ** 0.5)
        small = {"kernel_init": small, "bias_init": small}
        self.a_proj = Linear(d_model, states * block_size, **small, **options)
        self.in_proj = Linear(d_model, states, use_bias=False, **options)
        first = jax.random.normal(rngs.params(), (states,), param_dtype)
        self.initial = nnx.Param(first, group="dynamics")
        self.out_proj = Linear(states, d_model, use_bias=False, **options)

    def _initial(self, batch_size: int) -> Float[Array, "B H N"]:
        return jnp.zeros((batch_size, self.blocks, self.block_size), self.wide)

    def state_size(self) -> int:
        """N."""
        return self.blocks * self.block_size

    @jax.named_scope("slice")
    def _mix(self, x: Float[Array, "B L D"], inner: Array | None, ctx: Context):
        layout, shape = ctx.segments, (*x.shape[:2], self.blocks, self.block_size)
        A = self.a_proj(x).astype(self.wide).reshape(*shape, self.block_size)
        A = A + jnp.eye(self.block_size, dtype=self.wide)
        b = self.in_proj(x).astype(self.wide).reshape(shape)
        first = self.initial[...].astype(self.wide).reshape(shape[2:])
        begins = jnp.where((layout.position == 0)[..., None, None], first, 0)
        h = block_scan(A, b + jnp.sum(A * begins[..., None, :], -1), inner, segment_ids=layout)
        return self.out_proj(h.reshape(*x.shape[:2], -1).astype(x.dtype)), h[:, -1]
