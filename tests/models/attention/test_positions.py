"""Plug-in positions against published attention layers and loops over pairs of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Attention, build
from seqzoo.models.attention.positions.encodings import Encoding, PlugIn, Sizes
from seqzoo.models.attention.positions.kinds import FORMER, KINDS, Deberta, Rope, Shaw, encoding
from seqzoo.models.linear import Linear
from seqzoo.models.ops import linear_scan
from seqzoo.models.ops.softmax.relative import Relative, Terms
from tests.golden import golden
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs

F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def published(case, positions="none", names=("linear_q", "linear_k", "linear_v", "linear_out")):
    """Attention both ways with the projections of a published layer, in float64."""
    mixer = Attention(
        12, num_heads=2, positions=positions, use_bias=True, causal=False, **F64, rngs=nnx.Rngs(0)
    )
    for ours, theirs in zip(("q_proj", "k_proj", "v_proj", "out_proj"), names, strict=True):
        if theirs is None:
            fill(getattr(mixer, ours), np.eye(12), np.zeros(12))
        else:
            fill(getattr(mixer, ours), case[f"param_{theirs}.weight"], case[f"param_{theirs}.bias"])
    return mixer


def fill(linear, weight, bias):
    linear.kernel[...], linear.bias[...] = jnp.asarray(weight.T), jnp.asarray(bias)


def sizes(**changes):
    made = Sizes(d_model=12, num_heads=2, num_kv_heads=2, d_head=6, causal=False, **F64)
    return dataclasses.replace(made, **changes)


def test_shaw_equals_published():
    case = golden("positions/shaw_relative_key")
    with x64():
        mixer = published(case)
        left, right = int(case["left_max"]), int(case["right_max"])
        mixer.positions = Shaw(max_distance=left, ahead=right).plug_in(sizes(), nnx.Rngs(0))
        mixer.positions.embed[...] = jnp.asarray(case["param_distance_embedding.weight"])
        assert_close(mixer(jnp.asarray(case["x"])), case["y"], ratio=1e-12)


def test_transformer_xl_equals_published():
    """Their sines are rounded to float32, ours are not."""
    case = golden("positions/transformer_xl_relative")
    with x64():
        mixer = published(case, "transformer_xl")
        plug = mixer.positions
        plug.pos_proj.kernel[...] = jnp.asarray(case["param_linear_pos.weight"].T)
        u_v = np.stack([case["param_pos_bias_u"], case["param_pos_bias_v"]])
        plug.bias[...] = jnp.asarray(u_v)
        assert_close(mixer(jnp.asarray(case["x"])), case["y"], ratio=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_deberta_equals_published(number):
    """Their divisor sqrt(3K) is rounded to float32."""
    case = golden(f"positions/deberta_v2_attention_{number}")
    shared = bool(case["share_att_key"])
    with x64():
        mixer = published(case, names=("query_proj", "key_proj", "value_proj", None))
        table = case["rel_embeddings"]
        most = int(case["max_relative_positions"])
        options = Deberta(num_buckets=len(table), max_distance=most)
        plug = options.plug_in(sizes(use_bias=True), nnx.Rngs(0))
        plug.embed[...] = jnp.asarray(table)
        for ours, theirs in ((plug.pos_k_proj, "key_proj"), (plug.pos_q_proj, "query_proj")):
            name = f"param_{'' if shared else 'pos_'}{theirs}"
            fill(ours, case[f"{name}.weight"], case[f"{name}.bias"])
        mixer.positions = plug
        ids = jnp.asarray(case["attention_mask"][:, 0, 0])
        y = mixer(jnp.asarray(case["x"]), ids)
        real = np.asarray(ids) > 0
        assert_close(np.asarray(y)[real], case["y"][real], ratio=2e-7)


def pair(plug, name, x, q, k, head, t, s):
    """The score of one pair of tokens at positions t and s of rows x, before the scale."""
    if name == "forgetting":
        first, last = sorted((t, s))
        w, b = (np.asarray(p[...]) for p in (plug.gate_proj.kernel, plug.gate_proj.bias))
        gates = 1 / (1 + np.exp(-(x[first + 1 : last + 1] @ w + b)))
        return q @ k + 2 * np.log(np.prod(gates[:, head]))
    if name == "alibi":
        return q @ k - 2.0 ** (-4 * (head + 1)) * abs(t - s) * 2  # sqrt(K) = 2
    if name == "t5":
        row = (0, 1, 2, 2, 3, 3)[min(abs(t - s), 5)] + 4 * (s > t)  # 2 exact, 2 up to distance 5
        return q @ k + 2 * np.asarray(plug.embed[...])[row, head]
    zeta = np.tile((np.array([0, 0.5]) + 0.4) / 1.4, 2)
    angle = (t - s) * np.array([1, 1e-2])
    turned = [
        q[:2] * np.cos(angle) - q[2:] * np.sin(angle),
        q[:2] * np.sin(angle) + q[2:] * np.cos(angle),
    ]
    return (np.concatenate(turned) * zeta ** ((t - s) / 512)) @ k


@pytest.mark.parametrize(
    ("name", "causal"),
    [
        *(("alibi", True), ("alibi", False), ("t5", False), ("xpos", True)),
        *(("forgetting", True), ("forgetting", False)),
    ],
)
def test_packed_rows_equal_loops_over_pairs(name, causal):
    positions = "t5:num_buckets=8,max_distance=5" if name == "t5" else name
    with x64():
        mixer = Attention(
            8, num_heads=2, positions=positions, causal=causal, **F64, rngs=nnx.Rngs(0)
        )
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        x = normal(0, *PACKED.shape, 8).astype(np.float64)
        y = np.asarray(mixer(jnp.asarray(x), PACKED))
        w = {n: np.asarray(getattr(mixer, f"{n}_proj").kernel[...]) for n in ("q", "k", "v", "out")}
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        q, k, v = ((x[b, run] @ w[n]).reshape(len(run), 2, 4) for n in ("q", "k", "v"))
        for t in range(len(run)):
            out = []
            for h in range(2):
                seen = range(t + 1 if causal else len(run))
                scores = [
                    pair(mixer.positions, name, x[b, run], q[t, h], k[s, h], h, t, s) / 2
                    for s in seen
                ]
                p = np.exp(scores - np.max(scores))
                out.append(p / p.sum() @ v[: len(p), h])
            assert_close(y[b, run[t]], np.concatenate(out) @ w["out"], ratio=1e-12)


def test_scores_far_into_a_stream_are_finite_and_equal():
    """xPos factors would overflow at these positions if they were absolute."""
    mixer = Attention(8, num_heads=2, positions="xpos", window=4, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal(1, 1, 9, 8))
    state = mixer.init_state(1)
    _, state = mixer.extend(x[:, :4], state)
    inner = state.inner._replace(length=state.inner.length + 10**6)
    late = state._replace(inner=inner, position=state.position + 10**6)
    near, _ = mixer.extend(x[:, 4:], state)
    far, _ = mixer.extend(x[:, 4:], late)
    assert np.isfinite(far).all()
    assert_close(far, near, ratio=1e-5)


def test_scaled_rotary_positions_are_those_of_the_ops():
    positions = Rope(scaling="yarn", factor=4.0, trained_length=32)
    mixer = Attention(8, num_heads=2, positions=positions, rngs=nnx.Rngs(0))
    assert mixer.positions.magnitude == pytest.approx(1.1386, abs=1e-4)
    assert np.isfinite(mixer(jnp.ones((1, 3, 8)))).all()


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("mixer", "options", "words"),
    [
        ("attention", {"positions": "rotary"}, "knows: none, rope, xpos"),
        ("attention", {"positions": "learned"}, "backbone's positions='learned'"),
        ("attention", {"positions": "t5:max_distance=3"}, "above half of it"),
        ("attention", {"positions": "deberta:num_buckets=3"}, "at least 4"),
        ("attention", {"positions": "shaw:max_distance=0"}, "at least 1"),
        ("attention", {"positions": "rope:scaling=more"}, "valid: none, linear, ntk, yarn, llama3"),
        ("attention", {"positions": "rope:scale=2"}, "did you mean scaling"),
        ("attention", {"positions": "rope:base=ten"}, "base is a number; got 'ten'"),
        ("attention", {"positions": "rope:base=nan"}, "base is a positive number"),
        ("attention", {"positions": "rope:values"}, "form KIND:name=value"),
        ("attention", {"rope_scaling": "more"}, "valid: none, linear, ntk, yarn, llama3"),
        ("linear_attention", {"positions": "alibi"}, "never makes those scores"),
    ],
)
def test_impossible_positions_are_refused(mixer, options, words):
    with pytest.raises(ValueError, match=words):
        build(mixer, 8, **options, rngs=nnx.Rngs(0))


def test_xpos_is_refused_where_queries_see_later_keys():
    with pytest.raises(ValueError, match="grows without bound"):
        build("attention", 8, positions="xpos", causal=False, rngs=nnx.Rngs(0))


@dataclasses.dataclass(frozen=True)
class Sum:
    """by_query - by_key of tokens, at any distance."""

    def __call__(self, shared, by_query, by_key, ahead):
        return by_query - jnp.swapaxes(by_key, -1, -2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates(Encoding):
    """A kind of one's own: scores fall by the logarithms of gates between query and key."""

    kind = "gates"

    def plug_in(self, sizes, rngs):
        return Gated(sizes, rngs)


class Gated(PlugIn):
    def __init__(self, sizes, rngs):
        super().__init__(sizes)
        self.num_marks = sizes.num_heads
        self.gate = Linear(sizes.d_model, sizes.num_heads, rngs=rngs)

    def mark(self, x, layout, before):
        gates = jax.nn.log_sigmoid(self.gate(x))
        return linear_scan(jnp.ones(1), gates, before, segment_ids=layout)

    def score(self, q, k, q_at, k_at):
        return q, k, Relative(Sum(), Terms(None, q_at.marks[..., None], k_at.marks[..., None]))


def test_a_kind_of_ones_own_marks_tokens_and_streams():
    window = 4
    mixer = build("attention", 8, num_heads=2, positions=Gates(), window=window, rngs=nnx.Rngs(0))
    x = jnp.asarray(normal(2, *PACKED.shape, 8))
    y, state, parts, start = mixer(x, PACKED), mixer.init_state(len(x)), [], 0
    for size in (5, 1, PACKED.shape[1] - 6):
        part = slice(start, start + size)
        out, state = mixer.extend(x[:, part], state, PACKED[:, part])
        parts.append(out)
        start += size
    assert_close(jnp.concatenate(parts, 1), y, ratio=1e-6)
    assert mixer.state_size() == sum(a[0].size for a in jax.tree.leaves(state.inner))
    run = runs(PACKED[0])[-1]
    w = {n: np.asarray(getattr(mixer, f"{n}_proj").kernel[...]) for n in ("q", "k", "v", "out")}
    rows = np.asarray(x[0])[run]
    sums = np.cumsum(np.asarray(jax.nn.log_sigmoid(mixer.positions.gate(rows))), 0)
    q, k, v = ((rows @ w[n]).reshape(len(run), 2, 4) for n in ("q", "k", "v"))
    first = max(0, len(run) - window)
    scores = np.einsum("hk,shk->sh", q[-1], k[first:]) / 2 + sums[-1] - sums[first:]
    p = np.exp(scores) / np.exp(scores).sum(0)
    expected = np.einsum("sh,shk->hk", p, v[first:]).ravel() @ w["out"]
    assert_close(y[0, run[-1]], expected, ratio=1e-5)


VALUES = [Rope(base=3.5e5, interleaved=True, scaling="yarn", factor=1 / 3), Shaw(max_distance=7)]


@pytest.mark.parametrize("value", [*(kind() for kind in KINDS.values()), *VALUES], ids=str)
def test_a_value_is_its_text(value):
    assert encoding(str(value)) == encoding(value) == value
    assert type(encoding(value.kind)) is type(value)


# What stood beside `positions` when there were eight options for it, with values of their own.
BEFORE = {
    "rope_base": 500.0,
    "rope_interleaved": True,
    "rope_fraction": 0.5,
    "rope_values": True,
    "rope_scaling": "llama3",
    "rope_factor": 2.0,
    "rope_trained_length": 64,
    "num_buckets": 8,
    "max_distance": 9,
}


@pytest.mark.parametrize("kind", KINDS)
def test_former_options_are_read(kind):
    """By the constructor, by name, and as text, which flags have; those of other kinds go."""
    assert set(BEFORE) == set(FORMER)
    own = {f.name for f in dataclasses.fields(KINDS[kind])}
    expected = KINDS[kind](**{FORMER[old]: v for old, v in BEFORE.items() if FORMER[old] in own})
    for values in (BEFORE, {name: str(value) for name, value in BEFORE.items()}):
        now = Attention.current_options({"num_heads": 2, "positions": kind, **values})
        assert now == {"num_heads": 2, "positions": str(expected)}
    new, old = (
        build("attention", 8, num_heads=2, **options, rngs=nnx.Rngs(0))
        for options in ({"positions": expected}, {"positions": kind, **BEFORE})
    )
    assert nnx.graphdef(new) == nnx.graphdef(old)
