"""Norms, gains and initialisations of blocks, against the papers' equations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import MIXERS, Backbone, BackboneConfig, Block, ModelSpec, build_model, names
from seqzoo.models.blocks.layers import ConvPositions
from seqzoo.models.blocks.normformer import HeadScaledLinear
from tests import laws
from tests.helpers import assert_close

D = laws.D
SMALL = BackboneConfig(d_model=D, depth=3, expansion=1.0, norm="layer")


def block(name="linear_attention", options=None, **changes):
    config = dataclasses.replace(SMALL, **changes)
    made = Block(name, options or {"num_heads": 2}, config, rngs=nnx.Rngs(0))
    params = nnx.state(made, nnx.Param)
    nnx.update(made, laws.perturbed(params))
    return made


def normed(x, norm):
    x = np.asarray(x)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(norm.norm.scale[...]) + np.asarray(norm.norm.bias[...])


X = laws.normal(0, 2, 5, D)


@pytest.mark.of_the_day("normformer", 3)
def test_normformer_is_its_equations():
    b = block("attention", extra_norms="normformer")
    mixer, ff = b.mixer, b.feedforward
    out = mixer.out_proj
    assert isinstance(out, HeadScaledLinear)
    assert out.scale.shape == (2,)
    x = jnp.asarray(normed(X, b.norm))
    y = mixer(x)
    rows = np.repeat(np.asarray(out.scale[...]), D // 2)[:, None]  # gains as rows of the projection
    plain = jnp.asarray(rows) * out.kernel[...], jnp.ones(2)
    kept = out.kernel[...], out.scale[...]
    out.kernel[...], out.scale[...] = plain
    assert_close(mixer(x), y, ratio=1e-5)
    out.kernel[...], out.scale[...] = kept
    x = X + normed(y, b.after_norm)
    hidden = jax.nn.gelu(ff.up_proj(jnp.asarray(normed(x, b.ff_norm))))
    x = x + np.asarray(ff.down_proj(jnp.asarray(normed(hidden, ff.norm))))
    assert_close(b(X), x, ratio=1e-5)


def test_sandwich_normalises_both_ends_of_a_branch():
    b = block(extra_norms="sandwich")
    x = X + normed(b.mixer(jnp.asarray(normed(X, b.norm))), b.after_norm)
    x = x + normed(b.feedforward(jnp.asarray(normed(x, b.ff_norm))), b.ff_after_norm)
    assert_close(b(X), x, ratio=1e-5)


def test_deepnorm_skips_more_and_starts_smaller():
    b = block(norm_position="deep")
    alpha = 6**0.25  # three layers
    x = normed(alpha * X + np.asarray(b.mixer(X)), b.norm)
    x = normed(alpha * x + np.asarray(b.feedforward(jnp.asarray(x))), b.ff_norm)
    assert_close(b(X), x, ratio=1e-5)
    plain, deep = (
        Backbone(("attention",), dataclasses.replace(SMALL, init=init), rngs=nnx.Rngs(0))
        for init in ("default", "deepnorm")
    )
    plain, deep = plain.stack.units, deep.stack.units
    for name in ("v_proj", "out_proj"):
        got, want = (getattr(u.mixer, name).kernel[...] for u in (deep, plain))
        assert_close(got, 24**-0.25 * want, ratio=1e-6)
    assert_close(deep.mixer.q_proj.kernel[...], plain.mixer.q_proj.kernel[...], ratio=0)
    got, want = (u.feedforward.down_proj.kernel[...] for u in (deep, plain))
    assert_close(got, 24**-0.25 * want, ratio=1e-6)


def test_t5_initialisation_makes_up_for_scores_without_a_scale():
    """The same attention at birth as with 1/sqrt(K), whatever the scale."""
    config = dataclasses.replace(SMALL, init="t5")
    outs = [
        Block("attention", {"num_heads": 2, "scale": scale}, config, rngs=nnx.Rngs(0))(X)
        for scale in (None, 1.0)
    ]
    assert_close(outs[1], outs[0], ratio=1e-5)
    plain = Block("attention", {"num_heads": 2}, SMALL, rngs=nnx.Rngs(0))(X)
    assert_close(outs[0], plain, ratio=0)


def conv(x, taps):
    """Each channel with its last taps."""
    x, taps = np.asarray(x), np.asarray(taps)
    past = np.concatenate([np.zeros((len(x), len(taps) - 1, x.shape[2])), x], axis=1)
    return sum(taps[i] * past[:, i : i + x.shape[1]] for i in range(len(taps)))


@pytest.mark.of_the_day("four places", 3)
def test_short_convolutions_stand_at_the_four_places():
    """Canon layers: before the mixer, in it, before the feed-forward, in it."""
    b = block("attention", short_conv=3, short_conv_at="abcd", feedforward="swiglu")
    mixer, ff = b.mixer, b.feedforward
    h = conv(normed(X, b.norm), b.conv.conv[...])
    parts = np.concatenate(
        [p(jnp.asarray(h)) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj)], -1
    )
    parts = parts + conv(parts, mixer.conv.kernel[...])
    q, k, v = (part.reshape(2, 5, 2, -1) for part in np.split(parts, 3, axis=-1))
    q, k, v = mixer.positions.turn(*map(jnp.asarray, (q, k, v)), jnp.arange(5))
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / q.shape[-1] ** 0.5
    p = jax.nn.softmax(jnp.where(jnp.tri(5, dtype=bool), scores, -jnp.inf))
    o = jnp.einsum("bhts,bshk->bthk", p, v).reshape(2, 5, -1)
    x = X + np.asarray(mixer.out_proj(o))
    h = jnp.asarray(conv(normed(x, b.ff_norm), b.ff_conv.conv[...]))
    hidden = conv(np.concatenate([ff.up_proj(h), ff.gate_proj(h)], -1), ff.conv.conv[...])
    up, gate = jnp.split(jnp.asarray(hidden), 2, axis=-1)
    assert_close(b(X), x + np.asarray(ff.down_proj(up * jax.nn.silu(gate))), ratio=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"short_conv_at": "ae"}, "some of the letters"),
        ({"short_conv_at": "b", "short_conv": 4}, "linear_attention has no option d_conv"),
        ({"short_conv_at": "d", "short_conv": 4, "feedforward": "moe"}, "no place d"),
    ],
)
def test_places_that_cannot_be_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        block(**changes)


def test_a_mixers_own_width_goes_before_that_of_the_block():
    made = block("deltanet", {"num_heads": 2, "d_conv": 2}, short_conv=4, short_conv_at="b")
    assert made.mixer.qkv.conv.width == 2
    assert block("deltanet", short_conv=4, short_conv_at="b").mixer.qkv.conv.width == 4


@pytest.mark.parametrize("name", names())
def test_normformer_takes_every_mixer(name):
    """Built only: a gain for each head where there are heads, else for the whole."""
    causal = MIXERS[name].causal_form
    config = dataclasses.replace(SMALL, extra_norms="normformer", d_model=64, causal=causal)
    made = nnx.eval_shape(lambda: Block(name, {}, config, layer=(0, 3), rngs=nnx.Rngs(0)))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(made.mixer, nnx.Param))]
    assert ("out_proj", "scale") in paths or ("scale",) in paths


def test_convolutional_positions_see_their_neighbours_in_the_segment():
    for causal in (True, False):
        conv = ConvPositions(D, width=3, causal=causal, rngs=nnx.Rngs(0))
        x = laws.normal(1, laws.B, laws.L, D)
        y = np.asarray(jax.jit(conv)(x, laws.PACKED))
        for b, run in ((b, r) for b, row in enumerate(laws.PACKED) for r in laws.runs(row)):
            for i, t in enumerate(run):
                h = np.asarray(conv.conv.bias[...]).copy()
                for j in range(min(3, i + 1)):
                    h += np.asarray(conv.conv.kernel[...])[2 - j] * x[b, run[i - j]]
                if not causal:
                    h += np.asarray(conv.behind.bias[...])
                    for j in range(min(3, len(run) - i)):
                        h += np.asarray(conv.behind.kernel[...])[2 - j] * x[b, run[i + j]]
                assert_close(y[b, t], x[b, t] + np.asarray(jax.nn.gelu(h)), ratio=1e-5)


@pytest.mark.of_the_day("convolutional positions", 3)
def test_a_model_with_convolutional_positions_streams():
    spec = ModelSpec(head="lm", vocab_size=7, outputs=7, length=laws.L)
    config = dataclasses.replace(
        SMALL, positions="conv", position_width=3, embed_norm=True, init="t5", tie_embeddings=True
    )
    model = build_model(spec, "linear_attention", config, {"num_heads": 2}, rngs=nnx.Rngs(0))
    tokens = np.random.default_rng(0).integers(0, 7, (2, laws.L))
    state = model.init_state(2)
    assert sum(a.size for a in jax.tree.leaves(state.inner)) == 2 * model.state_size()
    assert model.state_growth == "window"
    one, state = model.extend(tokens[:, :5], state)
    two, state = model.extend(tokens[:, 5:], state)
    assert_close(jnp.concatenate([one, two], 1), model(tokens), ratio=1e-5)
