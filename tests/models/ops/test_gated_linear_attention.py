"""gated_linear_attention against a loop in float64: every kind of decay, chunks, segments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from tests.golden import golden
from tests.helpers import assert_close, assert_trees_close, x64
from tests.references.gated_linear_attention import gated_linear_attention as reference

B, L, H, K, V = 3, 37, 2, 4, 3
DECAYS = {
    "none": None,
    "constant": (H, 1),
    "head": (B, L, H, 1),
    "channel": (B, L, H, K),
    "shared_channel": (1, 1, 1, K),
}


def draw(kind, seed=0, values=V):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for s in [(B, L, H, K), (B, L, H, K), (B, L, H, values)]]
    shape = DECAYS[kind]
    decay = None if shape is None else -rng.exponential(size=shape)
    return (*arrays, decay, rng.normal(size=(B, H, K, values)))


def layouts():
    ids = np.repeat(np.random.default_rng(1).integers(0, 3, (B, L)), 5, axis=1)[:, :L]
    ids[0, :3], ids[2] = 0, 0  # a row that begins with padding, a row of padding
    return ids


def loop(q, k, v, log_decay, s0, bonus=None, *, scale, read_before=False, segment_ids=None):
    """The recurrence as a scan over single steps, to be differentiated by jax."""
    ids = np.ones(q.shape[:2], int) if segment_ids is None else segment_ids
    decay = jnp.exp(jnp.broadcast_to(0.0 if log_decay is None else log_decay, q.shape))

    def step(carry, inputs):
        S, last = carry
        q, k, v, decay, one = inputs
        real, fresh = ((m)[:, None, None, None] for m in (one > 0, (last > 0) & (one != last)))
        before = jnp.where(real & fresh, 0, S)
        update = k[..., None] * v[:, :, None]
        S = jnp.where(real, decay[..., None] * before + update, S)
        now = 0 if bonus is None else bonus[..., None] * update
        read = before + now if read_before else S
        o = scale * jnp.einsum("bhk,bhkv->bhv", q, read)
        return (S, jnp.where(one > 0, one, last)), jnp.where(real[..., 0], o, 0)

    xs = tuple(jnp.moveaxis(x, 1, 0) for x in (q, k, v, decay, ids))
    (S, _), o = lax.scan(step, (s0, jnp.zeros(q.shape[0], ids.dtype)), xs)
    return jnp.moveaxis(o, 0, 1), S


def run(f, arrays, ids=None):
    """Outputs, final state, and gradients of a loss on both (on outputs at real steps)."""
    mask = 1 if ids is None else (ids > 0)[:, :, None, None]
    wanted = tuple(i for i, a in enumerate(arrays) if a is not None)

    def loss(*arrays):
        o, s = f(*arrays)
        return jnp.sum(jnp.where(mask, o, 0) ** 2) + jnp.sum(jnp.sin(s)), (o, s)

    gradients, (o, s) = jax.jit(jax.grad(loss, wanted, has_aux=True))(*arrays)
    return o, s, gradients


def check(arrays, ids=None, chunk_size=None, **options):
    options = {"scale": 0.7, "segment_ids": ids, **options}
    ours = functools.partial(gated_linear_attention, chunk_size=chunk_size, **options)
    with x64():
        o, s, actual = run(ours, arrays, ids)
        desired = run(functools.partial(loop, **options), arrays, ids)[2]
    expected_o, expected_s = reference(*arrays, **options)
    real = np.ones((B, L), bool) if ids is None else ids > 0
    assert_close(np.asarray(o)[real], expected_o[real], ratio=1e-12, what="o")
    assert_close(s, expected_s, ratio=1e-12, what="s_last")
    assert_trees_close(actual, desired, ratio=1e-11)


@pytest.mark.parametrize("kind", DECAYS)
def test_equals_the_loop_on_packed_rows(kind):
    check(draw(kind), layouts(), chunk_size=16)


@pytest.mark.parametrize("kind", ["none", "head", "channel"])
def test_reading_before_the_update_on_packed_rows(kind):
    check(draw(kind), layouts(), chunk_size=16, read_before=True)


@pytest.mark.parametrize("form", ["apart", "together"])
@pytest.mark.parametrize("kind", ["none", "head"])
def test_a_column_behind_whole_vectors(kind, form):
    with forms.forced("normaliser", form):
        check(draw(kind, values=17), layouts(), chunk_size=16, read_before=kind == "none")


def test_a_column_is_apart_where_a_table_says_so():
    arrays = draw("head", values=17)
    products = {}
    for form in ("apart", "together"):
        with forms.forced("normaliser", form):
            call = functools.partial(gated_linear_attention)  # a new one is traced anew
            text = jax.jit(call).lower(*arrays).as_text()
        products[form] = text.count("stablehlo.dot_general")
    assert products["apart"] == products["together"] + 3  # within, from and into the state


@pytest.mark.parametrize(
    ("kind", "chunk_size"), [("none", 11), ("head", 11), ("channel", 11), ("channel", None)]
)
def test_equals_the_loop_for_any_chunk_size(kind, chunk_size):
    check(draw(kind), chunk_size=chunk_size)


@pytest.mark.of_the_day
@pytest.mark.parametrize("kind", ["head", "channel"])
def test_chunks_of_one_step_on_packed_rows(kind):
    check(draw(kind), layouts(), chunk_size=1)


def test_several_full_chunks_of_the_default_size():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 200, 1, 4)), jnp.float32) for _ in range(3))
    g = jnp.asarray(-rng.exponential(size=q.shape), jnp.float32)
    o, s = jax.jit(gated_linear_attention)(q, k, v, g)
    expected_o, expected_s = reference(*(np.asarray(x, np.float64) for x in (q, k, v, g)))
    assert_close(o, expected_o, ratio=3e-6)
    assert_close(s, expected_s, ratio=3e-6)


def test_continues_from_a_state():
    q, k, v, g, s0 = draw("channel")
    first, second = (tuple(x[:, part] for x in (q, k, v, g)) for part in (np.s_[:20], np.s_[20:]))
    with x64():
        o, s = gated_linear_attention(q, k, v, g, s0)
        o1, middle = gated_linear_attention(*first, s0)
        o2, end = gated_linear_attention(*second, middle)
    assert_close(jnp.concatenate([o1, o2], 1), o, ratio=1e-12)
    assert_close(end, s, ratio=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("width", [1, 4])
def test_extreme_decays_are_finite_forward_and_backward(dtype, width):
    """Decays from none to e^-50 a step, mixed, over 4096 steps."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(1, 4096, 1, 4)), dtype) for _ in range(3))
    g = rng.choice([0.0, -1e-4, -1.0, -50.0], size=(1, 4096, 1, width))
    g[:, 1000:1500], g[:, 2000:2500] = -50.0, 0.0
    arrays = (q, k, v, jnp.asarray(g, dtype), jnp.ones((1, 1, 4, 4)))
    results = jax.tree.leaves(run(gated_linear_attention, arrays))
    assert results[0].dtype == dtype
    assert results[1].dtype == jnp.float32
    for x in results:
        assert np.all(np.isfinite(np.asarray(x, np.float32)))
    expected, _ = reference(*(np.asarray(x, np.float64) for x in arrays))
    assert_close(results[0], expected, ratio=1e-6 if dtype == jnp.float32 else 1e-2)


def test_decay_of_minus_infinity_forgets():
    q, k, v = (jnp.ones((1, 20, 1, 2)) for _ in range(3))
    g = jnp.zeros((1, 20, 1, 2)).at[:, 12].set(-jnp.inf)
    o, _ = gated_linear_attention(q, k, v, g)
    assert_close(o[0, :, 0, 0], [2.0 * (t + 1 if t < 12 else t - 11) for t in range(20)])


def test_training_memory_is_linear_and_small():
    def temporary(length):
        x = jax.ShapeDtypeStruct((1, length, 2, 16), jnp.float32)

        def loss(q, k, v, g):
            return jnp.sum(gated_linear_attention(q, k, v, g)[0] ** 2)

        compiled = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(x, x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (length * 2 * 16 * 4)

    assert temporary(16384) <= 1.05 * temporary(8192)
    assert temporary(16384) <= 16  # in arrays of q's size; the scores of all chunks would be 4 more


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": (2, 5, 1, 3)}, "q and k must have one shape"),
        ({"v": (2, 4, 1, 3)}, "v must be"),
        ({"log_decay": (2, 5, 1, 3)}, "log_decay must broadcast"),
        ({"s0": (2, 1, 3, 4)}, "s0 must be"),
        ({"chunk_size": 0}, "chunk_size must be at least 1"),
        ({"bonus": (1, 4)}, "bonus weights the current step"),
    ],
)
def test_bad_arguments_are_named(options, message):
    arguments = {"q": (2, 5, 1, 4), "k": (2, 5, 1, 4), "v": (2, 5, 1, 3), **options}
    arguments = {n: jnp.zeros(a) if isinstance(a, tuple) else a for n, a in arguments.items()}
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(**arguments)


def golden_case(name):
    """Arrays of a published case, in our layout, with the names of its decay and bonus."""
    data = golden(f"linear_rnn/{name}")
    if name.endswith("BHTD"):
        for key, x in data.items():
            if x.ndim == 4 and "state" not in key:
                data[key] = x.swapaxes(1, 2)
    return data


CASES = {
    "linear_attn": None,
    "gla": "gk",
    "simple_gla": "g",
    "retention_BHTD": "gamma",
    "rwkv6_BHTD": "w",
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_published_implementation(name):
    data, decay = golden_case(name), CASES[name]
    scale = float(data.get("scale", data["q"].shape[-1] ** -0.5))
    inputs = {n: data[n] for n in ("q", "k", "v", decay, "u", "initial_state") if n in data}

    def outputs(inputs):
        g = inputs.get(decay)
        if decay == "gamma":
            g = jnp.log(g)[:, None]
        if decay == "g":
            g = g[..., None]
        qkv = (inputs[n] for n in "qkv")
        options = {"read_before": True, "bonus": inputs["u"]} if "u" in inputs else {}
        s0 = inputs.get("initial_state")
        return gated_linear_attention(*qkv, g, s0, scale=scale, chunk_size=4, **options)

    with x64():
        o, s = jax.jit(outputs)(inputs)
        gradient = jax.jit(jax.grad(lambda x: jnp.sum(outputs(x)[0] * data["cotangent"])))(inputs)
    actual = {"o": o, "final_state": s, **{f"grad_{n}": x for n, x in gradient.items()}}
    compared = [n for n in actual if n in data]
    assert len(compared) >= 4
    for n in compared:
        assert_close(actual[n], data[n], ratio=1e-9, what=n)


def test_gradients_of_a_large_chunk_with_a_decay_a_channel():
    """XLA's CPU backend aborts the process at products of 8 axes."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 128, 2, 4)), jnp.float32)

    @functools.partial(jax.jit, static_argnums=1)
    def slope(x, size):
        return jax.grad(lambda x: gated_linear_attention(x, x, x, -x, chunk_size=size)[0].sum())(x)

    assert_close(slope(x, 128), slope(x, 8), ratio=1e-5)


@pytest.mark.parametrize("kind", ["none", "head", "channel"])
@pytest.mark.parametrize("read_before", [False, True])
def test_heads_that_share_queries_and_keys_equal_repeated_ones(kind, read_before):
    rng = np.random.default_rng(4)
    heads, options = 4, {"scale": 0.7, "chunk_size": 8, "read_before": read_before}
    q, k = rng.normal(size=(2, B, L, 2, K))
    v, s0 = rng.normal(size=(B, L, heads, V)), rng.normal(size=(B, heads, K, V))
    shape = {"none": None, "head": (B, L, heads, 1), "channel": (heads, K)}[kind]
    decay = None if shape is None else -rng.exponential(size=shape)
    cotangents = (
        rng.normal(size=v.shape) * (layouts() > 0)[..., None, None],
        rng.normal(size=s0.shape),
    )

    def run(repeat, q, k, v, decay, s0):
        q, k = (jnp.repeat(x, repeat, axis=2) for x in (q, k))
        ids = layouts()
        o, s = gated_linear_attention(q, k, v, decay, s0, segment_ids=ids, **options)
        return jnp.where((ids > 0)[..., None, None], o, 0), s

    def both(repeat):
        y, pull = jax.vjp(functools.partial(run, repeat), q, k, v, decay, s0)
        return y, pull(cotangents)

    with x64():
        grouped, repeated = (jax.jit(both, static_argnums=0)(n) for n in (1, 2))
    assert_trees_close(grouped, repeated, ratio=1e-12)


def test_heads_of_queries_must_divide_those_of_values():
    q, v = jnp.ones((1, 3, 2, 2)), jnp.ones((1, 3, 3, 2))
    with pytest.raises(ValueError, match="a multiple of its heads"):
        gated_linear_attention(q, q, v)


def test_features_are_made_where_they_are_used():
    """A feature map in the op equals the map before it, with padding, in gradients too."""
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 23, 2, 4))) for _ in range(3))
    ids = jnp.asarray([[1] * 9 + [2] * 11 + [0] * 3, [1] * 23])

    def squares(q, k):  # of zero are not zero
        return 1 + q[..., :3] ** 2, 1 + k[..., 1:] ** 2

    def total(inside, q, k, v):
        features = (q, k) if inside else squares(q, k)
        options = {"chunk_size": 4, "segment_ids": ids}
        options["feature_map"] = squares if inside else None
        o, s = gated_linear_attention(*features, v, -0.1, **options)
        return jnp.sum(jnp.where(ids[..., None, None] > 0, o, 0) ** 2) + jnp.sum(s**3)

    both = [jax.value_and_grad(total, (1, 2, 3))(inside, q, k, v) for inside in (True, False)]
    for found, expected in zip(*map(jax.tree.leaves, both), strict=True):
        assert_close(found, expected, ratio=1e-5)


def test_a_feature_map_and_a_bonus_exclude_each_other():
    q = jnp.zeros((1, 2, 1, 2))
    with pytest.raises(ValueError, match="feature map leaves none"):
        gated_linear_attention(
            q, q, q, read_before=True, bonus=jnp.ones((1, 2)), feature_map=lambda q, k: (q, k)
        )
    with pytest.raises(ValueError, match="one width"):
        gated_linear_attention(q, q, q, feature_map=lambda q, k: (q, k[..., :1]))
