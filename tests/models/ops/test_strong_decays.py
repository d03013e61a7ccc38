"""Every op with decays keeps float32's precision, from none to e^-80 a step, and for mixtures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqzoo.models import ops
from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.matrix import chunk_kernel, decayed_pairs
from seqzoo.models.ops.scan.wkv_recurrence import wkv
from tests.helpers import relative_error, rms, x64

L, H, K, V = 41, 2, 3, 2  # several chunks of 8 steps, and a part of one
STEPS = (0.0, -0.01, -1.0, -5.0, -20.0, -50.0, -80.0)
MIXTURES = ((-0.01, -50.0), (-0.01, -80.0), (0.0, -20.0), STEPS)


def decays(constant, *shape):
    """Log decays [N, L, ...]; those of ops that are constant in time differ by channel."""
    rng = np.random.default_rng(0)
    shape = shape if constant else (L, *shape)
    alike = [np.full(shape, g) for g in STEPS]
    return np.stack([*alike, *(rng.choice(g, shape) for g in MIXTURES)]).astype(np.float32)


def normal(seed, *shape):
    """The same numbers for all kinds of decay."""
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return np.broadcast_to(x, (len(STEPS) + len(MIXTURES), *shape))


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def over_steps(step, s0, *rows):
    s, o = lax.scan(step, s0, rows)
    return o, s


def matrix_loop(kind, q, k, v, *rest):
    """Rows [L, H, ...] of one sequence, as the recurrences stand in the docstrings."""
    *rest, g, s0 = rest

    def step(s, now):
        q, k, v, g, *rest = now
        kept = jnp.exp(g)[..., None] * s
        if kind == "delta":
            v = rest[0][:, None] * (v - jnp.einsum("hk,hkv->hv", k, kept))
        after = kept + k[..., None] * v[:, None]
        if kind == "dplr":
            a, b = rest
            after = after + b[..., None] * jnp.einsum("hk,hkv->hv", a, s)[:, None]
        return after, jnp.einsum("hk,hkv->hv", q, s if kind == "before" else after)

    return over_steps(step, s0, q, k, v, jnp.broadcast_to(g, q.shape), *rest)


def matrix_case(kind, width, in_kernel=False):
    q, k, v = normal(0, L, H, K), unit(normal(1, L, H, K)), normal(2, L, H, V)
    more = {"delta": [1 / (1 + np.exp(normal(3, L, H)))], "dplr": [-k, k / 2]}.get(kind, [])
    arrays = q, k, v, *more, decays(False, H, width), normal(4, H, K, V)
    options = {"chunk_size": 16 if in_kernel else 8}

    def of_kind(q, k, v, *rest):
        *more, g, s0 = rest
        if kind == "delta":
            return ops.gated_delta_rule(q, k, v, *more, g, s0, **options)
        if kind == "dplr":
            return ops.dplr_delta_rule(q, k, v, *more, g, s0, **options)
        before = kind == "before"
        return ops.gated_linear_attention(q, k, v, g, s0, read_before=before, **options)

    def op(*arrays):
        with forms.forced("chunks", "interpreted" if in_kernel else "walk"):
            return of_kind(*arrays)

    return op, lambda *arrays: matrix_loop(kind, *arrays), arrays


def linear_case():
    def loop(a, b, h0):
        return over_steps(lambda h, now: (h := now[0] * h + now[1], h), h0, a, b)

    def op(a, b, h0):
        h = ops.linear_scan(a, b, h0)
        return h, h[:, -1]

    return op, loop, (np.exp(decays(False, K)), normal(0, L, K), normal(1, K))


def selective_case():
    def loop(u, dt, A, B, C, h0):
        def step(h, now):
            u, dt, B, C = now
            h = jnp.exp(dt[:, None] * A) * h + (dt * u)[:, None] * B
            return h, h @ C

        return over_steps(step, h0, u, dt, B, C)

    def op(u, dt, A, B, C, h0):
        return ops.selective_scan(u, dt, A[0], B, C, None, h0, chunk_size=8)

    A = -np.exp(normal(2, K, 4) / 4)
    dt = -decays(False, K) + 1e-3
    return op, loop, (normal(0, L, K), dt, A, normal(3, L, 4), normal(4, L, 4), normal(5, K, 4))


def wkv_case():
    def loop(k, v, g, bonus):
        def step(s, now):
            (k, v), (a, b) = now, s
            own = jnp.exp(bonus + k)
            o = (a + own * v) / (b + own)
            return (jnp.exp(g) * a + jnp.exp(k) * v, jnp.exp(g) * b + jnp.exp(k)), o

        zero = jnp.zeros_like(g)
        return over_steps(step, (zero, zero), k, v)

    def op(k, v, g, bonus):
        o, s = wkv(k, v, g[0], bonus[0])
        return o, tuple(x * jnp.exp(s.m) for x in s[:2])

    return op, loop, (normal(0, L, 8), normal(1, L, 8), decays(True, 8), normal(2, 8))


def diagonal_case(phase, powers="scan"):
    def loop(u, a, b, c, h0):
        def step(h, now):
            h = a * h + b * now[0][:, None]
            return h, (c * h).real.sum(-1) * (2 if phase else 1)

        o, h = over_steps(step, lax.complex(*jnp.split(h0, 2, -1)) if phase else h0, u)
        return o, jnp.concatenate([h.real, h.imag], -1) if phase else h

    def op(u, a, b, c, h0):
        with forms.forced("powers", powers):
            return ops.diagonal_ssm(u, a[0], b[0], c[0], h0, chunk_size=8)

    turn = np.exp(1j * normal(3, H, K)).astype(np.complex64) if phase else 1
    weights = (np.abs(normal(seed, H, K)) * turn for seed in (1, 2))
    state = normal(4, H, K * (2 if phase else 1))
    return op, loop, (normal(0, L, H), np.exp(decays(True, H, K)) * turn, *weights, state)


def dense_case():
    def loop(u, A, b, c, h0):
        def step(h, now):
            h = jnp.einsum("hnm,hm->hn", A, h) + b * now[0][:, None]
            return h, (c * h).sum(-1)

        return over_steps(step, h0, u)

    def op(u, A, b, c, h0):
        return ops.dense_ssm(u, A[0], b[0], c[0], h0, chunk_size=8)

    turn = np.linalg.qr(normal(1, H, K, K))[0].astype(np.float32)
    A = turn * np.exp(decays(True, H))[..., None, None]
    return op, loop, (normal(0, L, H), A, normal(2, H, K), normal(3, H, K), normal(4, H, K))


MATRIX = {
    f"{kind} {name}": (matrix_case, kind, width)
    for kind in ("linear", "before", "delta", "dplr")
    for name, width in (("head", 1), ("channel", K))
}
CASES = MATRIX | {
    "linear_scan": (linear_case,),
    "selective_scan": (selective_case,),
    "wkv": (wkv_case,),
    "diagonal_ssm": (diagonal_case, False),
    "complex diagonal_ssm": (diagonal_case, True),
    "complex diagonal_ssm, powers by doubling": (diagonal_case, True, "doubling"),
    "dense_ssm": (dense_case,),
}


def in_all(f, arrays):
    """Outputs, final states and pullbacks of f for every kind of decay."""

    def one(*arrays):
        y, pull = jax.vjp(f, *arrays)
        weights = [np.random.default_rng(9).normal(size=x.shape) for x in jax.tree.leaves(y)]
        weights = jax.tree.unflatten(jax.tree.structure(y), weights)
        return y, pull(jax.tree.map(lambda w, x: jnp.asarray(w, x.dtype), weights, y))

    return jax.jit(jax.vmap(one))(*arrays)


def error(actual, desired):
    """As elsewhere, but 0 for what is less than the smallest number: e^-80 is near the end."""
    if rms(np.asarray(actual) - np.asarray(desired)) < np.finfo(np.float32).tiny:
        return 0.0
    return relative_error(actual, desired)


@pytest.mark.parametrize("name", CASES)
def test_float32_is_as_precise_as_for_weak_decays(name, monkeypatch):
    monkeypatch.setattr(decayed_pairs, "JOINED", 4)
    make, *options = CASES[name]
    check(*make(*options))


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", MATRIX)
def test_so_is_the_kernel_for_tpus(name, monkeypatch):
    monkeypatch.setitem(chunk_kernel.KERNELS, "interpreted", True)
    monkeypatch.setattr(chunk_kernel, "WIDTHS", (V, K))
    make, *options = MATRIX[name]
    op, loop, arrays = make(*options, in_kernel=True)
    lowered = jax.jit(op).lower(*(x[:1] for x in arrays)).as_text(debug_info=True)
    assert "pallas_call" in lowered
    check(op, loop, arrays)


def check(op, loop, arrays):
    """Errors against a loop in float64, for each kind of decay."""

    def rows(*arrays):
        return jax.tree.map(lambda y: y[0], op(*(x[None] for x in arrays)))

    found = in_all(rows, arrays)
    wide = {"f": np.float64, "c": np.complex128}
    with x64():
        expected = in_all(loop, [jnp.asarray(x, wide[x.dtype.kind]) for x in arrays])
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        errors = np.array([error(a, b) for a, b in zip(x, y, strict=True)])
        assert errors.max() <= 1e-6, f"{jax.tree_util.keystr(path)}: {errors}"
