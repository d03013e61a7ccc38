"""Exact attention in blocks of scores, with a backward pass that makes them again.

The forward pass keeps, for every query, the maximum m of its scores so far, l = Σ exp(s - m) and
a = Σ exp(s - m) v, and joins in one block of keys after the other (Milakov and Gimelshein 2018,
arXiv:1805.02867; Rabe and Staats 2021, arXiv:2112.05682). It saves o = a / l and m + log l; from
these the backward pass has P = exp(s - m - log l) and dS = P ⊙ (dO Vᵀ - rowsum(dO ⊙ O)) block by
block (Dao et al. 2022, arXiv:2205.14135, algorithm 4). Which pairs of blocks hold a visible key is
known before compilation, so both passes are scans over a list of pairs, in any order. On CPU the
rows of a batch go in two halves.

Inside, arrays are in blocks (`tiles.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.cpu import halves, worth_halving
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.kernels import run as run_kernels
from seqzoo.models.ops.softmax import cudnn, splash
from seqzoo.models.ops.softmax.masks import (
    LOW,
    Operands,
    Rule,
    Sight,
    block_pairs,
    visible,
)
from seqzoo.models.ops.softmax.tiles import (
    Blocks,
    Plan,
    add,
    add_terms,
    add_tile,
    at,
    by_heads,
    cut,
    join,
    join_terms,
    put,
    split,
    terms_of,
    tile,
    trim_bias,
)

# Most queries, and most keys, of a block. On CPU, 256 x 256 scores (float32, 16 heads in all) are
# made and read again while still in the cache; chips want fewer and larger steps. In long rows
# small blocks have twice as many keys (0.92 of the time at L=2048, 0.76 at 8192, 1.09 at 512), but
# in a window, of whose edges more would be made in vain, or with a term or bias, each block of
# which is more memory.
BLOCKS = {"small blocks": 256, "large blocks": 1024}
LONG = 8  # blocks
KERNELS = {"splash": splash, "cudnn": cudnn}  # those of others, for TPUs and GPUs


Static = tuple[Rule, float]  # and the scale


def _value(static: Static, operands: Operands, sight: Sight) -> Array:
    return _run(_forward, *static, operands, sight)[0]


def _save(static: Static, operands: Operands, sight: Sight):
    o, lse = _run(_forward, *static, operands, sight)
    return o, ((operands, sight), o, lse)


def _differentiate(static: Static, kept: tuple, cotangent: Array):
    (operands, sight), *results = kept
    return _run(_backward, *static, operands, sight, *results, cotangent), None


_attend = with_backward(_value, _save, _differentiate)


def blockwise(
    rule: Rule, scale: float, operands: Operands, sight: Sight
) -> Float[Array, "B L H V"]:
    """softmax(scale q kᵀ + bias + term) v over the visible keys; 0 for a query that sees none."""
    return _attend((rule, scale), operands, sight)


@partial(jax.jit, static_argnums=(0, 1, 2))  # or calls outside jit would be traced every time
def _run(which: Callable[..., Any], rule: Rule, scale: float, *arrays):
    """One of the two passes, with the blocks of the platform that is compiled for."""

    def form(most: int) -> Callable[..., Any]:
        def run(operands: Operands, sight: Sight, *rest):
            plan = _plan(rule, scale, most, operands, sight)
            arrays = operands, sight, *rest
            rows = halves(arrays) if _in_halves(plan, operands) else (arrays,)
            return _carried_out(plan, [which(plan, *half) for half in rows])

        return run

    def kernel(of: Any, *arrays):
        operands, sight, *rest = arrays
        if not of.there():
            return blocks(*arrays)
        if which is _forward:
            return of.forward(rule, scale, operands, sight)
        gradients = of.backward(rule, scale, operands, sight, *rest)
        return operands._replace(q=gradients[0], k=gradients[1], v=gradients[2])

    operands, sight, *rest = arrays
    # Tied to the queries: from a scan over layers JAX takes out what depends on no layer, and would
    # keep what is visible for all pairs of blocks and heads, which grows with L².
    q, sight = jax.lax.optimization_barrier((operands.q, sight))
    arrays = operands._replace(q=q), sight, *rest
    offered = {name: form(most) for name, most in BLOCKS.items()}
    offered |= dict.fromkeys(KERNELS, offered["large blocks"])  # where a kernel cannot be

    def blocks(*arrays):
        return forms.run("attention", offered, *arrays)

    fitting = {name: of for name, of in KERNELS.items() if of.fits(rule, operands, sight)}
    kernels = {name: partial(kernel, of) for name, of in fitting.items()}
    return run_kernels("attention", blocks, kernels, *arrays)


class _Pass(NamedTuple):
    """A pass over the pairs of blocks i, j: what is carried, how, and what comes of it."""

    start: PyTree
    step: Callable[..., PyTree]  # of masked, what is carried, i and j
    finish: Callable[[PyTree], PyTree]


def _carried_out(plan: Plan, passes: Sequence[_Pass]):
    """Takes passes over parts of the rows through the pairs of blocks with a visible key."""
    sizes = plan.length, plan.keys, plan.block_q, plan.block_k
    whole, partly = block_pairs(plan.rule, plan.tagged, *sizes)
    carries = [part.start for part in passes]
    for masked, pairs in ((False, whole), (True, partly)):
        if len(pairs):
            body = partial(_body, [part.step for part in passes], masked)
            carries, _ = jax.lax.scan(body, carries, (pairs[:, 0], pairs[:, 1]))
    results = [part.finish(carry) for part, carry in zip(passes, carries, strict=True)]
    return results[0] if len(results) == 1 else jax.tree.map(_rows_joined, *results)


def _body(steps: Sequence[Callable[..., PyTree]], masked: bool, carries, pair):
    return [step(masked, c, *pair) for step, c in zip(steps, carries, strict=True)], None


def _in_halves(plan: Plan, operands: Operands) -> bool:
    """Whether the rows of a batch go in halves: not where a bias or devices divide them else."""
    if plan.most > BLOCKS["small blocks"]:
        return False
    if jax.tree.leaves((operands.bias, operands.terms)):
        return False
    batch, _, heads, _ = operands.q.shape
    return worth_halving(batch, batch * heads * plan.block_q * plan.block_k)


def _rows_joined(*parts: Array) -> Array:
    return jnp.concatenate(parts)


def _plan(rule: Rule, scale: float, most: int, operands: Operands, sight: Sight) -> Plan:
    length, keys = operands.q.shape[1], operands.k.shape[1]
    groups = operands.q.shape[2] // operands.k.shape[2]
    tagged = sight.queries.tags is not None
    plain = operands.bias is None and rule.term is None and rule.window is None
    wide = most == BLOCKS["small blocks"] and keys >= LONG * most and plain
    blocks = _even(length, most), _even(keys, 2 * most if wide else most)
    return Plan(rule, scale, tagged, most, groups, length, keys, *blocks)


def _even(length: int, most: int) -> int:
    """Blocks of equal size if there are such, else little padding and whole vectors."""
    block = -(-length // -(-length // most))
    return block if length % block == 0 else -(-block // 8) * 8


def _forward(plan: Plan, operands: Operands, sight: Sight) -> _Pass:
    """Of o [B, L, H, V] and the logarithms of the denominators [B, L, H, 1]."""
    blocks = split(plan, operands, sight)
    dtype = _wide(operands.q)
    rows = blocks.q.shape[:-1]

    def step(masked: bool, carry, i, j):
        m, l, a = (at(x, i) for x in carry)
        s = _scores(plan, masked, blocks, i, j)
        top = jax.lax.stop_gradient(jnp.maximum(m, s.max(-1, keepdims=True)))
        base = _finite(top)
        p = jnp.exp(s - base)
        shrink = jnp.exp(m - base)
        l = l * shrink + p.sum(-1, keepdims=True)
        a = a * shrink + _dot("bhrs,bhsv->bhrv", p.astype(blocks.v.dtype), at(blocks.v, j))
        return tuple(put(x, new, i) for x, new in zip(carry, (top, l, a), strict=True))

    start = (
        jnp.full((*rows, 1), LOW, dtype),
        jnp.zeros((*rows, 1), dtype),
        jnp.zeros((*rows, blocks.v.shape[-1]), dtype),
    )

    def finish(carry) -> tuple[Array, Array]:
        m, l, a = carry
        l = jnp.where(l > 0, l, 1)
        lse = _finite(m) + jnp.log(l)
        o, lse = (join(x, plan.groups, plan.length) for x in (a / l, lse))
        return o.astype(operands.v.dtype), lse

    return _Pass(start, step, finish)


def _backward(
    plan: Plan, operands: Operands, sight: Sight, o: Array, lse: Array, cotangent: Array
) -> _Pass:
    """Of the gradients of `operands`."""
    blocks = split(plan, operands, sight)
    dtype = lse.dtype
    delta = (o.astype(dtype) * cotangent.astype(dtype)).sum(-1, keepdims=True)
    do, delta = (cut(x, plan.groups, plan.block_q) for x in (cotangent, delta))
    lse = cut(lse, plan.groups, plan.block_q, fill=-LOW)  # so that padded queries have P = 0
    q_t, do_t = _turn(blocks.q), _turn(do)  # products without a transposed factor are faster

    def step(masked: bool, carry, i, j):
        dq, dk_t, dv_t, dbias, dterms = carry
        p = jnp.exp(_scores(plan, masked, blocks, i, j) - at(lse, i))
        ds = p * (_dot("bhrv,bhsv->bhrs", at(do, i), at(blocks.v, j)) - at(delta, i))
        if dbias is not None:
            dbias = add_tile(plan, dbias, ds, i, j)
        dterms = add_terms(plan, dterms, blocks, ds, i, j)
        p, ds = p.astype(do.dtype), ds.astype(blocks.q.dtype)
        dq = add(dq, _dot("bhrs,bhsk->bhrk", ds, at(blocks.k, j)), i)
        dk_t = add(dk_t, _dot("bhkr,bhrs->bhks", at(q_t, i), ds), j)
        dv_t = add(dv_t, _dot("bhvr,bhrs->bhvs", at(do_t, i), p), j)
        return dq, dk_t, dv_t, dbias, dterms

    start = (blocks.q, _turn(blocks.k), _turn(blocks.v), blocks.bias, blocks.terms)
    start = jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), start)

    def finish(carry) -> Operands:
        dq, dk_t, dv_t, dbias, dterms = carry
        gradients = Operands(
            join(dq * plan.scale, plan.groups, plan.length),
            join(_turn(dk_t) * plan.scale, 1, plan.keys),
            join(_turn(dv_t), 1, plan.keys),
            None if dbias is None else trim_bias(dbias, operands.bias),
            join_terms(plan, dterms),
        )
        return jax.tree.map(lambda g, x: g.astype(x.dtype), gradients, operands)

    return _Pass(start, step, finish)


def _scores(plan: Plan, masked: bool, blocks: Blocks, i, j) -> Float[Array, "B Hkv Gb b"]:
    s = _dot("bhrk,bhsk->bhrs", at(blocks.q, i), at(blocks.k, j))
    if plan.scale != 1:
        s = s * plan.scale
    if blocks.bias is None and plan.rule.term is None and not masked:
        return s
    apart = s.reshape(*s.shape[:2], plan.groups, plan.block_q, plan.block_k)
    if plan.rule.term is not None:
        terms, ahead = terms_of(plan, blocks, i, j)
        added = plan.rule.term(*terms, ahead).astype(s.dtype)
        apart = (by_heads(apart) + added).reshape(apart.shape)
    if blocks.bias is not None:
        start, size = tile(plan, blocks.bias, i, j)
        apart = apart + jax.lax.dynamic_slice(blocks.bias, start, size).astype(s.dtype)
    if masked:
        queries = jax.tree.map(lambda x: at(x, i), blocks.queries)
        keys = jax.tree.map(lambda x: at(x, j), blocks.keys)
        seen = visible(plan.rule, queries, keys)
        apart = jnp.where(seen[:, None, None], apart, LOW)
    return apart.reshape(s.shape)


def _finite(m: Array) -> Array:
    """The maximum to subtract: 0 where nothing was visible, so that exp(LOW - 0) is 0, not 1."""
    return jnp.where(m > LOW / 2, m, 0)


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _dot(equation: str, a: Array, b: Array) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=_wide(a))


def _turn(x: Array) -> Array:
    return x.swapaxes(-1, -2)
