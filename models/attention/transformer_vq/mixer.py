"""Transformer-VQ: attention over vector-quantised keys, linear in L (Lingle 2023, 2309.16354).

    o = W_out (g ⊙ Σ_s softmax_s((q_t + u)·k̂_s + b_ts) v_s),   k̂ = the nearest of N codewords

Keys older than `memory` before the query's block of C tokens are grouped by code: their scores are
those of the codewords, so that a count and a sum of values for each code hold all of them, exactly
(theorem 3.7). b_ts = (q_t + w)·r_(t-s) up to distance `memory`, 0 beyond, r a projection of
sinusoids (Dai et al. 2019, arXiv:1901.02860). q and k are RMS-normalised per head without gain and
divided by K^(1/4), v and g go through silu. With `compressive=False` only keys up to `memory` back
are attended.

Gradients pass to keys as if they were not quantised, but not to those that are grouped. Which key
is grouped depends on positions in the segment alone, so a stream has the same gradients. The
codebook follows the keys by exponential moving averages in training; they are no parameters. The
commitment loss |k - k̂|², summed over heads and averaged over real tokens, is an `AuxLoss`.

Cost of L tokens: O(L (C + memory + N) (K + V)) per head. State: per head N (V + 1) for the groups
(with `compressive`) and (C + memory) (K + V + 1) for the rest, and 2 counts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.attention.transformer_vq.codebook import code_sums, quantize
from seqzoo.models.attention.transformer_vq.view import Groups, View, no_groups
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import AuxLoss, Context, Mixer
from seqzoo.models.ops.layout.sequence_parallel import gathered, repeat
from seqzoo.models.ops.layout.sharding import by_rows, everywhere, undivided
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.local_blocks import (
    Handover,
    Recent,
    chunk_parts,
    continued_blocks,
    forget,
    parallel_blocks,
    run_tags,
)
from seqzoo.models.ops.softmax.rope import sinusoidal

LEAST_COUNT = 0.01  # a code that is hardly used keeps a finite codeword


class CodebookStats(nnx.Variable):
    """Moving averages that make up a codebook."""


@stream_state
class VQState(NamedTuple):
    """Keys by code, and those of the block that is not complete and of `memory` before it."""

    groups: Groups | None
    recent: Recent
    position: Int[Array, "B"]  # tokens of the segment so far


class TransformerVQ(Mixer):
    """Attention over vector-quantised keys; see the module docstring."""

    state_growth = "window"

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        d_key: int | None = None,
        d_value: int | None = None,
        num_codes: int = 512,
        block_size: int = 512,
        memory: int = 512,
        compressive: bool = True,
        commit_weight: float = 1e-4,
        ema: float = 0.99,
        position_base: float = 1e5,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Widths are of a head, by default d_model / num_heads and twice that.

        Raises ValueError for sizes that cannot be.
        """
        if num_heads < 1 or (d_model % num_heads and None in (d_key, d_value)):
            raise ValueError(f"num_heads must divide d_model; got {d_model=}, {num_heads=}")
        if min(w for w in (d_key, d_value, 1) if w is not None) < 1 or not position_base > 0:
            raise ValueError(
                "d_key and d_value are at least 1, and position_base is above 0; got "
                f"{d_key=}, {d_value=}, {position_base=}"
            )
        if min(num_codes, block_size, memory) < 1:
            raise ValueError(
                "num_codes, block_size and memory are at least 1; got "
                f"{num_codes=}, {block_size=}, {memory=}"
            )
        if not 0 <= ema < 1:
            raise ValueError(f"ema is the share of the old average, in [0, 1); got {ema=}")
        if d_model % 2:
            raise ValueError(f"sines and cosines need an even width; got {d_model=}")
        self.num_heads, self.num_codes = num_heads, num_codes
        self.d_key = d_model // num_heads if d_key is None else d_key
        self.d_value = 2 * d_model // num_heads if d_value is None else d_value
        self.block_size, self.memory, self.compressive = block_size, memory, compressive
        self.commit_weight, self.ema, self.position_base = commit_weight, ema, position_base
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        keys, values = num_heads * self.d_key, num_heads * self.d_value
        self.q_proj = Linear(d_model, keys, **options)
        self.k_proj = Linear(d_model, keys, **options)
        self.v_proj = Linear(d_model, values, **options)
        self.gate_proj = Linear(d_model, values, **options)
        self.r_proj = Linear(d_model, keys, **options)
        self.out_proj = Linear(values, d_model, **options)
        self.bias = nnx.Param(jnp.zeros((2, num_heads, self.d_key), param_dtype))  # u and w
        shape = (num_heads, num_codes, self.d_key)
        codes = jax.random.normal(rngs.params(), shape, param_dtype) * self.d_key**-0.25
        self.code_sum = CodebookStats(codes)
        self.code_count = CodebookStats(jnp.ones(shape[:2], param_dtype))
        self.commitment = AuxLoss(jnp.zeros((), jnp.promote_types(param_dtype, jnp.float32)))

    def codebook(self) -> Float[Array, "H N K"]:
        """The codewords."""
        count = jnp.maximum(self.code_count[...], LEAST_COUNT)
        return self.code_sum[...] / count[..., None]

    def _initial(self, batch_size: int) -> VQState:
        heads = self.num_heads
        token = (
            jax.ShapeDtypeStruct((heads, self.d_key), self.wide),
            jax.ShapeDtypeStruct((heads, self.d_value), self.wide),
            jax.ShapeDtypeStruct((heads,), jnp.int32),
        )
        recent = forget(token, batch_size, self.block_size + self.memory)
        groups = self._no_groups(batch_size, self.wide) if self.compressive else None
        return VQState(groups, recent, jnp.zeros(batch_size, jnp.int32))

    def state_size(self) -> int:
        """H N (V + 1) + (C + memory) H (K + V + 1) + 2; without groups the first term is 0."""
        slots = (self.block_size + self.memory) * (self.d_key + self.d_value + 1)
        groups = self.num_codes * (self.d_value + 1) if self.compressive else 0
        return self.num_heads * (slots + groups) + 2

    def _mix(self, x: Float[Array, "B L D"], inner: VQState | None, ctx: Context):
        layout, wide = ctx.segments, jnp.promote_types(x.dtype, jnp.float32)
        q, k, v = (
            p(x).reshape(*x.shape[:2], self.num_heads, -1).astype(wide)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        if layout.masked:
            k, v = (jnp.where(layout.valid[..., None, None], a, 0) for a in (k, v))
        q, k, v = _unit(q), _unit(k), jax.nn.silu(v)
        book = everywhere(self.codebook().astype(wide))
        codes, words = quantize(k, book)
        if ctx.training:
            self._learn(k, codes, words, layout.valid)
        k = k + jax.lax.stop_gradient(words - k)
        runs = run_tags(layout, *x.shape[:2])
        place = jnp.broadcast_to(layout.position, runs.shape)
        back = -(-self.memory // self.block_size)
        apart = inner is None and not layout.masked
        count = chunk_parts(x.shape[1], self.block_size, back) if apart else 1
        view = self._view(book, wide, x.shape[0], count)
        queries, keys = (q, runs, place), (k, v, codes, runs, place)
        if inner is None:
            options = {"size": self.block_size, "back": back}
            # Up to this length no key ever leaves the view.
            far = x.shape[1] > (back + 1) * self.block_size
            carry = view.start(self._no_groups(x.shape[0], wide)) if far else None
            step = view.packed_step
            if not layout.masked:
                step, options["early"] = view.aligned_step, view.early
                options["handover"] = Handover(view.summary, view.joined)
            o = parallel_blocks(step, carry, queries, keys, layout, **options)
        else:
            o, inner = self._continued(view, queries, keys, inner)
        o = o.reshape(*x.shape[:2], -1).astype(x.dtype) * jax.nn.silu(self.gate_proj(x))
        return self.out_proj(o), inner

    def _learn(
        self, k: Array, codes: Array, words: Array, valid: Bool[Array, "B L"] | None
    ) -> None:
        """Writes the commitment loss and moves the codebook."""
        real = jnp.ones(k.shape[:2], k.dtype) if valid is None else valid.astype(k.dtype)
        error = jnp.square(k - jax.lax.stop_gradient(words)).sum((-1, -2))
        total = real.sum()
        mean = jnp.sum(error * real) / jnp.maximum(total, 1)
        moved = jnp.where(total > 0, 1 - self.ema, 0)  # nothing is learned from padding alone
        self.commitment[...] = (self.commit_weight * mean).astype(self.commitment.dtype)
        count, words = code_sums(jax.lax.stop_gradient(k), codes, real, self.num_codes)
        for average, new in ((self.code_count, count), (self.code_sum, words)):
            old, new = average[...], everywhere(new)  # else all devices gather all keys
            average[...] = (old + moved * (new - old)).astype(old.dtype)

    def _view(self, book: Float[Array, "H N K"], dtype: DTypeLike, batch: int, count: int) -> View:
        """For `batch` rows in `count` parts."""
        distance = jnp.arange(self.memory + 1)
        options = {"base": self.position_base, "layout": "halves", "dtype": dtype}
        waves = everywhere(sinusoidal(distance, self.d_model, **options))
        r = self.r_proj(waves).astype(dtype).reshape(len(distance), self.num_heads, -1)
        u, w = self.bias[...].astype(dtype)[:, None, None]
        # On several devices every row has its own, so that their gradients meet after the loop.
        rows = 1 if undivided() else batch
        each = (jnp.broadcast_to(a, (rows, *a.shape[1:])) for a in (r[None], u, w))
        each = (gathered(by_rows(a)) if count == 1 else repeat(a, count) for a in each)
        r, u, w = (a * self.d_key**-0.25 for a in each)
        book = jax.lax.stop_gradient(book)
        return View(book, r, u, w, self.block_size, self.memory, self.compressive)

    def _no_groups(self, batch_size: int, dtype: DTypeLike) -> Groups:
        return no_groups((batch_size, self.num_heads, self.num_codes, self.d_value), dtype)

    def _continued(self, view: View, queries: tuple, keys: tuple, state: VQState):
        *items, runs, place = keys
        recent = state.recent
        runs = recent.tagged(runs)
        old = state.position[:, None] - recent.size + jnp.arange(recent.size)
        place = jnp.concatenate([old.astype(place.dtype), place], 1)
        rows = recent.before(tuple(items))
        options = {"size": self.block_size, "back": -(-self.memory // self.block_size)}
        carry = view.start(state.groups)
        o = continued_blocks(view.step, carry, queries, (*rows, runs, place), runs > 0, **options)
        run = jnp.maximum(runs.max(1, keepdims=True), 1)
        mine = runs == run
        last = jnp.where(mine, place, -1).max(1, keepdims=True)
        kept = mine & (place >= last - last % self.block_size - self.memory)
        groups = state.groups
        if groups is not None:
            groups = view.grouped(groups, run[:, 0] == 1, rows, mine & ~kept)
            groups = jax.tree.map(lambda new, old: new.astype(old.dtype), groups, state.groups)
        position = (last[:, 0] + 1).astype(state.position.dtype)
        return o, VQState(groups, recent.after(tuple(items), kept), position)


def _unit(x: Float[Array, "B L H K"]) -> Float[Array, "B L H K"]:
    """RMS-normalised without a gain, divided by K^(1/4)."""
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
    return x * x.shape[-1] ** -0.25
