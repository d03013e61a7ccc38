"""A family's table of names, read forwards to load and backwards to save.

    Rule("layers.{i}.attn.q.weight", "blocks.{i}.attention.q_proj.kernel", TRANSPOSED)

A line names tensors of the files, parameters of ours and a transform between them. Parameters have
the names of one block after another, whether a stack is scanned or not: `blocks.{i}.MIXER...` with
the mixer's name in the registry, and `blocks.{i}.ff...`, so that a line is about the blocks that
have such a part; those of a decoder are `decoder.blocks.{i}...`. `{e}` in a tensor's name counts
experts, whose axis is the parameter's first.

Where several lines fill one parameter, the first whose tensors are all there counts; the first of
all is what is saved.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

Shape = tuple[int, ...]
Arrays = Sequence[Array]


class Transform(NamedTuple):
    """`load`: tensors and the parameters' shapes to parameters; `save`: parameters to tensors."""

    load: Callable[[Arrays, Sequence[Shape]], Arrays]
    save: Callable[[Arrays], Arrays]


def one(load: Callable[[Array], Array], save: Callable[[Array], Array]) -> Transform:
    """The transform of single arrays, its own inverse given."""
    return Transform(lambda x, _: [load(x[0])], lambda x: [save(x[0])])


def _same(x: Array) -> Array:
    return x


def _turned(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2)


SAME = one(_same, _same)
TRANSPOSED = one(_turned, _turned)  # a torch Linear [out, in] and our kernel [in, out]
COPIED = Transform(lambda x, shapes: [x[0]] * len(shapes), lambda x: [x[0]])  # all alike
TAPS = one(lambda x: x[:, 0].T, lambda x: x.T[:, None])  # a depthwise kernel [D, 1, W] and [W, D]


def split(axis: int = -1, piece: Transform = TRANSPOSED) -> Transform:
    """One tensor that holds several parameters one after another along `axis`, each as `piece`."""

    def load(x: Arrays, shapes: Sequence[Shape]) -> Arrays:
        sizes = [jax.eval_shape(piece.save, [_abstract(s)])[0].shape[axis] for s in shapes]
        ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
        parts = jnp.split(x[0], ends, axis=axis)
        return [piece.load([p], [s])[0] for p, s in zip(parts, shapes, strict=True)]

    def save(x: Arrays) -> Arrays:
        return [jnp.concatenate([piece.save([p])[0] for p in x], axis=axis)]

    return Transform(load, save)


def joined(axis: int, sizes: Sequence[int], piece: Transform = TRANSPOSED) -> Transform:
    """Tensors that lie one after another, of `sizes`, along `axis` of one parameter."""
    ends = [sum(sizes[:i]) for i in range(1, len(sizes))]

    def load(x: Arrays, _: Sequence[Shape]) -> Arrays:
        return [jnp.concatenate([piece.load([p], [()])[0] for p in x], axis=axis)]

    def save(x: Arrays) -> Arrays:
        return [piece.save([p])[0] for p in jnp.split(x[0], ends, axis=axis)]

    return Transform(load, save)


def interleaved(groups: int, piece: Transform = TRANSPOSED) -> Transform:
    """As `split` along the first axis, but each of `groups` has its share of every parameter."""

    def load(x: Arrays, shapes: Sequence[Shape]) -> Arrays:
        forms = [jax.eval_shape(piece.save, [_abstract(s)])[0].shape for s in shapes]
        sizes = [form[0] // groups for form in forms]
        ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
        parts = jnp.split(x[0].reshape(groups, sum(sizes), *x[0].shape[1:]), ends, axis=1)
        return [
            piece.load([p.reshape(form)], [s])[0]
            for p, form, s in zip(parts, forms, shapes, strict=True)
        ]

    def save(x: Arrays) -> Arrays:
        parts = [piece.save([p])[0] for p in x]
        parts = [p.reshape(groups, p.shape[0] // groups, *p.shape[1:]) for p in parts]
        whole = jnp.concatenate(parts, axis=1)
        return [whole.reshape(-1, *whole.shape[2:])]

    return Transform(load, save)


def into_one(transform: Transform, axis: int, count: int) -> Transform:
    """Of what `transform` would load as `count` equal parameters, one, along `axis`."""

    def load(x: Arrays, shapes: Sequence[Shape]) -> Arrays:
        shape = list(shapes[0])
        shape[axis] //= count
        return [jnp.concatenate(transform.load(x, [tuple(shape)] * count), axis=axis)]

    def save(x: Arrays) -> Arrays:
        return transform.save(jnp.split(x[0], count, axis=axis))

    return Transform(load, save)


class Rule(NamedTuple):
    """One line of a table; what needs no tensor names none."""

    tensors: str | tuple[str, ...]
    parameters: str | tuple[str, ...]
    transform: Transform = SAME


def linear(tensor: str, module: str) -> tuple[Rule, ...]:
    """A torch Linear and ours, the bias where there is one."""
    return (
        Rule(f"{tensor}.weight", f"{module}.kernel", TRANSPOSED),
        Rule(f"{tensor}.bias", f"{module}.bias"),
    )


def norm(tensor: str, module: str) -> tuple[Rule, ...]:
    """A norm's scale, and its bias where there is one."""
    return Rule(f"{tensor}.weight", f"{module}.scale"), Rule(f"{tensor}.bias", f"{module}.bias")


class Slot(NamedTuple):
    """Where a parameter of one block lies: a variable and the leading places of its axes."""

    path: str
    index: tuple[int, ...]
    shape: Shape


class Bound(NamedTuple):
    """A line of a table at one place: tensors by name, parameters by slot."""

    tensors: tuple[str, ...]
    slots: tuple[Slot, ...]
    transform: Transform

    def expected(self) -> list[Shape]:
        """The shapes that the tensors must have."""
        made = jax.eval_shape(self.transform.save, [_abstract(s.shape) for s in self.slots])
        return [tuple(a.shape) for a in made]


def bind(
    rules: Sequence[Rule],
    slots: Mapping[str, Slot],
    there: Callable[[str], bool] = lambda name: True,
) -> list[Bound]:
    """The table at every place where its parameters are; `there` tells which tensors there are.

    Raises ValueError for parameters that no line fills.
    """
    ways: dict[str, list[Bound]] = {}
    for rule in rules:
        for names, way in _places(rule, slots):
            known = all(there(t) for bound in way for t in bound.tensors)
            for name in names:
                old = ways.get(name)
                if old is None or (known and not all(there(t) for b in old for t in b.tensors)):
                    ways[name] = way
    left = sorted(slots.keys() - ways.keys())
    if left:
        raise ValueError(f"no tensor fills {', '.join(left)}")
    return list({id(bound): bound for way in ways.values() for bound in way}.values())


def _places(rule: Rule, slots: Mapping[str, Slot]) -> Iterator[tuple[tuple[str, ...], list[Bound]]]:
    """Names of parameters and what fills them, for every block that has them."""
    tensors, parameters = _several(rule.tensors), _several(rule.parameters)
    blocks = sorted({int(m[1]) for m in map(_BLOCK.search, slots) if m})
    for i in blocks if "{i}" in parameters[0] else [0]:
        names = tuple(p.replace("{i}", str(i)) for p in parameters)
        if not all(name in slots for name in names):
            continue
        found, theirs = [slots[n] for n in names], [t.replace("{i}", str(i)) for t in tensors]
        if not any("{e}" in tensor for tensor in tensors):
            yield names, [Bound(tuple(theirs), tuple(found), rule.transform)]
            continue
        way = []
        for e in range(found[0].shape[0]):
            own = tuple(Slot(s.path, (*s.index, e), s.shape[1:]) for s in found)
            way.append(Bound(tuple(t.replace("{e}", str(e)) for t in theirs), own, rule.transform))
        yield names, way


_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _abstract(shape: Shape) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
