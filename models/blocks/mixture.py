"""Mixture of experts feed-forward (Shazeer et al. 2017, 1701.06538; Fedus et al. 2021, 2101.03961).

    y = Σ_{e in top k} p_e / Σ p · down_e(gelu(up_e(x))),   p = softmax(W_r x) in float32

`Routing` has what published models do otherwise: SwiGLU experts; sigmoids as scores, a bias that is
added for the choice alone, groups of experts of which the best are kept (DeepSeek-V3,
arXiv:2412.19437, section 2.1.2); shares that are not normalised, or scaled; an expert that all
tokens share, on request gated by a number a token.

In training an expert takes at most capacity_factor · k · tokens / experts tokens of the batch:
first choices before second ones, in order; what it cannot take is dropped (its share of y is 0) and
counted. Outside training nothing is dropped, since what a token gets may not depend on which others
are in the batch, nor a stream on how it was cut. Padding is not routed.

Auxiliary losses, over real tokens: balance · E Σ_e f_e P_e, f the share of choices and P the mean
probability (2101.03961, eq. 4), and router_z · mean logsumexp² (Zoph et al. 2022, 2202.08906).
Cost: k times the work of one expert, plus up to a block of `BLOCK` tokens for each expert.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.blocks.layers import FeedForward
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routing:
    """What the experts are, and how tokens come to them."""

    kind: Literal["gelu", "swiglu"] = "gelu"  # of the experts
    scores: Literal["softmax", "sigmoid"] = "softmax"  # of a token for all experts
    normalized: bool = True  # the shares of the chosen experts add up to 1
    scale: float = 1.0  # of the shares
    bias: bool = False  # of the scores, for the choice alone
    groups: int = 1  # of experts, equal ones
    kept_groups: int = 1  # whose two best experts are the best; the choice is among theirs
    shared: float = 0.0  # hidden width of an expert of all tokens, in units of d_model; 0: none
    shared_gate: bool = False  # the shared expert's output is times a sigmoid of its own

    def __post_init__(self) -> None:
        known = {"kind": ("gelu", "swiglu"), "scores": ("softmax", "sigmoid")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"unknown {name}={getattr(self, name)!r} of a routing (known: "
                    f"{', '.join(values)})"
                )
        for name in ("scale", "shared"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} of a routing must be finite and at least 0; got {value}")
        if not 1 <= self.kept_groups <= self.groups:
            raise ValueError(
                f"kept_groups must be 1 to groups; got {self.kept_groups=}, {self.groups=}"
            )


class Experts(nnx.Module):
    """E feed-forwards of one hidden layer, without biases."""

    def __init__(
        self,
        experts: int,
        d_model: int,
        hidden: int,
        *,
        gated: bool = False,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """`gated`: SwiGLU in place of GELU."""

        def make(rows: int, columns: int) -> Linear:
            options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype}
            linear = nnx.vmap(lambda r: Linear(rows, columns, **options, rngs=r))
            return linear(rngs.split(experts))

        self.up_proj, self.down_proj = make(d_model, hidden), make(hidden, d_model)
        self.gate_proj = nnx.data(make(d_model, hidden) if gated else None)
        self.dtype = dtype

    def _kernels(self) -> list[Array]:
        parts = [self.up_proj, self.down_proj]
        parts += [] if self.gate_proj is None else [self.gate_proj]
        return [p.matrix().astype(self.dtype) for p in parts]

    def __call__(self, x: Float[Array, "E C D"]) -> Float[Array, "E C D"]:
        """Every expert on its own tokens."""
        return jax.vmap(_expert)(x.astype(self.dtype), *self._kernels())

    def blocks(self, x: Float[Array, "N C D"], expert: Int[Array, "N"]) -> Float[Array, "N C D"]:
        """Block n by expert[n], one after another, so that no weights are copied."""
        kernels = self._kernels()

        @jax.checkpoint
        def one(block: tuple[Array, Array]) -> Array:
            x, e = block
            return _expert(x.astype(self.dtype), *(kernel[e] for kernel in kernels))

        return jax.lax.map(one, (x, expert))


def _expert(x: Float[Array, "C D"], up: Array, down: Array, gate: Array | None = None) -> Array:
    h = x @ up
    return (jax.nn.gelu(h) if gate is None else jax.nn.silu(x @ gate) * h) @ down


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
        routing: Routing = Routing(),
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for top_k outside 1 .. num_experts, no capacity and odd groups."""
        if not 1 <= top_k <= num_experts:
            raise ValueError(f"top_k must be 1 to num_experts; got {top_k=}, {num_experts=}")
        if capacity_factor <= 0:
            raise ValueError(f"capacity_factor must be positive; got {capacity_factor=}")
        self.num_experts, self.top_k, self.capacity_factor = num_experts, top_k, capacity_factor
        if num_experts % routing.groups or (
            routing.groups > 1 and num_experts < 2 * routing.groups
        ):
            raise ValueError(
                "groups of experts are equal and of at least two; got "
                f"{num_experts=}, groups={routing.groups}"
            )
        self.balance, self.router_z, self.routing = balance, router_z, routing
        hidden = max(1, round(expansion * d_model))
        self.router_proj = Linear(
            d_model, num_experts, use_bias=False, param_dtype=param_dtype, rngs=rngs
        )
        dtypes = {"dtype": dtype, "param_dtype": param_dtype}
        gated = routing.kind == "swiglu"
        self.experts = Experts(num_experts, d_model, hidden, gated=gated, **dtypes, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(num_experts, param_dtype)) if routing.bias else None
        shared = gate = None
        if routing.shared:
            kind = "swiglu" if gated else "mlp"
            options = {"kind": kind, "expansion": routing.shared, "use_bias": False}
            shared = FeedForward(d_model, **options, **dtypes, rngs=rngs)
            if routing.shared_gate:
                gate = Linear(d_model, 1, use_bias=False, **dtypes, rngs=rngs)
        self.shared, self.shared_gate_proj = nnx.data(shared), nnx.data(gate)
        nothing = jnp.zeros((), jnp.promote_types(param_dtype, jnp.float32))
        self.balance_loss, self.router_loss = AuxLoss(nothing), AuxLoss(nothing)
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
        real = jnp.ones(flat.shape[0], bool) if not layout.masked else layout.valid.reshape(-1)
        flat = jnp.where(real[:, None], flat, 0)
        wide = jnp.promote_types(x.dtype, jnp.float32)  # bfloat16 would route otherwise
        logits = flat.astype(wide) @ self.router_proj.matrix().astype(wide)
        choices = self._choose(logits, real)
        if ctx.training:
            self._write(logits, choices, real)
            y = self._capped(flat, choices)
        else:
            y = self._dropless(flat, choices)
        y = y.reshape(x.shape)
        if self.shared is not None:
            always, _ = self.shared._mix(x, (), ctx)
            if self.shared_gate_proj is not None:
                always = always * jax.nn.sigmoid(self.shared_gate_proj(x))
            y = y + always
        return y, ()

    def _choose(self, logits: Float[Array, "T E"], real: Bool[Array, "T"]) -> Choices:
        how = self.routing
        scores = (jax.nn.softmax if how.scores == "softmax" else jax.nn.sigmoid)(logits)
        wanted = scores if self.bias is None else scores + self.bias[...].astype(scores.dtype)
        expert = jax.lax.top_k(self._in_kept_groups(wanted), self.top_k)[1]
        p = jnp.take_along_axis(scores, expert, axis=-1)
        if how.normalized:
            p = p / p.sum(-1, keepdims=True)
        share = (how.scale * p).T.reshape(-1)
        expert = jnp.where(real[:, None], expert, self.num_experts).T.reshape(-1)
        order = jnp.argsort(expert, stable=True)
        count = jnp.bincount(expert, length=self.num_experts + 1)
        first = jnp.cumsum(count) - count
        places = jnp.arange(order.shape[0]) - first[expert[order]]
        rank = jnp.zeros_like(order).at[order].set(places)
        return Choices(expert, share, rank, count[:-1])

    def _in_kept_groups(self, wanted: Float[Array, "T E"]) -> Float[Array, "T E"]:
        """Scores, -inf in all but the groups with the best two."""
        how = self.routing
        if how.kept_groups == how.groups:
            return wanted
        grouped = wanted.reshape(wanted.shape[0], how.groups, -1)
        best = jax.lax.top_k(grouped, 2)[0].sum(-1)
        least = jax.lax.top_k(best, how.kept_groups)[0][:, -1:]
        return jnp.where((best >= least)[..., None], grouped, -jnp.inf).reshape(wanted.shape)

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
        tokens = x.shape[0]  # a symbol where batches of any size are exported
        size = min(BLOCK, tokens) if isinstance(tokens, int) else BLOCK
        filled = -(-choices.count // size) * size
        end = jnp.cumsum(filled)
        blocks = -(-choices.expert.shape[0] // size) + self.num_experts
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
        token = jnp.tile(jnp.arange(x.shape[0]), self.top_k)
        source = jnp.full(slots, x.shape[0]).at[slot].set(token, mode="drop")
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
        self.balance_loss[...] = balance.astype(self.balance_loss.dtype)
        self.router_loss[...] = (self.router_z * z).astype(self.router_loss.dtype)
        room = self.capacity(len(real))
        self.chosen[...] = choices.count.sum().astype(jnp.int32)
        self.dropped[...] = jnp.maximum(choices.count - room, 0).sum().astype(jnp.int32)
