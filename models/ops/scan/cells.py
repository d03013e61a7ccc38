"""A cell of one product or none as programs on blocks: which qualify, their steps and pullbacks.

They mix neither rows nor channels but by v W, where v is a leaf of the state: LSTM without
projection, GRU with its reset gate behind the product, RNN, sLSTM by heads; IndRNN and SRU do not
mix at all. What they do to a block is read from their programs (`lanes.py`), and so is the pullback
of a step, which JAX makes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from seqzoo.models.ops.scan.lanes import NOWHERE, Blocks, Mixed, blocks, evaluate, filled
from seqzoo.models.ops.scan.walk import Tiles


class Cut(NamedTuple):
    """How an array [.., B, ..] lies in blocks: [.., n, H, B, E]."""

    shape: tuple[int, ...]  # [B, ...]
    heads: int
    unit: int
    heads_first: bool = False  # else heads are right before channels

    @property
    def count(self) -> int:
        """Blocks of a row and a head."""
        return int(np.prod(self.shape[1:])) // (self.heads * self.unit)

    def apart(self, a: Array) -> Array:
        """The array in blocks; axes before the rows stay."""
        before = a.ndim - len(self.shape)
        lead, batch = a.shape[:before], a.shape[before]
        middle = (self.heads, self.count) if self.heads_first else (self.count, self.heads)
        a = a.reshape(*lead, batch, *middle, self.unit)
        if self.heads_first:
            a = jnp.swapaxes(a, -3, -2)
        return jnp.moveaxis(a, len(lead), -2)

    def together(self, a: Array) -> Array:
        """The array of such blocks."""
        lead = a.shape[:-4]
        a = jnp.moveaxis(a, -2, len(lead))
        if self.heads_first:
            a = jnp.swapaxes(a, -3, -2)
        return a.reshape(*a.shape[: len(lead) + 1], *self.shape[1:])

    def head(self, i: int) -> int:
        """Of the i-th block."""
        return i // self.count if self.heads_first else i % self.heads

    def place(self, i: int) -> int:
        """Of the i-th block among those of its head."""
        return i % self.count if self.heads_first else i // self.heads

    def values(self, each: Callable[[int, int], Any]) -> Blocks:
        """The array whose blocks are each(place, head)."""
        return blocks(self.shape, self.unit, 0, lambda i: each(self.place(i), self.head(i)))

    def of(self, value: Any) -> Blocks:
        """What a program has made as an array of this kind."""
        return filled(value, self.shape, self.unit, 0)


class Cell(NamedTuple):
    """A step's program and its pullback's, and how their arrays are cut."""

    forward: Any
    backward: Any
    state: list[Cut]
    inputs: list[Cut]
    products: list[Cut]  # one, or none
    consts: list[Cut]
    exchanged: int | None  # leaf of the state that the matrix takes, if there is one
    heads: int
    unit: int


def cell_of(opened: Any, kernels: tuple, consts: list, h0: PyTree, x: PyTree) -> Cell | None:
    """None for a cell that does not qualify; x is of one step."""
    leaves = [jax.tree.leaves(tree) for tree in (h0, x, consts)]
    if len(kernels) > 1 or any(a.dtype != jnp.float32 for a in (*leaves[0], *kernels)):
        return None
    if not kernels and not _alike(*leaves):
        return None
    if kernels:
        heads, unit = kernels[0].shape[-3:-1] if kernels[0].ndim == 3 else (1, len(kernels[0]))
    else:
        heads, unit = 1, min(a.shape[-1] for a in leaves[0])
    products, by_heads = list(opened.shapes), bool(kernels) and kernels[0].ndim == 3
    state, inputs, constant = ([Cut(a.shape, heads, unit) for a in own] for own in leaves)
    product = [Cut(p.shape, heads, unit, heads_first=by_heads) for p in products]
    like = jax.tree.map(_shape, (h0, x, products, consts))
    with jax.sharding.use_abstract_mesh(NOWHERE):
        forward = jax.make_jaxpr(_forward(opened))(*like)
        backward = jax.make_jaxpr(_backward(opened))(*like, like[0])
    arguments = [*state, *inputs, *product, *constant]
    factor = [Cut(a.shape, heads, unit) for a in forward.out_avals[len(state) :]]
    try:
        taken = _checked(forward, arguments, [*state, *factor])
        _checked(backward, [*arguments, *state], arguments)
    except Mixed:
        return None
    if kernels and (len(taken) != 1 or taken[0] not in [(k, 0) for k in range(len(state))]):
        return None
    exchanged = taken[0][0] if kernels else None
    return Cell(forward, backward, state, inputs, product, constant, exchanged, heads, unit)


def _alike(state: list, inputs: list, consts: list) -> bool:
    """Whether all arrays hold rows of the same channels, some several times."""
    batch, unit = state[0].shape[0], min(a.shape[-1] if a.ndim > 1 else 0 for a in state)
    return unit > 0 and all(
        a.ndim > 1 and a.shape[0] == batch and a.shape[-1] % unit == 0
        for a in (*state, *inputs, *consts)
    )


def _shape(a: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(a.shape, a.dtype)


def _forward(opened: Any) -> Callable:
    def step(h: PyTree, x: PyTree, products: list, consts: list) -> tuple[PyTree, list]:
        return opened.step(h, x, products, *consts)

    return step


def _backward(opened: Any) -> Callable:
    """Cotangents of a step's h (but for the way through its product), x, product and consts."""

    def pulled(h: PyTree, x: PyTree, products: list, consts: list, new: PyTree) -> tuple:
        (_, factors), pull = jax.vjp(_forward(opened), h, x, products, consts)
        return pull((new, [jnp.zeros_like(v) for v in factors]))

    return pulled


class _Symbol(NamedTuple):
    """Stands for a block when a program is checked: what it is, apart from whose."""

    head: int
    what: Any


def _checked(program: Any, arguments: list[Cut], results: list[Cut]) -> list:
    """What the blocks of the last result are, after a look at all of them.

    Raises:
        Mixed: if the program mixes rows, channels or heads, or does not treat heads alike.
    """
    known: dict = {}

    def apply(primitive: Any, params: dict, *operands: Any) -> Any:
        heads = {x.head for x in operands if isinstance(x, _Symbol)}
        if len(heads) > 1:
            raise Mixed
        what = id(params), *(x.what if isinstance(x, _Symbol) else x.item() for x in operands)
        return _Symbol(heads.pop(), known.setdefault(what, len(known)))

    def symbols(i: int, cut: Cut) -> Blocks:
        return cut.values(lambda place, head: _Symbol(head, (i, place)))

    values = [symbols(i, cut) for i, cut in enumerate(arguments)]
    found = evaluate(program, arguments[0].unit, values, apply)
    whats: list = []
    for cut, value in zip(results, found, strict=True):
        parts = cut.of(value).parts.reshape(-1)
        whats = [None] * cut.count
        for i, part in enumerate(parts):
            symbol = isinstance(part, _Symbol)
            what, place = part.what if symbol else part.item(), cut.place(i)
            if symbol and part.head != cut.head(i):
                raise Mixed
            if cut.head(i) and what != whats[place]:
                raise Mixed
            whats[place] = what
    return whats


def on_tiles(program: Any, cell: Cell, arguments: list[Cut], results: list[Cut]) -> Callable:
    """The program on tiles of one head."""

    def apply(primitive: Any, params: dict, *operands: Any) -> Any:
        shape = next(x.shape for x in operands if not isinstance(x, np.ndarray))
        operands = [_full(shape, x) if isinstance(x, np.ndarray) else x for x in operands]
        return primitive.bind(*operands, **params)

    def run(*tiles: list[Array]) -> Tiles:
        shape = tiles[0][0].shape
        values = [
            cut.values(lambda place, _, own=own: own[place])
            for cut, own in zip(arguments, tiles, strict=True)
        ]
        found = evaluate(program, cell.unit, values, apply)
        made = []
        for cut, value in zip(results, found, strict=False):
            parts = cut.of(value).parts.reshape(-1)
            own = [part for i, part in enumerate(parts) if cut.head(i) == 0]
            made.append([_full(shape, a) if isinstance(a, np.ndarray) else a for a in own])
        return made

    return run


def _full(shape: Sequence[int], number: np.ndarray) -> Array:
    return jnp.full(shape, number.item(), number.dtype)
