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

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from seqzoo.models.linear import Linear
from seqzoo.models.mixer import AuxLoss, Context, Mixer
from seqzoo.models.ops.layout.backends import run
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.sequence_parallel import gathered, parts, repeat
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

QUERIES = 128  # whose scores are made together
LEAST_COUNT = 0.01  # a code that is hardly used keeps a finite codeword


class CodebookStats(nnx.Variable):
    """Moving averages that make up a codebook."""


@stream_state
class Groups(NamedTuple):
    """How many keys of each code there were, and the sums of their values."""

    count: Float[Array, "B H N"]
    total: Float[Array, "B H N V"]


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

    def _no_groups(self, batch_size: int, dtype: DTypeLike) -> Groups:
        count = jnp.zeros((batch_size, self.num_heads, self.num_codes), dtype)
        return Groups(count, jnp.zeros((*count.shape, self.d_value), dtype))

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
        view = _View(self, book, wide, x.shape[0], count)
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

    def _continued(self, view: _View, queries: tuple, keys: tuple, state: VQState):
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


class _View:
    """What a chunk of queries sees: keys one by one, and groups of older ones."""

    def __init__(
        self,
        mixer: TransformerVQ,
        book: Float[Array, "H N K"],
        dtype: DTypeLike,
        batch: int,
        count: int,
    ):
        """For `batch` rows in `count` parts."""
        self.mixer, self.book = mixer, jax.lax.stop_gradient(book)
        distance = jnp.arange(mixer.memory + 1)
        options = {"base": mixer.position_base, "layout": "halves", "dtype": dtype}
        waves = everywhere(sinusoidal(distance, mixer.d_model, **options))
        small = mixer.d_key**-0.25
        r = mixer.r_proj(waves).astype(dtype).reshape(len(distance), mixer.num_heads, -1)
        # On several devices every row has its own, so that their gradients meet after the loop.
        rows = 1 if undivided() else batch
        self.r, self.u, self.w = (
            self._for_rows(jnp.broadcast_to(a, (rows, *a.shape[1:])), count) * small
            for a in (r[None], *mixer.bias[...].astype(dtype)[:, None, None])
        )

    @staticmethod
    def _for_rows(a: Array, count: int) -> Array:
        return gathered(by_rows(a)) if count == 1 else repeat(a, count)

    def start(self, groups: Groups | None) -> tuple | None:
        """What lies behind the chunks in view, and the run it belongs to."""
        if groups is None or not self.mixer.compressive:
            return None
        return groups, jnp.ones((groups.count.shape[0], 1), jnp.int32)

    def summary(self, keys: tuple) -> tuple[tuple, tuple]:
        """What keys of rows without borders make of no groups."""
        v, runs = keys[1], keys[3]
        nothing = self.mixer._no_groups(len(v), v.dtype)
        run = jnp.ones((len(v), 1), jnp.int32)
        return (), (self.grouped(nothing, run[:, 0] > 0, keys, runs == run), run)

    @staticmethod
    def joined(_: tuple, own: tuple, before: tuple) -> tuple:
        """Groups of what lies behind, those of `summary` among them."""
        (more, run), (groups, _) = own, before
        return jax.tree.map(jnp.add, groups, more), run

    def grouped(self, groups: Groups, stays: Array, rows: tuple, which: Array) -> Groups:
        """The groups, forgotten where they do not stay, and some more tokens in them."""
        _, v, codes = rows[:3]
        hot = one_hot(jnp.where(which[..., None], codes, -1), self.mixer.num_codes, v.dtype)
        count, total = (jnp.where(stays.reshape(-1, *(1,) * (a.ndim - 1)), a, 0) for a in groups)
        return Groups(
            count + hot.sum(-1).astype(count.dtype), total + jnp.einsum("BHNS,BSHV->BHNV", hot, v)
        )

    def step(self, carry: tuple | None, queries: tuple, keys: tuple):
        """Outputs of one chunk, and the groups with the first chunk in view added."""
        return self._step(carry, queries, keys, in_order=False)

    def packed_step(self, carry: tuple | None, queries: tuple, keys: tuple):
        """`step` where the tokens of a segment lie side by side, queries being the last keys."""
        return self._step(carry, queries, keys, in_order=True)

    def aligned_step(self, carry: tuple | None, queries: tuple, keys: tuple):
        """`packed_step` where blocks are chunks."""
        return self._step(carry, queries, keys, in_order=True, aligned=True)

    def early(self, queries: tuple, keys: tuple) -> Array:
        """Outputs of `aligned_step` where nothing lies behind the keys."""
        return self.aligned_step(None, queries, keys)[1]

    def _step(self, carry, queries: tuple, keys: tuple, *, in_order: bool, aligned: bool = False):
        size, count = queries[0].shape[1], keys[0].shape[1]
        part = QUERIES if in_order else size
        outputs = []
        for start in range(0, size, part):
            end = min(start + part, size)
            mine = tuple(a[:, start:end] for a in queries)
            seen = tuple(a[:, : count - size + end] if in_order else a for a in keys)
            outputs.append(self._outputs(carry, mine, seen, in_order, aligned))
        if carry is not None:
            carry = self.moved(*carry, keys, size)
        return carry, jnp.concatenate(outputs, axis=1)

    def _outputs(self, carry, queries: tuple, keys: tuple, in_order: bool, aligned: bool):
        """Outputs [B, C, H, V] of some queries, the last of the keys if they are `in_order`."""
        (q, runs, place), (k, v, _, k_runs, k_place) = queries, keys
        count, memory, single = k.shape[1], self.mixer.memory, None
        if not aligned or memory % self.mixer.block_size:  # else no key in view is grouped
            start = (place - place % self.mixer.block_size)[:, :, None]
            single = (k_place[:, None] >= start - memory)[:, None]
        content, beyond = self._content(q, k, single), 0 if self.mixer.compressive else -jnp.inf
        if aligned:  # what cannot be seen is so by its distance, or not there at all
            s = content + self._by_slots(q, count, beyond, -jnp.inf) + _unless(k_runs > 0)
        else:
            ahead = place[:, :, None] - k_place[:, None]
            near = self._by_slots(q, count, 0, 0) if in_order else self._by_distance(q, ahead)
            seen = (runs[:, :, None] == k_runs[:, None]) & (k_runs[:, None] > 0) & (ahead >= 0)
            seen = seen if self.mixer.compressive else seen & (ahead <= memory)
            s = jnp.where(seen[:, None], content + near, -jnp.inf)
        top = s.max(-1, keepdims=True)
        if carry is not None:
            groups, run = carry
            far = _shared(q + self.u, self.book)
            far = jnp.where(groups.count[:, :, None] > 0, far, -jnp.inf)
            if not aligned:
                far = jnp.where((runs == run)[:, None, :, None], far, -jnp.inf)
            top = jnp.maximum(top, far.max(-1, keepdims=True))
        top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0))
        p = jnp.exp(s - top)
        o, total = jnp.einsum("BHCS,BSHV->BHCV", p, v), p.sum(-1, keepdims=True)
        if carry is not None:
            p = jnp.exp(far - top)
            o = o + p @ groups.total
            total = total + p @ groups.count[..., None]
        o = o / jnp.where(total > 0, total, 1)
        return jnp.moveaxis(o, 1, 2)

    def _content(self, q: Array, k: Array, single: Bool[Array, "B 1 C S"] | None) -> Array:
        """(q + u)·k, without gradients to keys that are grouped."""
        content = jnp.einsum("BCHK,BSHK->BHCS", q + self.u, k)
        if single is None:
            return content
        fixed = jnp.einsum("BCHK,BSHK->BHCS", q + self.u, jax.lax.stop_gradient(k))
        return jnp.where(single, content, fixed)

    def _by_slots(self, q: Array, count: int, beyond: float, ahead: float) -> Array:
        """(q + w)·r where the queries are the last of `count` keys."""
        return by_slots(self._by_row_of_r(q, count), count, beyond, ahead)

    def _by_distance(self, q: Array, ahead: Int[Array, "B C S"]) -> Array:
        """(q + w)·r up to the distance `memory`, and then 0."""
        by_distance = self._by_row_of_r(q, self.r.shape[1])
        row = jnp.clip(ahead, 0, self.mixer.memory)[:, None]
        near = (ahead <= self.mixer.memory)[:, None]
        return jnp.where(near, jnp.take_along_axis(by_distance, row, axis=-1), 0)

    def _by_row_of_r(self, q: Array, count: int) -> Float[Array, "B H C R"]:
        """(q + w)·r for the distances below `count`."""
        r, q = self.r[:, :count], q + self.w
        if len(r) == 1:
            return _shared(q, jnp.moveaxis(r[0], 1, 0))
        return jnp.einsum("BCHK,BRHK->BHCR", q, r)

    def moved(self, groups: Groups, run: Array, keys: tuple, size: int) -> tuple:
        """The groups with the first `size` keys added, and their run."""
        first = tuple(a[:, :size] for a in keys[:4])
        now = jnp.maximum(run, first[3].max(1, keepdims=True))
        return self.grouped(groups, (now == run)[:, 0], first, first[3] == now), now


def _shared(q: Float[Array, "B C H K"], k: Float[Array, "H S K"]) -> Float[Array, "B H C S"]:
    """q·k for keys that all rows share. As an einsum, the products of a query would lie apart."""
    products = jax.lax.dot_general(q, k, (((3,), (2,)), ((2,), (0,))))
    return jnp.moveaxis(products, 0, 1)


def _unless(there: Bool[Array, "B S"]) -> Float[Array, "B 1 1 S"]:
    return jnp.where(there, 0, -jnp.inf)[:, None, None]


def by_slots(
    x: Float[Array, "*B C R"], count: int, beyond: float = 0, ahead: float = 0
) -> Float[Array, "*B C S"]:
    """y[c, s] = x[c, d] at distance d = c - s + S - C; R <= S = count.

    `ahead` where d is negative, and `beyond` where it is R or more. Row c of x backwards, with
    those around it, is read from its own start. On a CPU that takes half of the time of rows laid
    one slot short of each other, and a scatter of gradients many times as long; chips have no fast
    gather.
    """
    forms = {"rows": _read_rows, "layout": _laid}
    forms = {name: functools.partial(form, count, beyond, ahead) for name, form in forms.items()}
    return run("skew", forms, x[..., ::-1])


class _Read(NamedTuple):
    """What is static of how rows are read."""

    count: int  # S
    distances: int  # R
    beyond: float
    ahead: float


def _read(how: _Read, x: Float[Array, "*B C R"]) -> Float[Array, "*B C S"]:
    size = x.shape[-2]
    rows = _around(x, how.count - how.distances, size, how.beyond, how.ahead)
    return _slices(rows, size - 1 - jnp.arange(size), how.count)


def _read_tangent(how: _Read, kept: tuple, tangents: tuple[Array]) -> Array:
    return _read(how._replace(beyond=0, ahead=0), *tangents)


def _read_backward(how: _Read, kept: tuple, g: Array) -> tuple[Array]:
    size = g.shape[-2]
    starts = how.count - how.distances + 1 + jnp.arange(size)
    return (_slices(_around(g, size, size), starts, how.distances),)


_reading = with_backward(_read, lambda how, x: (_read(how, x), ()), _read_backward, _read_tangent)


def _read_rows(
    count: int, beyond: float, ahead: float, x: Float[Array, "*B C R"]
) -> Float[Array, "*B C S"]:
    return _reading(_Read(count, x.shape[-1], beyond, ahead), x)


def _around(x: Array, before: int, behind: int, first: float = 0, last: float = 0) -> Array:
    """Rows with that many numbers before and behind them."""
    sides = [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, [*sides, (before, 0)], constant_values=first)
    return jnp.pad(x, [*sides, (0, behind)], constant_values=last)


def _slices(x: Array, starts: Int[Array, "C"], width: int) -> Array:
    """Row c from starts[c] on, `width` numbers."""
    rows = x.reshape(-1, *x.shape[-2:])
    read = jax.vmap(lambda row, start: jax.lax.dynamic_slice(row, (start,), (width,)))
    return jax.vmap(read, (0, None))(rows, starts).reshape(*x.shape[:-1], width)


def _laid(
    count: int, beyond: float, ahead: float, x: Float[Array, "*B C R"]
) -> Float[Array, "*B C S"]:
    *batch, size, distances = x.shape
    x = _around(x, count - distances, size, beyond, ahead)
    width = count + size - 1
    x = x.reshape(*batch, -1)[..., size - 1 : size - 1 + size * width]
    return x.reshape(*batch, size, width)[..., :count]


def _unit(x: Float[Array, "B L H K"]) -> Float[Array, "B L H K"]:
    """RMS-normalised without a gain, divided by K^(1/4)."""
    x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
    return x * x.shape[-1] ** -0.25


def quantize(
    k: Float[Array, "B L H K"], codebook: Float[Array, "H N K"]
) -> tuple[Int[Array, "B L H"], Float[Array, "B L H K"]]:
    """The number of the nearest codeword (the first of equals), and the codeword.

    Some tokens at a time, so that their distances to all codewords are never kept; tokens come last
    and the index is found by a second look, since a CPU compares many tokens at once, but not many
    numbers of one.
    """
    k, book = jax.lax.stop_gradient(k), jax.lax.stop_gradient(codebook)
    square = jnp.square(book).sum(-1)[:, :, None, None]
    number = jnp.arange(book.shape[1], dtype=jnp.int32)[:, None, None]

    def nearest(k: Float[Array, "B C H K"]) -> Int[Array, "B C H"]:
        distance = square - 2 * jnp.einsum("HNK,BCHK->HNBC", book, k)
        least = distance.min(axis=1, keepdims=True)
        first = jnp.where(distance == least, number, len(number)).min(axis=1)
        return jnp.moveaxis(first, 0, -1)

    length = k.shape[1]
    if length <= QUERIES or length % QUERIES or parts(length) > 1:
        codes = nearest(k)
    else:
        chunks = k.reshape(k.shape[0], -1, QUERIES, *k.shape[2:]).swapaxes(0, 1)
        codes = jax.lax.map(nearest, chunks).swapaxes(0, 1).reshape(k.shape[:3])
    return codes, book[jnp.arange(len(book)), codes]


def code_sums(
    k: Float[Array, "B L H K"],
    codes: Int[Array, "B L H"],
    real: Float[Array, "B L"],
    num_codes: int,
) -> tuple[Float[Array, "H N"], Float[Array, "H N K"]]:
    """How many real keys have each code, and their sums."""
    hot = one_hot(codes, num_codes, k.dtype) * real[:, None, None, :]
    return hot.sum((0, 3)), jnp.einsum("BHNL,BLHK->HNK", hot, k)


def one_hot(
    codes: Int[Array, "B L H"], num_codes: int, dtype: DTypeLike
) -> Float[Array, "B H N L"]:
    """1 where a token has a code, in the order in which it is multiplied by tokens."""
    codes = jnp.moveaxis(codes, 1, -1)[:, :, None]
    return (codes == jnp.arange(num_codes, dtype=codes.dtype)[:, None]).astype(dtype)
