"""JAX's own attention kernel for TPUs, "splash", as a form of `blockwise.py`.

It keeps scores on the chip, skips blocks out of sight and knows segments, windows and grouped
queries. Its numbers are those of the blocks within rounding; derivatives of a higher order are the
blocks' own, as the kernel has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from seqzoo.models.ops.layout.sharding import BATCH_AXES, axis_size, undivided
from seqzoo.models.ops.softmax.masks import Operands, Rule, Sight

LANES = 128
SHORTEST = 512  # tokens: below, a step of blocks is one product
LARGEST = 512  # of a block: of keys and values, the scores and their gradients it holds 16 MiB
INTERPRET = False  # whether to run it without a TPU, for tests
TENSOR_AXIS = "tensor"  # that divides heads


def fits(rule: Rule, operands: Operands, sight: Sight) -> bool:
    """Whether the kernel can compute it; all of it is known before compilation."""
    q, k, v, bias, terms = operands
    plain = bias is None and not jax.tree.leaves(terms) and rule.term is None and rule.by_index
    shaped = q.shape[1] == k.shape[1] and q.shape[1] % LANES == 0 and q.shape[1] >= SHORTEST
    known = {x.dtype for x in (q, k, v)} in ({jnp.dtype("float32")}, {jnp.dtype("bfloat16")})
    # A query that sees nothing has no row of the softmax; with tags the segments are those of rows.
    sees = (sight.queries.tags is None) == (sight.keys.tags is None)
    return plain and shaped and known and sees and (undivided() or _axes(q, k) is not None)


def forward(rule: Rule, scale: float, operands: Operands, sight: Sight) -> tuple[Array, Array]:
    """o [B, L, H, V], and the logarithms of the denominators [B, L, H, 1]."""

    def run(q: Array, k: Array, v: Array, *tags: Array) -> tuple[Array, Array]:
        o, (lse,) = _attend(rule, scale, q, k, v, tags, residuals=True)
        return _rows(o), _rows(lse[..., None])

    o, lse = _by_device(run, operands, sight)
    return _seen(o, sight), _seen(lse, sight)


def backward(
    rule: Rule, scale: float, operands: Operands, sight: Sight, cotangent: Array
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v."""

    def run(q: Array, k: Array, v: Array, do: Array, *tags: Array) -> tuple[Array, ...]:
        def value(q: Array, k: Array, v: Array) -> Array:
            return _rows(_attend(rule, scale, q, k, v, tags, residuals=False))

        return jax.vjp(value, q, k, v)[1](do)

    return _by_device(run, operands, sight, _seen(cotangent, sight))


def _attend(
    rule: Rule, scale: float, q: Array, k: Array, v: Array, tags: tuple, *, residuals: bool
) -> Array | tuple[Array, tuple[Array]]:
    """Of heads that share a key head, one call of the kernel: [B, Hkv, G, L, V]."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, length, heads, width = q.shape
    groups = heads // k.shape[2]
    one = _mask(rule, length)
    size = math.gcd(length, LARGEST)
    sizes = splash.BlockSizes(*[size] * 8)
    kernel = splash.make_splash_mqa_single_device(
        splash.MultiHeadMask([one] * groups),
        block_sizes=sizes,
        save_residuals=residuals,
        interpret=INTERPRET,
    )
    q = q * jnp.asarray(scale, q.dtype)
    q = q.reshape(batch, length, -1, groups, width).transpose(0, 2, 3, 1, 4)
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    if not tags:
        return jax.vmap(jax.vmap(kernel))(q, k, v)
    segments = splash.SegmentIds(*(jnp.broadcast_to(x, (batch, length)) for x in tags))
    return jax.vmap(jax.vmap(kernel, in_axes=(0, 0, 0, None)))(q, k, v, segments)


def _mask(rule: Rule, length: int):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape = (length, length)
    if rule.window is not None:
        before = rule.window - 1
        return masks.LocalMask(shape, (before, 0 if rule.causal else before), 0)
    return masks.CausalMask(shape) if rule.causal else masks.FullMask(shape)


def _rows(x: Array) -> Array:
    """[B, Hkv, G, L, V] as [B, L, H, V]."""
    batch, _, _, length, width = x.shape
    return x.transpose(0, 3, 1, 2, 4).reshape(batch, length, -1, width)


def _seen(x: Array, sight: Sight) -> Array:
    """Zero at queries of padding, which the kernel lets see each other."""
    tags = sight.queries.tags
    return x if tags is None else jnp.where(tags[:, :, None, None] > 0, x, 0)


def _by_device(run: Callable, operands: Operands, sight: Sight, *more: Array) -> tuple:
    """`run` on the rows and heads of each device: the compiler cannot divide a kernel."""
    q, k, v, *_ = operands
    tags = () if sight.queries.tags is None else (sight.queries.tags, sight.keys.tags)
    tags = tuple(jnp.broadcast_to(x, q.shape[:2]) for x in tags)
    if tags:  # what stands at padding may be anything
        q, k, v = (_seen(x, sight) for x in (q, k, v))
    if undivided():
        return run(q, k, v, *more, *tags)
    rows, heads = _axes(q, k)
    whole, flat = PartitionSpec(rows, None, heads, None), PartitionSpec(rows, None)
    specs = [whole] * (3 + len(more)) + [flat] * len(tags)
    divided = jax.shard_map(run, in_specs=tuple(specs), out_specs=whole, check_vma=False)
    return divided(q, k, v, *more, *tags)


def _axes(q: Array, k: Array) -> tuple[tuple[str, ...], str | None] | None:
    """The axes of the mesh that divide rows and heads; None where others are divided too."""
    mesh = jax.sharding.get_abstract_mesh()
    wide = [axis for axis in mesh.axis_names if axis_size(axis) > 1]
    rows = tuple(axis for axis in wide if axis in BATCH_AXES)
    heads = TENSOR_AXIS if TENSOR_AXIS in wide else None
    parts = math.prod(map(axis_size, rows))
    whole = q.shape[0] % parts == 0 and k.shape[2] % (axis_size(heads) if heads else 1) == 0
    return (rows, heads) if whole and not {*wide} - {*rows, heads} else None
