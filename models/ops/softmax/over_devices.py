"""Attention on several devices: queries divided along L, and kernels, which no compiler divides.

Of L see `sequence_parallel.py`.

Each device has the queries of its part. It needs the keys that these see: all of them, gathered, or
with a window over indices only the neighbours of its part, from one device on either side. What is
sent grows with L in the first case, as the keys do, and with the window in the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

from seqzoo.models.ops.layout.sequence_parallel import cut, join, neighbours, parts, repeat
from seqzoo.models.ops.layout.sharding import BATCH_AXES, axis_size, undivided
from seqzoo.models.ops.softmax.masks import Operands, Rule, Side, Sight
from seqzoo.models.ops.softmax.relative import Terms

TENSOR_AXIS = "tensor"  # that divides heads
Form = Callable[[Rule, float, Operands, Sight], Array]


def over_devices(form: Form, rule: Rule, scale: float, operands: Operands, sight: Sight) -> Array:
    """`form(rule, scale, operands, sight)`, in parts where the mesh divides the queries."""
    count = parts(operands.q.shape[1])
    if count == 1:
        return form(rule, scale, operands, sight)
    if (halo := _halo(rule, operands, count)) is not None:
        return _with_neighbours(form, rule, scale, operands, sight, count, halo)
    batch = len(operands.q)
    q, k, v, bias, terms = operands
    keys = [None if x is None else repeat(_rows(x, batch), count) for x in (k, v, *sight.keys)]
    operands = Operands(
        cut(q, count),
        *keys[:2],
        _cut_bias(bias, q.shape[:2], count),
        _cut_terms(terms, batch, count),
    )
    queries = Side(*(None if x is None else cut(_rows(x, batch), count) for x in sight.queries))
    sight = Sight(queries, Side(*keys[2:]))
    # Indices now begin anew in each part; positions do not.
    return join(form(rule._replace(by_index=False), scale, operands, sight), count)


def _halo(rule: Rule, operands: Operands, count: int) -> tuple[int, int] | None:
    """Keys needed before and behind each part; None where they may be anywhere."""
    length = operands.q.shape[1]
    rows = operands.terms.by_query is not None or operands.terms.by_key is not None
    if rule.window is None or not rule.by_index or operands.bias is not None or rows:
        return None
    if operands.k.shape[1] != length or rule.window - 1 > length // count:
        return None
    return rule.window - 1, 0 if rule.causal else rule.window - 1


def _with_neighbours(
    form: Form,
    rule: Rule,
    scale: float,
    operands: Operands,
    sight: Sight,
    count: int,
    halo: tuple[int, int],
) -> Array:
    """Parts with the keys around them; queries as many, so that indices still tell distances."""
    batch, length = operands.q.shape[:2]

    def around(x: Shaped[Array, "B L ..."]) -> Shaped[Array, "nB L/n+halo ..."]:
        return neighbours(cut(_rows(x, batch), count), count, *halo)

    def tags(side: Side) -> Array:
        given = jnp.ones((batch, length), jnp.int32) if side.tags is None else side.tags
        return around(given)  # beyond the ends of a row 0, which nobody sees

    before, behind = halo
    blank = ((0, 0), halo, (0, 0), (0, 0))
    q = jnp.pad(cut(operands.q, count), blank)
    index = jnp.arange(before + length // count + behind)[None]
    sight = Sight(Side(index, tags(sight.queries)), Side(index, tags(sight.keys)))
    operands = operands._replace(q=q, k=around(operands.k), v=around(operands.v))
    y = form(rule, scale, operands, sight)
    return join(y[:, before : y.shape[1] - behind], count)


def _rows(x: Array | None, batch: int) -> Array | None:
    return None if x is None else jnp.broadcast_to(x, (batch, *x.shape[1:]))


def _cut_bias(bias: Array | None, queries: tuple[int, int], count: int) -> Array | None:
    batch, length = queries
    if bias is None or (bias.shape[0] == 1 and bias.shape[2] == 1):
        return bias
    bias = jnp.moveaxis(_rows(bias, batch), 2, 1)  # [B, L or 1, H, S]
    bias = repeat(bias, count) if bias.shape[1] != length else cut(bias, count)
    return jnp.moveaxis(bias, 1, 2)


def _cut_terms(terms: Terms, batch: int, count: int) -> Terms:
    by_query = None if terms.by_query is None else cut(_rows(terms.by_query, batch), count)
    by_key = None if terms.by_key is None else repeat(_rows(terms.by_key, batch), count)
    return Terms(terms.shared, by_query, by_key)


# A kernel on the rows and heads of each device.


def divisible(q: Array, k: Array) -> bool:
    """Whether every device has whole rows and key heads of its own."""
    return undivided() or _axes(q, k) is not None


def by_device(run: Callable, arrays: Sequence[Array], flat: Sequence[Array] = ()) -> tuple:
    """run(*arrays, *flat) of arrays [B, L, H, ...], first queries and keys, and of flat ones."""
    if undivided():
        return run(*arrays, *flat)
    rows, heads = _axes(*arrays[:2])
    whole = PartitionSpec(rows, None, heads, None)
    specs = [whole] * len(arrays) + [PartitionSpec(rows, None)] * len(flat)
    divided = jax.shard_map(run, in_specs=tuple(specs), out_specs=whole, check_vma=False)
    return divided(*arrays, *flat)


def _axes(q: Array, k: Array) -> tuple[tuple[str, ...], str | None] | None:
    """The axes of the mesh that divide rows and heads; None where others are divided too."""
    mesh = jax.sharding.get_abstract_mesh()
    wide = [axis for axis in mesh.axis_names if axis_size(axis) > 1]
    rows = tuple(axis for axis in wide if axis in BATCH_AXES)
    heads = TENSOR_AXIS if TENSOR_AXIS in wide else None
    parts = math.prod(map(axis_size, rows))
    whole = q.shape[0] % parts == 0 and k.shape[2] % (axis_size(heads) if heads else 1) == 0
    return (rows, heads) if whole and not {*wide} - {*rows, heads} else None
