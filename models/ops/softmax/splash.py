"""JAX's own attention kernel for TPUs, "splash", as a form of `blockwise.py`.

It keeps scores on the chip, skips blocks out of sight and knows segments, windows and grouped
queries. Its numbers are those of the blocks within rounding; derivatives of a higher order are the
blocks' own, as the kernel has none.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array

from seqzoo.models.ops.softmax.masks import Operands, Rule, Sight
from seqzoo.models.ops.softmax.over_devices import by_device, divisible

LANES = 128
SHORTEST = 512  # tokens: below, a step of blocks is one product
LARGEST = 512  # of a block: of keys and values, the scores and their gradients it holds 16 MiB
INTERPRET = False  # whether to run it without a TPU, for tests


def fits(rule: Rule, operands: Operands, sight: Sight) -> bool:
    """Whether the kernel can compute it; all of it is known before compilation."""
    q, k, v, bias, terms = operands
    plain = bias is None and not jax.tree.leaves(terms) and rule.term is None and rule.by_index
    shaped = q.shape[1] == k.shape[1] and q.shape[1] % LANES == 0 and q.shape[1] >= SHORTEST
    known = {x.dtype for x in (q, k, v)} in ({jnp.dtype("float32")}, {jnp.dtype("bfloat16")})
    # A query that sees nothing has no row of the softmax; with tags the segments are those of rows.
    sees = (sight.queries.tags is None) == (sight.keys.tags is None)
    return plain and shaped and known and sees and divisible(q, k)


def there() -> bool:
    """Whether it can be called: it is part of JAX."""
    return True


def forward(rule: Rule, scale: float, operands: Operands, sight: Sight) -> tuple[Array, Array]:
    """o [B, L, H, V], and the logarithms of the denominators [B, L, H, 1]."""

    def run(q: Array, k: Array, v: Array, *tags: Array) -> tuple[Array, Array]:
        o, (lse,) = _attend(rule, scale, q, k, v, tags, residuals=True)
        return _rows(o), _rows(lse[..., None])

    o, lse = by_device(run, *_arrays(operands, sight))
    return _seen(o, sight), _seen(lse, sight)


def backward(
    rule: Rule,
    scale: float,
    operands: Operands,
    sight: Sight,
    o: Array,
    lse: Array,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v; the kernel makes o and the logarithms again."""

    def run(q: Array, k: Array, v: Array, do: Array, *tags: Array) -> tuple[Array, ...]:
        def value(q: Array, k: Array, v: Array) -> Array:
            return _rows(_attend(rule, scale, q, k, v, tags, residuals=False))

        return jax.vjp(value, q, k, v)[1](do)

    return by_device(run, *_arrays(operands, sight, _seen(cotangent, sight)))


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


def _arrays(operands: Operands, sight: Sight, *more: Array) -> tuple[list[Array], list[Array]]:
    """Queries, keys, values and others, and the tags of both sides if there are such."""
    q, k, v, *_ = operands
    tags = () if sight.queries.tags is None else (sight.queries.tags, sight.keys.tags)
    if tags:  # what stands at padding may be anything
        q, k, v = (_seen(x, sight) for x in (q, k, v))
    return [q, k, v, *more], [jnp.broadcast_to(x, q.shape[:2]) for x in tags]


def _seen(x: Array, sight: Sight) -> Array:
    """Zero at queries of padding, which the kernel lets see each other."""
    tags = sight.queries.tags
    return x if tags is None else jnp.where(tags[:, :, None, None] > 0, x, 0)
