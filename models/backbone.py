"""The backbone, once for all mixers: embed -> N x (norm, mixer, norm, feed-forward) -> norm.

Blocks and stacks are mixers themselves: they keep the contract of `mixer.py` and hand the same
`Context` to their parts. A stack of equal units is vmapped at birth and scanned in use, so that its
compile time does not grow with depth; what its blocks write (batch statistics, codebooks, auxiliary
losses) comes back as outputs of the scan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PyTree

from seqzoo.models.blocks.block import Block
from seqzoo.models.blocks.config import BackboneConfig, Remat
from seqzoo.models.blocks.layers import Norm
from seqzoo.models.composite import Chain, Composite, Run
from seqzoo.models.mixer import AuxLoss, Constant, Context, Mixer
from seqzoo.models.ops.layout.sharding import by_rows
from seqzoo.models.registry import pattern_options

REMAT_POLICIES: dict[str, Callable | None] = {
    "full": None,  # keep nothing but the block's input
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep the projections
}

WRITTEN = nnx.Not(nnx.Any(nnx.Param, Constant))  # what a call may change


class Stack(Composite):
    """`repeats` units of one structure, one after another, scanned or unrolled.

    With `tied` this one module comes after every unit, with the same parameters and a state of its
    own each time (Zamba, Glorioso et al. 2024, arXiv:2405.16712).

    State: that of a unit with a depth axis after the batch axis (scanned), or a tuple of them; with
    `tied` a unit's is a pair.
    """

    def __init__(
        self,
        make_unit: Callable[[Any, nnx.Rngs], Mixer],
        repeats: int,
        *,
        tied: Mixer | None = None,
        scan: bool = True,
        remat: Remat = "none",
        rngs: nnx.Rngs,
    ):
        """`make_unit(index, rngs)` makes a unit; `index` is traced where the stack is scanned.

        `tied`: what comes after every unit; `scan`: one compiled unit for all; `remat`: what the
        backward pass recomputes.
        """
        self.tied = nnx.data(tied)
        self.repeats, self.scan, self.remat = repeats, scan, remat
        if scan:
            make = nnx.vmap(lambda index, r: make_unit(index, r))
            self.units = make(jnp.arange(repeats), rngs.split(repeats))
        else:
            self.units = nnx.List([make_unit(index, rngs) for index in range(repeats)])
        self._take_after(*self.parts())

    def parts(self) -> tuple[Mixer, ...]:
        """The units; scanned, they are one module, whose arrays have an axis of depth."""
        units = (self.units,) if self.scan else tuple(self.units)
        return units if self.tied is None else (*units, self.tied)

    def _initial(self, batch_size: int) -> PyTree:
        units = [self.units] if self.scan else self.units
        states = [unit._initial(batch_size) for unit in units]
        if self.tied is not None:
            states = [(own, self.tied._initial(batch_size)) for own in states]
        if not self.scan:
            return tuple(states)

        def repeat(a: Array) -> Array:
            return jnp.repeat(a[:, None], self.repeats, axis=1)

        return jax.tree.map(repeat, states[0])

    def state_size(self) -> int:
        """`repeats` times that of a unit, and of what comes after it."""
        tied = 0 if self.tied is None else self.tied.state_size()
        return self.repeats * (self.parts()[0].state_size() + tied)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        raise NotImplementedError("a stack runs its units as one body; see _mix")

    def _mix(self, x: Float[Array, "B L D"], inner: PyTree, ctx: Context):
        keys = jax.random.split(ctx.key(), self.repeats) if ctx.training else None
        run = self._scan if self.scan else self._unroll
        return run(x, inner, keys, ctx)

    def _scan(self, x: Array, inner: PyTree, keys: Array | None, ctx: Context):
        states = jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), inner)
        body, layers = self._body(self.units, ctx)
        carry, (written, states) = jax.lax.scan(body, (x, ctx.shared), (*layers, states, keys))
        x, ctx.shared = carry
        nnx.update(self.units, written)
        return x, jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), states)

    def _unroll(self, x: Array, inner: PyTree, keys: Array | None, ctx: Context):
        states = []
        for i, unit in enumerate(self.units):
            body, layer = self._body(unit, ctx)
            own = tuple(None if a is None else a[i] for a in (inner, keys))
            (x, ctx.shared), (written, state) = body((x, ctx.shared), (*layer, *own))
            nnx.update(unit, written)
            states.append(state)
        return x, None if inner is None else tuple(states)

    def _body(self, unit: Mixer, ctx: Context) -> tuple[Callable, tuple]:
        """One layer as a pure function of (x, shared) and (its arrays, its state, a key)."""
        graphdef, params, rest = nnx.split(unit, nnx.Param, ...)
        tied = None if self.tied is None else nnx.split(self.tied)

        def body(carry: tuple, layer: tuple) -> tuple[tuple, tuple]:
            (x, shared), (params, rest, state, key) = carry, layer
            unit = nnx.merge(graphdef, params, rest, copy=True)
            own = Context(ctx.segments, None if key is None else nnx.Rngs(key), shared)
            first, second = (state, None) if tied is None or state is None else state
            x, state = unit.apply(by_rows(x), first, own)
            if tied is not None:
                x, after = nnx.merge(*tied, copy=True).apply(x, second, own)
                state = None if state is None else (state, after)
            written = nnx.state(unit, WRITTEN if ctx.training else nnx.Nothing())
            return (x, own.shared), (written, state)

        if self.remat != "none":
            policy = REMAT_POLICIES[self.remat]
            body = jax.checkpoint(body, policy=policy, prevent_cse=not self.scan)
        return body, (params, rest)


class Backbone(Composite):
    """A stack of blocks by a pattern of mixers, with a final norm where the norms come first."""

    bare = True

    def __init__(
        self,
        pattern: tuple[str, ...],
        config: BackboneConfig,
        options: Mapping[str, Any] | None = None,
        *,
        reader: Mapping[str, Any] | None = None,
        rngs: nnx.Rngs,
    ):
        """The mixers of `pattern` in the blocks that `config` says; `options` are theirs.

        See `pattern_options` for these. `reader`: the options of each block's cross-attention, in a
        decoder. Raises ValueError for a depth that does not fit.
        """
        kinds = _kinds(pattern, config, pattern_options(pattern, options or {}))
        tied = _check_tied(kinds, len(pattern), config)

        def make_stack(start: int, period: int, repeats: int) -> Stack:
            def make_block(i: int, index: Any, rngs: nnx.Rngs) -> Block:
                name, own, changed, *beside = kinds[start + i]
                layer = (index * period + start + i, config.depth)
                more = {"beside": beside, "reader": reader, "layer": layer}
                return Block(name, own, changed, **more, rngs=rngs)

            def make_unit(index: Any, rngs: nnx.Rngs) -> Mixer:
                blocks = [make_block(i, index, rngs) for i in range(period - tied)]
                return blocks[0] if len(blocks) == 1 else Chain(blocks)

            scan = config.scan and (repeats > 1 or config.arrangement != "listed")
            last = _writes_nothing(make_block(period - 1, 0, rngs)) if tied else None
            return Stack(make_unit, repeats, tied=last, scan=scan, remat=config.remat, rngs=rngs)

        stacks = [make_stack(*run) for run in _runs(kinds, len(pattern), config.arrangement)]
        self.stack = stacks[0] if len(stacks) == 1 else Chain(stacks)
        self._take_after(self.stack)
        final = None
        if config.norm_position in ("pre", "both"):
            dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
            final = Norm(config.norm, config.d_model, eps=config.norm_eps, **dtypes, rngs=rngs)
        self.norm = nnx.data(final)

    def parts(self) -> tuple[Mixer, ...]:
        """The stack."""
        return (self.stack,)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        if ctx.shared is None:
            ctx.shared = self.initial_shared(x)
        x = run(self.stack, x)
        return x if self.norm is None else self.norm(x, ctx)


# A block's mixer, its options, the rest, and (name, options) of each mixer beside the first.
Kind = tuple[Any, ...]


def _kinds(
    pattern: tuple[str, ...], config: BackboneConfig, options: Sequence[Mapping[str, Any]]
) -> list[Kind]:
    """What each block of the depth is. Raises ValueError for a pattern that does not fit."""
    depth, count = config.depth, len(pattern)
    if config.arrangement == "parallel":
        if config.each:
            raise ValueError(
                "arrangement='parallel' has all mixers in every block; each is of places in a row"
            )
        (first, own), *beside = zip(pattern, options, strict=True)
        return [(first, own, config, *beside)] * depth
    if config.branch_norm:
        raise ValueError("branch_norm=True is of mixers side by side: set arrangement='parallel'")
    if config.arrangement == "listed" and depth != count:
        raise ValueError(
            f"arrangement='listed' names every block; got {count} names for {config.depth=}"
        )
    if depth % count:
        raise ValueError(
            f"depth must be a multiple of the pattern's length; got {config.depth=} for "
            f"{count} mixers ({', '.join(pattern)})"
        )
    if len(config.each) not in (0, count):
        raise ValueError(
            f"each has other fields for {len(config.each)} places of a pattern of {count} "
            f"({', '.join(pattern)}); give one mapping for each place, {{}} for none"
        )
    places = []
    for i, (name, own) in enumerate(zip(pattern, options, strict=True)):
        changed = dict(config.each[i]) if config.each else {}
        own = {**own, **dict(changed.pop("mixer", ()))}
        places.append((name, own, dataclasses.replace(config, each=(), **changed)))
    repeats = depth // count
    if config.arrangement == "sections":
        return [place for place in places for _ in range(repeats)]
    return places * repeats


def _check_tied(kinds: list[Kind], count: int, config: BackboneConfig) -> bool:
    """Whether the last block of the pattern is one for all depth. Raises ValueError elsewhere."""
    tied = [i for i, kind in enumerate(kinds[:count]) if kind[2].tied]
    if tied and (tied != [count - 1] or count < 2 or config.arrangement != "repeat"):
        raise ValueError(
            "tied=True is of the last place of a pattern of two or more that recurs: in `each` "
            f"there, and nowhere else; got it at {tied} of {count}, {config.arrangement=}"
        )
    return bool(tied)


def _writes_nothing(block: Block) -> Block:
    """`block`. Raises ValueError where its calls keep something, as every place would its own."""
    kept = {type(x).__name__ for _, x in nnx.to_flat_state(nnx.state(block, WRITTEN))}
    if kept:
        raise ValueError(
            f"a tied block keeps nothing of its calls, and this one has {', '.join(sorted(kept))}: "
            "it can have no batch norm, experts or codebooks"
        )
    return block


def _runs(kinds: list[Kind], count: int, arrangement: str) -> list[tuple[int, int, int]]:
    """(first block, blocks of a unit, units) of stacks that make up the depth.

    Listed blocks recur as far as they do: the longest run of units from each block on.
    """
    if arrangement == "sections":
        repeats = len(kinds) // count
        return [(i * repeats, 1, repeats) for i in range(count)]
    if arrangement == "parallel":
        return [(0, 1, len(kinds))]
    if arrangement == "repeat":
        return [(0, count, len(kinds) // count)]
    runs, start = [], 0
    while start < len(kinds):
        period, repeats = max(
            ((p, _recurs(kinds[start:], p)) for p in range(1, len(kinds) - start + 1)),
            key=lambda run: (run[0] * run[1] if run[1] > 1 else 0, -run[0]),
        )
        runs.append((start, period, repeats))
        start += period * repeats
    return runs


def _recurs(kinds: list[Kind], period: int) -> int:
    """How often the first `period` blocks come in a row."""
    same = (i for i, kind in enumerate(kinds) if kind != kinds[i % period])
    return next(same, len(kinds)) // period


def aux_losses(module: nnx.Module) -> Float[Array, ""]:
    """The sum of all auxiliary losses that the last call of `module` in training mode wrote."""
    terms = jax.tree.leaves(nnx.state(module, AuxLoss))
    return sum((term.sum() for term in terms), start=jnp.zeros(()))
