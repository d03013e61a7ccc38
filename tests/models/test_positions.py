"""Encodings of position against published implementations."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.attention.positions.deberta import deberta_rows
from seqzoo.models.attention.positions.encodings import alibi_slopes
from seqzoo.models.attention.positions.relative import t5_buckets
from seqzoo.models.ops.layout.segments import as_segments
from seqzoo.models.ops.softmax import rope_scaling
from seqzoo.models.ops.softmax.relative import Slopes
from seqzoo.models.ops.softmax.rope import rope, sinusoidal, xpos
from tests.golden import golden
from tests.helpers import assert_close, x64


@pytest.mark.parametrize("style", ["half_split", "interleaved"])
def test_rope_equals_published(style):
    theirs = golden("positions/rope")
    with x64():
        for name in ("q", "k"):
            x = jnp.asarray(theirs[name].swapaxes(1, 2))
            base = float(theirs["theta"])
            y = rope(x, theirs["position_ids"], base=base, interleaved=style == "interleaved")
            assert_close(y.swapaxes(1, 2), theirs[f"{name}_{style}"], ratio=1e-13, what=name)


@pytest.mark.parametrize("scaled", [False, True])
def test_late_positions_turn_as_exactly_as_early_ones(scaled):
    """At ten million too, where a product in float32 is wrong by 0.5."""
    q = np.random.default_rng(0).normal(size=(1, 4, 1, 8)).astype(np.float32)
    positions = np.array([3, 70_001, 1_234_567, 10_000_001])
    frequencies = rope_scaling.linear_scaling(8, 1e4, factor=1.7).frequencies if scaled else None
    plain = 1e4 ** (-np.arange(4) / 4) / (1.7 if scaled else 1)
    turn = np.exp(1j * positions[:, None] * plain)[None, :, None]
    z = (q[..., :4] + 1j * q[..., 4:]) * turn
    found = rope(jnp.asarray(q), jnp.asarray(positions), frequencies=frequencies)
    assert_close(found, np.concatenate([z.real, z.imag], -1), ratio=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_the_difference_of_positions(interleaved):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 6, 2, 8))

    def scores(shift):
        turned = [rope(a, jnp.arange(6) + shift, interleaved=interleaved) for a in (q, k)]
        return jnp.einsum("blhk,bshk->bhls", *turned)

    with x64():
        assert_close(scores(1000), scores(0), ratio=1e-12)


def test_rope_positions_broadcast_and_bfloat16_angles_stay_exact():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 1, 4)), jnp.float32)
    positions = jnp.arange(5) + 1001  # odd numbers above 256 do not exist in bfloat16
    one, row, full = (rope(x, jnp.broadcast_to(positions, s)) for s in ((5,), (1, 5), (2, 5)))
    assert np.array_equal(one, row)
    assert np.array_equal(one, full)
    low = rope(jnp.asarray(x, jnp.bfloat16), positions)
    assert low.dtype == jnp.bfloat16
    assert_close(low.astype(jnp.float32), one, ratio=0.01)


@pytest.mark.parametrize("interleaved", [False, True])
def test_xpos_scores_are_those_of_rope_with_a_decay_by_distance(interleaved):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 6, 2, 8))
    zeta = (np.arange(4) / 4 + 0.4) / 1.4  # the paper's gamma is 0.4
    zeta = np.repeat(zeta, 2) if interleaved else np.tile(zeta, 2)
    distance = np.arange(6)[:, None] - np.arange(6)
    with x64():
        at = jnp.arange(6) + 7
        ours = [xpos(a, at, keys=i == 1, interleaved=interleaved) for i, a in enumerate((q, k))]
        turned = [np.asarray(rope(a, at, interleaved=interleaved)) for a in (q, k)]
        scores = jnp.einsum("blhk,bshk->bhls", *ours)
    decay = zeta ** (distance[..., None] / 512)
    assert_close(scores, np.einsum("blhk,bshk,lsk->bhls", *turned, decay), ratio=1e-12)


@pytest.mark.parametrize("length_width", [(12, 8), (20, 6)], ids=str)
def test_sinusoidal_equals_published(length_width):
    theirs = golden("positions/sinusoidal")
    length, width = length_width
    for layout, name in (("interleaved", "interleaved_lra"), ("halves", "concat_sin_cos")):
        got = sinusoidal(jnp.arange(length), width, layout=layout)
        assert_close(got, theirs[f"{name}_{length}x{width}"], ratio=1e-6, what=name)


@pytest.mark.every_case
@pytest.mark.parametrize("length", [None, 16, 100, 300])
@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn", "llama3", "longrope"])
def test_scaled_frequencies_equal_published(kind, length):
    theirs = golden("positions/rope_scaling")
    config = json.loads(str(theirs[f"{kind}_params"]))
    trained = config.get("original_max_position_embeddings", config["max_position_embeddings"])
    options = {"factor": config["factor"], "trained_length": trained}
    name = f"{kind}_scaling"
    if kind == "linear":
        del options["trained_length"]
    elif kind == "dynamic":
        name, options["length"] = "dynamic_ntk_scaling", length or trained
    elif kind == "longrope":
        long = length is not None and length > trained
        options["divisors"] = config["long_factor" if long else "short_factor"]
    made = getattr(rope_scaling, name)(config["head_dim"], config["rope_theta"], **options)
    want = f"{kind}_seq{length}"
    assert_close(made.frequencies, theirs[f"{want}_inv_freq"], ratio=2e-7)
    assert_close(made.magnitude, theirs[f"{want}_attention_factor"], ratio=1e-12)


def test_scaled_rope_turns_by_the_given_angles():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 1, 4)), jnp.float32)
    want = 1.5 * rope(x, jnp.arange(5), base=100.0)
    got = rope(x, jnp.arange(5), frequencies=(1.0, 0.1), magnitude=1.5)
    assert_close(got, want, ratio=1e-6)


def test_alibi_slopes_equal_published():
    theirs = golden("positions/alibi")
    for heads in (1, 2, 4, 8, 16, 3, 6, 12):
        assert_close(np.array(alibi_slopes(heads)), theirs[f"slopes_{heads}"], ratio=1e-6)


def test_alibi_among_real_tokens_equals_the_published_biases_of_keys():
    """Theirs count the real keys; what a softmax sees is their difference to the query's own."""
    theirs = golden("positions/alibi")
    real = theirs["attention_mask"] > 0
    position = np.asarray(as_segments(jnp.asarray(real, jnp.int32), real.shape[1]).position)
    ahead = jnp.asarray(position[:, :, None] - position[:, None])
    ours = np.asarray(Slopes(alibi_slopes(4))(None, None, None, ahead))
    keys = theirs["bloom_alibi_4heads"].reshape(2, 4, 1, -1)
    own = np.swapaxes(keys, 2, 3)
    earlier = np.tril(real[:, :, None] & real[:, None])
    for row in range(2):
        want = (keys - own)[row][:, earlier[row]]
        np.testing.assert_array_equal(ours[row][:, earlier[row]], want)  # powers of two: exact


@pytest.mark.parametrize(
    ("name", "positions", "base"),
    [
        ("sin_len7_w8_lam10000_flip0_start0", np.arange(7), 1e4),
        ("sin_len5_w6_lam100_flip1_start3", np.arange(7, 2, -1), 1e2),
    ],
)
def test_waves_of_transformer_vq_equal_published(name, positions, base):
    theirs = golden("transformer_vq/sinusoid")[name]
    with x64():
        options = {"base": base, "layout": "halves", "dtype": jnp.float64}
        got = sinusoidal(jnp.asarray(positions), theirs.shape[1], **options)
        assert_close(got, theirs, ratio=1e-12)


def test_t5_buckets_equal_published():
    theirs = golden("positions/t5_buckets")
    for name, causal, number, most in (
        ("bi_32_128", False, 32, 128),
        ("causal_32_128", True, 32, 128),
        ("bi_8_16", False, 8, 16),
    ):
        ahead = -theirs["relative_position"]
        got = t5_buckets(ahead, num_buckets=number, max_distance=most, causal=causal)
        np.testing.assert_array_equal(got, theirs[f"bucket_{name}"])


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_t5_biases_equal_published(side):
    theirs = golden(f"positions/t5_bias_{side}")
    options = {"num_buckets": 8, "max_distance": 20, "causal": side == "decoder"}
    ahead = np.arange(6)[:, None] - np.arange(9)
    bias = theirs["table"][t5_buckets(ahead, **options)]
    assert_close(np.moveaxis(bias, -1, 0)[None], theirs["bias"], ratio=1e-12)


@pytest.mark.parametrize("number", [0, 1])
def test_deberta_rows_equal_published(number):
    theirs = golden(f"positions/deberta_v2_attention_{number}")
    span = len(theirs["rel_embeddings"]) // 2
    ahead = np.arange(9)[:, None] - np.arange(9)
    got = deberta_rows(ahead, span=span, max_distance=int(theirs["max_relative_positions"]))
    want = np.clip(theirs["relative_pos"][0] + span, 0, 2 * span - 1)
    np.testing.assert_array_equal(got, want)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="K=3"):
        rope(jnp.zeros((1, 2, 1, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match=r"L=2.*\(3,\)"):
        rope(jnp.zeros((1, 2, 1, 4)), jnp.arange(3))
    with pytest.raises(ValueError, match="turn by 2 frequencies; got 3"):
        rope(jnp.zeros((1, 2, 1, 4)), jnp.arange(2), frequencies=(1.0, 0.5, 0.1))
    with pytest.raises(ValueError, match="must be even, got 5"):
        sinusoidal(jnp.arange(3), 5)
    with pytest.raises(ValueError, match="'sideways'"):
        sinusoidal(jnp.arange(3), 4, layout="sideways")
