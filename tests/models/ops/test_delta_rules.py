"""The delta rules against loops in float64: decays, chunks, segments, gradients, extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqzoo.models.ops.matrix.delta_rules import dplr_delta_rule, gated_delta_rule
from seqzoo.models.ops.matrix.triangular import inverse_on_chip, unit_inverse
from tests.golden import golden
from tests.helpers import assert_close, assert_trees_close, x64
from tests.references import delta_rules as references

B, L, H, K, V = 3, 37, 2, 4, 3
DECAYS = {
    "none": None,
    "constant": (H, 1),
    "head": (B, L, H, 1),
    "channel": (B, L, H, K),
    "shared_channel": (1, 1, 1, K),
}
OPS = {
    "gated": (gated_delta_rule, references.gated_delta_rule),
    "dplr": (dplr_delta_rule, references.dplr_delta_rule),
}
EVERY = [(op, kind) for op in OPS for kind in ("none", "head", "channel")]


def draw(op, kind, seed=0, length=L):
    """The arguments up to the initial state; transitions that neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    q, k, a = (rng.normal(size=(B, length, H, K)) for _ in range(3))
    v, s0 = rng.normal(size=(B, length, H, V)), rng.normal(size=(B, H, K, V))
    k, a = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (k, a))
    beta = rng.uniform(0, 2, (B, length, H))
    shape = DECAYS[kind]
    if shape is not None:
        shape = tuple(length if n == L else n for n in shape)
    decay = None if shape is None else -rng.exponential(size=shape) / 4
    if op == "gated":
        return q, k, v, beta, decay, s0
    return q, k, v, -a, a * rng.uniform(0, 1, (B, length, H, K)), decay, s0


def layouts():
    ids = np.repeat(np.random.default_rng(1).integers(0, 3, (B, L)), 5, axis=1)[:, :L]
    ids[0, :3], ids[2] = 0, 0  # a row that begins with padding, a row of padding
    return ids


def loop(op, *inputs, segment_ids=None):
    """The recurrence as a scan over single steps, to be differentiated by jax."""
    *inputs, decay, s0 = inputs
    ids = np.ones(inputs[0].shape[:2], int) if segment_ids is None else segment_ids
    decay = jnp.exp(jnp.broadcast_to(0.0 if decay is None else decay, inputs[0].shape))

    def step(carry, now):
        S, last = carry
        one, decay, q, k, v, *rest = now
        real, fresh = (m[:, None, None, None] for m in (one > 0, (last > 0) & (one != last)))
        before = jnp.where(real & fresh, 0, S)
        if op == "gated":
            after = decay[..., None] * before
            recalled = jnp.einsum("bhk,bhkv->bhv", k, after)
            after = after + k[..., None] * (rest[0][..., None] * (v - recalled))[:, :, None]
        else:
            moved = jnp.einsum("bhk,bhkv->bhv", rest[0], before)
            after = decay[..., None] * before + k[..., None] * v[:, :, None]
            after = after + rest[1][..., None] * moved[:, :, None]
        S = jnp.where(real, after, S)
        o = jnp.where(real[..., 0], jnp.einsum("bhk,bhkv->bhv", q, S), 0)
        return (S, jnp.where(one > 0, one, last)), o

    xs = tuple(jnp.moveaxis(x, 1, 0) for x in (ids, decay, *inputs))
    (S, _), o = lax.scan(step, (s0, jnp.zeros(B, ids.dtype)), xs)
    return jnp.moveaxis(o, 0, 1), S


@functools.partial(jax.jit, static_argnames=("op", "chunk_size", "scale"))
def run(op, inputs, ids=None, *, chunk_size=None, scale=1.0):
    return OPS[op][0](*inputs, chunk_size=chunk_size, scale=scale, segment_ids=ids)


@pytest.mark.parametrize("chunk_size", [1, 16, 64, L])
@pytest.mark.parametrize(("op", "kind"), EVERY)
def test_equals_the_loop_for_every_chunk_size(op, kind, chunk_size):
    inputs = draw(op, kind)
    with x64():
        actual = run(op, inputs, chunk_size=chunk_size, scale=0.5)
    assert_trees_close(actual, OPS[op][1](*inputs, scale=0.5), ratio=1e-12)


@pytest.mark.parametrize("kind", ["constant", "shared_channel"])
def test_decay_broadcasts(kind):
    inputs = draw("gated", kind)
    with x64():
        actual = run("gated", inputs)
    assert_trees_close(actual, references.gated_delta_rule(*inputs), ratio=1e-12)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("length", [1, 2, 70])
def test_any_length(op, length):
    inputs = draw(op, "channel", length, length)
    with x64():
        actual = run(op, inputs)
    assert_trees_close(actual, OPS[op][1](*inputs), ratio=1e-12)


def test_what_is_recalled_may_be_read_by_another_vector():
    """And all of the correction be made."""
    (q, k, v, _, decay, s0), ids = draw("gated", "channel"), layouts()
    inputs, read = (q, k, v, None, decay, s0), draw("gated", "none", 1)[1]
    with x64():
        o, s = jax.jit(lambda *a, read: gated_delta_rule(*a, segment_ids=ids, read=read))(
            *inputs, read=read
        )
    inputs = (*inputs[:3], np.ones(q.shape[:3]), *inputs[4:])
    desired = references.gated_delta_rule(*inputs, segment_ids=ids, read=read)
    assert_close(np.where(ids[..., None, None] > 0, o, 0), desired[0], ratio=1e-12)
    assert_close(s, desired[1], ratio=1e-12)


@pytest.mark.parametrize(("op", "kind"), EVERY)
def test_segments(op, kind):
    inputs, ids = draw(op, kind), layouts()
    with x64():
        o, s = run(op, inputs, ids)
    desired = OPS[op][1](*inputs, segment_ids=ids)
    assert_close(np.where(ids[..., None, None] > 0, o, 0), desired[0], ratio=1e-12)
    assert_close(s, desired[1], ratio=1e-12)
    np.testing.assert_array_equal(s[2], inputs[-1][2])


@functools.partial(jax.jit, static_argnames=("f", "op", "given"))
def gradients(f, op, inputs, given, ids, do, ds):
    inputs = dict(zip(given, inputs, strict=True))

    def loss(inputs):
        full = [inputs.get(i) for i in range(7 if op == "dplr" else 6)]
        o, s = f(*full, segment_ids=ids)
        o = o if ids is None else jnp.where(ids[..., None, None] > 0, o, 0)
        return jnp.sum(o * do) + jnp.sum(s * ds)

    return jax.grad(loss)(inputs)


def compare_gradients(op, inputs, ids, ratio):
    rng = np.random.default_rng(5)
    do, ds = rng.normal(size=(B, L, H, V)), rng.normal(size=(B, H, K, V))
    given = tuple(i for i, x in enumerate(inputs) if x is not None)
    some = [inputs[i] for i in given]
    with x64():
        plain = functools.partial(loop, op)
        actual = gradients(OPS[op][0], op, some, given, ids, do, ds)
        desired = gradients(plain, op, some, given, ids, do, ds)
    assert_trees_close(actual, desired, ratio=ratio)
    return actual


@pytest.mark.parametrize(("op", "kind"), EVERY)
def test_gradients_equal_the_loop_and_stop_at_padding(op, kind):
    ids, inputs = layouts(), draw(op, kind)
    grads = compare_gradients(op, inputs, ids, 1e-11)
    for g in list(grads.values())[:-1]:
        assert not np.any(np.asarray(g)[ids == 0])
        assert np.any(np.asarray(g)[ids > 0])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", ["head", "channel"])
def test_extreme_decays_keep_accuracy(op, kind):
    """0, -50 and -inf mixed: exact in float32, no NaN in gradients."""
    inputs = list(draw(op, kind))
    rng = np.random.default_rng(3)
    inputs[-2] = rng.choice([0.0, -1e-3, -1.0, -50.0, -np.inf], inputs[-2].shape)
    low = [x.astype(np.float32) for x in inputs]
    desired = OPS[op][1](*(x.astype(np.float64) for x in low))
    assert_trees_close(run(op, low), desired, ratio=1e-6)
    given = tuple(range(len(low)))
    do = np.ones((B, L, H, V), np.float32)
    grads = gradients(OPS[op][0], op, low, given, None, do, np.zeros(1, np.float32))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_equal_keys_keep_accuracy(beta):
    """The worst case of the triangular solve: powers of its matrix reach 1e20."""
    q, k, v, *_ = draw("gated", "none")
    k = np.broadcast_to(k[:, :1], k.shape)
    inputs = [x.astype(np.float32) for x in (q, k, v, np.full((B, L, H), beta))]
    desired = references.gated_delta_rule(*(x.astype(np.float64) for x in inputs))
    assert_trees_close(run("gated", inputs, chunk_size=64), desired, ratio=1e-5)


def test_long_rows_of_bfloat16_stay_finite_and_close():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 8192, 1, 4)), jnp.bfloat16) for _ in range(3))
    k = k / jnp.linalg.norm(k.astype(jnp.float32), axis=-1, keepdims=True).astype(k.dtype)
    beta = jnp.asarray(rng.uniform(0, 1, (1, 8192, 1)), jnp.bfloat16)
    for decay in (0.0, -1e-4, -50.0):
        o, s = run("gated", (q, k, v, beta, jnp.full((1, 1, 1, 4), decay)))
        assert o.dtype == jnp.bfloat16
        assert s.dtype == jnp.float32
        exact, _ = run("gated", [x.astype(jnp.float32) for x in (q, k, v, beta)] + [decay])
        assert_close(o.astype(jnp.float32), exact, ratio=1e-2)


def test_memory_is_linear_in_length():
    def peak(length):
        q = jax.ShapeDtypeStruct((1, length, 1, 16), jnp.float32)
        beta = jax.ShapeDtypeStruct((1, length, 1), jnp.float32)

        def loss(q, k, v, beta, g):
            return jnp.sum(gated_delta_rule(q, k, v, beta, g)[0] ** 2)

        compiled = jax.jit(jax.grad(loss, (0, 1, 2, 3, 4))).lower(q, q, q, beta, q).compile()
        return compiled.memory_analysis().temp_size_in_bytes / length

    assert peak(8192) <= 1.1 * peak(2048)


@pytest.mark.every_case
@pytest.mark.parametrize("inverse", [unit_inverse, inverse_on_chip])
def test_unit_inverse_and_its_derivative(inverse):
    p = np.tril(np.random.default_rng(0).normal(size=(2, 64, 64)), -1) / 4
    p = p if inverse is unit_inverse else p[0]
    weight = np.random.default_rng(1).normal(size=p.shape)
    with x64():
        actual = jax.jit(inverse)(jnp.asarray(p))
        desired = np.linalg.inv(np.eye(64) - p)
        slope = jax.jit(jax.grad(lambda p: jnp.sum(weight * inverse(p))))(jnp.asarray(p))
        wanted = jax.grad(lambda p: jnp.sum(weight * jnp.linalg.inv(jnp.eye(64) - p)))(
            jnp.asarray(p)
        )
    assert_close(actual, desired, ratio=1e-12)
    assert_close(slope, wanted, ratio=1e-10)


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": jnp.zeros((1, 2))}, r"beta must be \[B, L, H\]"),
        ({"k": jnp.zeros((1, 2, 1, 3))}, "k must have the shape of q"),
        ({"v": jnp.zeros((1, 3, 1, 4))}, r"v must be \[B, L, H, V\]"),
        ({"log_decay": jnp.zeros((1, 2, 1, 3))}, "log_decay must broadcast"),
        ({"s0": jnp.zeros((1, 1, 4, 5))}, "s0 must be"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    x = jnp.zeros((1, 2, 1, 4))
    with pytest.raises(ValueError, match=f"gated_delta_rule: {message}"):
        gated_delta_rule(**{"q": x, "k": x, "v": x, "beta": jnp.zeros((1, 2, 1)), **change})


def official(name, *inputs):
    """The arrays of a golden file as [B, L, H, *] and the way back."""
    theirs = golden(f"linear_rnn/{name}")
    swap = (lambda x: np.swapaxes(x, 1, 2)) if name.endswith("BHTD") else (lambda x: x)
    arrays = [theirs[i] if i == "initial_state" else swap(theirs[i]) for i in inputs]
    desired = [swap(theirs["o"]), theirs["final_state"]]
    for i in inputs:
        gradient = theirs[f"grad_{i}"]
        desired.append(gradient if i == "initial_state" else swap(gradient))
    return arrays, swap(theirs["cotangent"]), desired


def check_official(name, f, *inputs):
    arrays, cotangent, desired = official(name, *inputs)
    with x64():
        arrays = [jnp.asarray(x) for x in arrays]
        grad = jax.grad(lambda *x: jnp.sum(f(*x)[0] * cotangent), tuple(range(len(arrays))))
        actual = [*f(*arrays), *grad(*arrays)]
    for what, x, y in zip(["o", "final_state", *inputs], actual, desired, strict=True):
        assert_close(x, y, ratio=1e-9, what=what)


def test_official_delta_rule():
    def f(q, k, v, beta, s0):
        return gated_delta_rule(q, k, v, beta, None, s0, scale=0.5)

    check_official("delta_rule_BHTD", f, "q", "k", "v", "beta", "initial_state")


def test_official_gated_delta_rule():
    def f(q, k, v, beta, g, s0):
        return gated_delta_rule(q, k, v, beta, g[..., None], s0, scale=0.5)

    check_official("gated_delta_rule", f, "q", "k", "v", "beta", "g", "initial_state")


def test_official_kimi_delta_attention_with_grouped_values():
    def f(q, k, v, beta, g, s0):
        q, k = (jnp.repeat(x, v.shape[2] // x.shape[2], axis=2) for x in (q, k))
        return gated_delta_rule(q, k, v, beta, g, s0, scale=0.5)

    check_official("kda_gva", f, "q", "k", "v", "beta", "g", "initial_state")


def test_official_gated_delta_product():
    def f(q, k, v, beta, g, s0):
        n = k.shape[1] // q.shape[1]
        later = jnp.zeros((*g.shape[:2], n - 1, g.shape[2]))
        g = jnp.concatenate([g[:, :, None], later], 2).reshape(beta.shape)
        o, s = gated_delta_rule(jnp.repeat(q, n, axis=1), k, v, beta, g[..., None], s0)
        return o[:, n - 1 :: n], s

    check_official("gated_delta_product", f, "q", "k", "v", "beta", "g", "initial_state")


def test_official_rwkv7_core():
    def f(q, k, v, a, b, g, s0):
        return dplr_delta_rule(q, k, v, a, b, g, s0, scale=0.5)

    names = ("q", "k", "v", "alpha", "beta", "gk", "initial_state")
    check_official("dplr_delta_rule_rwkv7_BHTD", f, *names)


def test_official_identity_plus_low_rank():
    def f(q, k, v, a, b, s0):
        return dplr_delta_rule(q, k, v, a, b, None, s0, scale=0.5)

    names = ("q", "k", "v", "alpha", "beta", "initial_state")
    check_official("iplr_delta_rule_BHTD", f, *names)
