"""Mixture of experts feed-forward (Shazeer et al. 2017, 1701.06538; Fedus et al. 2021, 2101.03961).

    y = Σ_{e in top k} p_e / Σ p · down_e(gelu(up_e(x))),   p = softmax(W_r x) in float32

In training an expert takes at most capacity_factor · k · tokens / experts tokens of the batch:
first choices before second ones, in order; what it cannot take is dropped (its share of y is 0) and
counted. Outside training nothing is dropped, since what a token gets may not depend on which others
are in the batch, nor a stream on how it was cut. Padding is not routed.

Auxiliary losses, over real tokens: balance · E Σ_e f_e P_e, f the share of choices and P the mean
probability (2101.03961, eq. 4), and router_z · mean logsumexp² (Zoph et al. 2022, 2202.08906).
Cost: k times the work of one expert, plus up to a block of `BLOCK` tokens for each expert.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import AuxLoss, Context, Mixer

BLOCK = 64  # tokens of one expert at a time where nothing is dropped


class Chosen(nnx.Variable):
    """Choices made in the last training call."""


class Dropped(nnx.Variable):
    """Choices of the last training call that found no room."""


def routing(module: nnx.Module) -> dict[str, tuple[Float[Array, ""], Float[Array, ""]]]:
    """`dropped` -> (choices dropped, choices made), over all mixtures in `module`; {} without one.

    Their ratio is the share of the last training call that was dropped.
    """
    kinds = (jax.tree.leaves(nnx.state(module, kind)) for kind in (Dropped, Chosen))
    dropped, chosen = ([n.sum().astype(jnp.float32) for n in leaves] for leaves in kinds)
    return {"dropped": (sum(dropped), sum(chosen))} if chosen else {}


class Choices(NamedTuple):
    """The k T choices, all first ones before all second ones; `expert` is E at padding."""

    expert: Int[Array, "kT"]
    share: Float[Array, "kT"]
    rank: Int[Array, "kT"]  # of the choice among those of its expert
    count: Int[Array, "E"]


class Experts(nnx.Module):
    """E feed-forwards of one hidden layer, without biases."""

    def __init__(
        self, experts: int, d_model: int, hidden: int, *, dtype: DTypeLike, param_dtype, rngs
    ):
        def make(rows: int, columns: int) -> Linear:
            options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype}
            linear = nnx.vmap(lambda r: Linear(rows, columns, **options, rngs=r))
            return linear(rngs.split(experts))

        self.up_proj, self.down_proj, self.dtype = (
            make(d_model, hidden),
            make(hidden, d_model),
            dtype,
        )

    def __call__(self, x: Float[Array, "E C D"]) -> Float[Array, "E C D"]:
        """Every expert on its own tokens."""
        up, down = (p.kernel[...].astype(self.dtype) for p in (self.up_proj, self.down_proj))
        h = jax.nn.gelu(jnp.einsum("ECD,EDF->ECF", x.astype(self.dtype), up))
        return jnp.einsum("ECF,EFD->ECD", h, down)

    def blocks(self, x: Float[Array, "N C D"], expert: Int[Array, "N"]) -> Float[Array, "N C D"]:
        """Block n by expert[n], one after another, so that no weights are copied."""
        up, down = (p.kernel[...].astype(self.dtype) for p in (self.up_proj, self.down_proj))

        @jax.checkpoint
        def one(block: tuple[Array, Array]) -> Array:
            x, e = block
            return jax.nn.gelu(x.astype(self.dtype) @ up[e]) @ down[e]

        return jax.lax.map(one, (x, expert))


class MixtureOfExperts(Mixer):
    """Top-k routed feed-forwards; see the module docstring. No state."""

    looks_both_ways = True

    def __init__(
        self,
        d_model: int,
        *,
        num_experts: int = 8,
        top_k: int = 2,
        expansion: float = 2.0,
        capacity_factor: float = 1.25,
        balance: float = 1e-2,
        router_z: float = 1e-3,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for top_k outside 1 .. num_experts and no capacity."""
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be 1 to num_experts; got {top_k=}, {num_experts=}")
        if capacity_factor <= 0:
            raise ValueError(f"capacity_factor must be positive; got {capacity_factor=}")
        self.num_experts, self.top_k, self.capacity_factor = num_experts, top_k, capacity_factor
        self.balance, self.router_z = balance, router_z
        hidden = max(1, round(expansion * d_model))
        self.router_proj = Linear(
            d_model, num_experts, use_bias=False, param_dtype=param_dtype, rngs=rngs
        )
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        self.experts = Experts(num_experts, d_model, hidden, **dtypes, rngs=rngs)
        self.balance_loss = AuxLoss(jnp.zeros((), jnp.float32))
        self.router_loss = AuxLoss(jnp.zeros((), jnp.float32))
        self.chosen = Chosen(jnp.zeros((), jnp.int32))
        self.dropped = Dropped(jnp.zeros((), jnp.int32))

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """No state: 0."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        flat = x.reshape(-1, x.shape[-1])
        layout = ctx.segments
        real = jnp.ones(len(flat), bool) if not layout.masked else layout.valid.reshape(-1)
        flat = jnp.where(real[:, None], flat, 0)
        wide = jnp.promote_types(x.dtype, jnp.float32)  # bfloat16 would route otherwise
        logits = flat.astype(wide) @ self.router_proj.kernel[...].astype(wide)
        choices = self._choose(logits, real)
        if ctx.training:
            self._write(logits, choices, real)
            y = self._capped(flat, choices)
        else:
            y = self._dropless(flat, choices)
        return y.reshape(x.shape), ()

    def _choose(self, logits: Float[Array, "T E"], real: Bool[Array, "T"]) -> Choices:
        p, expert = jax.lax.top_k(jax.nn.softmax(logits), self.top_k)
        share = (p / p.sum(-1, keepdims=True)).T.reshape(-1)
        expert = jnp.where(real[:, None], expert, self.num_experts).T.reshape(-1)
        order = jnp.argsort(expert, stable=True)
        count = jnp.bincount(expert, length=self.num_experts + 1)
        first = jnp.cumsum(count) - count
        rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)) - first[expert[order]])
        return Choices(expert, share, rank, count[:-1])

    def capacity(self, tokens: int) -> int:
        """Most tokens of a batch of `tokens` that one expert takes in training."""
        return max(1, math.ceil(self.capacity_factor * self.top_k * tokens / self.num_experts))

    def _capped(self, x: Float[Array, "T D"], choices: Choices) -> Float[Array, "T D"]:
        room = self.capacity(len(x))
        slot = choices.expert * room + choices.rank
        kept = (choices.rank < room) & (choices.expert < self.num_experts)
        slot = jnp.where(kept, slot, self.num_experts * room)  # out of range: dropped
        run = lambda rows: self.experts(rows.reshape(self.num_experts, room, -1))  # noqa: E731
        return self._through(x, choices, slot, self.num_experts * room, run)

    def _dropless(self, x: Float[Array, "T D"], choices: Choices) -> Float[Array, "T D"]:
        """Each expert's tokens are filled up to whole blocks."""
        size = min(BLOCK, len(x))
        filled = -(-choices.count // size) * size
        end = jnp.cumsum(filled)
        blocks = -(-len(choices.expert) // size) + self.num_experts
        start = jnp.append(end - filled, blocks * size)  # padding: out of range
        slot = start[choices.expert] + choices.rank
        expert = jnp.searchsorted(end, jnp.arange(blocks) * size, side="right")
        expert = jnp.minimum(expert, self.num_experts - 1)
        run = lambda rows: self.experts.blocks(rows.reshape(blocks, size, -1), expert)  # noqa: E731
        return self._through(x, choices, slot, blocks * size, run)

    def _through(
        self, x: Array, choices: Choices, slot: Int[Array, "kT"], slots: int, run: Callable
    ) -> Float[Array, "T D"]:
        """Puts tokens into slots, runs the experts, and adds up what comes back."""
        token = jnp.tile(jnp.arange(len(x)), self.top_k)
        source = jnp.full(slots, len(x)).at[slot].set(token, mode="drop")
        rows = jnp.concatenate([x, jnp.zeros_like(x[:1])])[source]
        y = run(rows).reshape(slots, -1)
        share = jnp.where(slot < slots, choices.share, 0)
        back = y[jnp.minimum(slot, slots - 1)] * share[:, None].astype(y.dtype)
        return back.reshape(self.top_k, *x.shape).sum(0)

    def _write(self, logits: Array, choices: Choices, real: Bool[Array, "T"]) -> None:
        tokens = jnp.maximum(real.sum(), 1)
        p = jnp.where(real[:, None], jax.nn.softmax(logits), 0).sum(0) / tokens
        f = choices.count / (tokens * self.top_k)
        z = jnp.where(real, jnp.square(jax.nn.logsumexp(logits, -1)), 0).sum() / tokens
        balance = self.balance * self.num_experts * jnp.sum(f * p)
        self.balance_loss[...] = balance.astype(jnp.float32)
        self.router_loss[...] = (self.router_z * z).astype(jnp.float32)
        room = self.capacity(len(real))
        self.chosen[...] = choices.count.sum().astype(jnp.int32)
        self.dropped[...] = jnp.maximum(choices.count - room, 0).sum().astype(jnp.int32)
