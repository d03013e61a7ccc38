"""A small call of every public op: f(ids, *arrays), of rows [B, L] and of a state."""

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.models import ops
from seqzoo.models.ops.scan.wkv_recurrence import WKVState, wkv
from seqzoo.models.ops.softmax.block_sparse import attend_blocks, join
from seqzoo.models.ops.softmax.local_blocks import near_blocks, weights
from seqzoo.models.ops.softmax.packed_blocks import segment_blocks
from seqzoo.models.ops.softmax.relative import Lookup, Relative, Slopes, Terms

B, L, D = 4, 32, 6
H, K, V = 2, 3, 2
IDS = np.array([[1] * 32, [1] * 3 + [2] * 20 + [3] * 9, [0] * 9 + [1] * 14 + [0] * 9, [4, 0] * 16])
DECAYS = 0.95 * np.exp(1j * np.arange(1.0, 1 + D * 2).reshape(D, 2)).astype(np.complex64)
ROTATIONS = 0.9 * np.linalg.qr(np.random.default_rng(1).normal(size=(D, 3, 3)))[0].astype("f")


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def qkv(heads=H):
    k = normal(1, B, L, heads, K)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    return normal(0, B, L, H, K), k, normal(2, B, L, heads, V)


def gla(ids, q, k, v, g, s0):
    return ops.gated_linear_attention(
        q, k, v, -jax.nn.softplus(g), s0, segment_ids=ids, chunk_size=4
    )


def gated_delta(ids, q, k, v, beta, s0):
    options = {"segment_ids": ids, "chunk_size": 4}
    return ops.gated_delta_rule(q, k, v, jax.nn.sigmoid(beta), None, s0, **options)


def dplr(ids, q, k, v, b, g, s0):
    options = {"segment_ids": ids, "chunk_size": 4}
    return ops.dplr_delta_rule(q, k, v, -k, b * k, -jax.nn.softplus(g), s0, **options)


def selective(ids, u, dt, A, BC, h0):
    options = {"segment_ids": ids, "chunk_size": 4}
    return ops.selective_scan(u, jax.nn.softplus(dt), -jnp.exp(A), BC, BC, None, h0, **options)


def log_linear(ids, q, k, v, beta, levels):
    beta, levels = jax.nn.sigmoid(beta), jax.nn.sigmoid(levels)
    options = {"segment_ids": ids, "chunk_size": 4}
    return ops.log_linear_delta_rule(q, k, v, beta, levels, -beta[..., None], **options)


STATE = normal(4, B, H, K, V)
CALLS = {
    "gated_linear_attention": (gla, *qkv(), normal(3, B, L, H, K), STATE),
    "gated_delta_rule": (gated_delta, *qkv(), normal(3, B, L, H), STATE),
    "dplr_delta_rule": (dplr, *qkv(), normal(3, B, L, H, 1), normal(5, B, L, H, K), STATE),
    "log_linear_delta_rule": (log_linear, *qkv(), normal(3, B, L, H), normal(5, B, L, H, 5)),
    "block_scan": (
        lambda ids, A, b, h0: ops.block_scan(A / 2, b, h0, segment_ids=ids),
        *(normal(0, B, L, H, K, K), normal(1, B, L, H, K), normal(2, B, H, K)),
    ),
    "selective_scan": (
        selective,
        *(normal(0, B, L, D), normal(1, B, L, D), normal(2, D, 3)),
        *(normal(3, B, L, 3), normal(4, B, D, 3)),
    ),
    "diagonal_ssm": (
        lambda ids, u, a, h0: ops.diagonal_ssm(u, a, a, a, h0, segment_ids=ids, chunk_size=2),
        *(normal(0, B, L, D), DECAYS, normal(1, B, D, 4)),
    ),
    "dense_ssm": (
        lambda ids, u, A, b, h0: ops.dense_ssm(u, A, b, b, h0, segment_ids=ids, chunk_size=2),
        *(normal(0, B, L, D), ROTATIONS, normal(1, D, 3), normal(2, B, D, 3)),
    ),
    "short_conv": (
        lambda ids, x, kernel, window: ops.short_conv(x, kernel, window, segment_ids=ids),
        *(normal(0, B, L, D), normal(1, 6, D), normal(2, B, 5, D)),
    ),
    "wkv": (
        lambda ids, k, v, w, u: wkv(k, v, -jnp.exp(w), u, segment_ids=ids),
        *(normal(0, B, L, D), normal(1, B, L, D), normal(2, D), normal(3, D)),
    ),
    "nonlinear_scan": (
        lambda ids, x, h0: ops.nonlinear_scan(lambda h, x: jnp.tanh(h + x), x, h0, segment_ids=ids),
        *(normal(0, B, L, D), normal(1, B, D)),
    ),
    "fft_conv": (
        lambda ids, u, k, r: ops.fft_conv(u, k, reverse_kernel=r, segment_ids=ids),
        *(normal(0, B, L, 8), normal(1, L, 8), normal(2, L, 8)),
    ),
    "attention": (
        lambda ids, q, k, v: ops.attention(q, k, v, causal=True, segment_ids=ids),
        *qkv(1),
    ),
}


KERNELS = normal(5, D, D) / 3, normal(6, D, D) / 3


def gru_like(h, x, dot, other):
    z = jax.nn.sigmoid(dot(h) + x)
    return z * h + (1 - z) * jnp.tanh(other(z * h) + x)


def near(ids, q, k, v):
    def step(carry, queries, keys):
        (q, p), (k, v, at) = queries, keys
        s = jnp.einsum("BCHK,BSHK->BHCS", q, k)
        seen = (p[:, None, :, None] >= at[:, None, None]) & (at > 0)[:, None, None]
        return carry, jnp.einsum("BHCS,BSHV->BCHV", weights(s, seen, "softmax"), v)

    place = jnp.broadcast_to(jnp.arange(1, L + 1), (B, L))
    return near_blocks(step, None, (q, place), (k, v, place), size=8)[1]


def local(ids, q, k, v):
    blocks = segment_blocks(ops.segments(ids), B, L, 8)
    rows = map(blocks.pack, (q, k, v))
    part = attend_blocks(
        *rows,
        blocks,
        lambda number, count: number[..., None] + jnp.arange(-1, 1),
        lambda t, s: t >= s,
        0.7,
    )
    return blocks.unpack(join([part]), L)


def in_one_unit(ids, k, v, w, u, *sums):
    """The state's exponent has no derivative; what its sums are worth has."""
    start = WKVState(sums[0], jnp.exp(sums[1]), jnp.zeros_like(sums[0]))
    o, state = wkv(k, v, -jnp.exp(w), u, start, segment_ids=ids)
    return o, state.numerator * jnp.exp(state.m), state.denominator * jnp.exp(state.m)


# Beside the calls of CALLS: other forms of the same ops, and what mixers build on.
MORE = {
    "wkv": (in_one_unit, *CALLS["wkv"][1:], normal(4, B, D), normal(5, B, D)),
    "linear_scan": (
        lambda ids, a, b, h0: ops.linear_scan(jax.nn.sigmoid(a), b, h0, segment_ids=ids),
        *(normal(0, B, L, D), normal(1, B, L, D), normal(2, B, D)),
    ),
    "linear_scan, complex and constant, reversed": (
        lambda ids, a, b: ops.linear_scan(jax.lax.complex(a, 1 - a), b, reverse=True).real,
        *(normal(0, D) / 9, normal(1, B, L, D)),
    ),
    "nonlinear_scan, kernels": (
        lambda ids, x, h0, *kernels: ops.nonlinear_scan(
            gru_like, x, h0, kernels=kernels, segment_ids=ids
        ),
        *(normal(0, B, L, D), normal(1, B, D), *KERNELS),
    ),
    "attention, dense": (
        lambda ids, q, k, v: ops.attention(q, k, v, segment_ids=ids),
        *qkv(1),
    ),
    "attention, slopes and window": (
        lambda ids, q, k, v: ops.attention(
            q, k, v, causal=True, window=11, relative=Relative(Slopes((0.3, 0.1)))
        ),
        *qkv(),
    ),
    "attention, table and bias": (
        lambda ids, q, k, v, bias, table, rows: ops.attention(
            *(q, k, v),
            bias=bias,
            relative=Relative(Lookup(-1, (0, 1, 2, 2)), Terms(table, rows, rows)),
            segment_ids=ids,
        ),
        *(*qkv(2), normal(3, 2, L, L), normal(4, 2, 3), normal(5, B, L, 2, 3)),
    ),
    "attend_blocks": (local, *qkv()),
    "near_blocks": (near, *qkv()),
    "rope": (lambda ids, q: ops.rope(q, jnp.arange(L)), normal(0, B, L, 2, 4)),
    "favor_features": (lambda ids, q, w: ops.favor_features(q, w), qkv()[0], normal(1, 5, 3)),
    "kernel_sums": (
        lambda ids, q, k, v: ops.kernel_sums(q, k, v, causal=False, segment_ids=ids)[0],
        *qkv(),
    ),
}
ALL = CALLS | MORE
