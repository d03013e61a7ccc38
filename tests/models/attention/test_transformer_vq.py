"""Transformer-VQ against the published numbers and the quadratic form with quantised keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.attention.transformer_vq.codebook import code_sums, quantize
from seqzoo.models.attention.transformer_vq.mixer import TransformerVQ
from seqzoo.models.backbone import aux_losses
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64

DTYPES = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def built(g):
    mixer = TransformerVQ(
        int(g["d_model"]),
        num_heads=int(g["n_head"]),
        d_key=int(g["d_k"]),
        d_value=int(g["d_v"]),
        num_codes=int(g["n_code"]),
        block_size=int(g["block_len"]),
        memory=int(g["mem_len"]),
        compressive=bool(g["agg_cache"]),
        commit_weight=1.0,
        ema=float(g["c_gamma"]),
        position_base=float(g["pe_lam"]),
        **DTYPES,
        rngs=nnx.Rngs(0),
    )
    mixer.code_sum[...] = jnp.asarray(g["param_quantizer/c_sum"])
    mixer.code_count[...] = jnp.asarray(g["param_quantizer/c_count"])
    return mixer


def leaves(prefix, g):
    keys = int(g["n_head"] * g["d_k"])
    values = int(g["n_head"] * g["d_v"])
    k, v, gate = np.split(g[f"{prefix}_kvg_proj/kernel"], [keys, keys + values], axis=1)
    bias = np.stack([g[f"{prefix}_u"], g[f"{prefix}_v"]]).reshape(2, int(g["n_head"]), -1)
    return {
        ("q_proj", "kernel"): g[f"{prefix}_q_proj/kernel"],
        ("k_proj", "kernel"): k,
        ("v_proj", "kernel"): v,
        ("gate_proj", "kernel"): gate,
        ("r_proj", "kernel"): g[f"{prefix}_r_proj/kernel"],
        ("out_proj", "kernel"): g[f"{prefix}_res_proj/kernel"],
        ("bias",): bias,
    }


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


def normed(g, x):
    scale = jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)
    return x * scale * g["param_input_ln/g"] + g["param_input_ln/b"]


@pytest.mark.parametrize("case", ["vqattn_0", "vqattn_1", "vqattn_2"])
def test_equals_the_published_layer(case):
    with x64():
        g = golden(f"transformer_vq/{case}")
        graphdef, params, rest = nnx.split(built(g), nnx.Param, ...)
        for path, value in leaves("param", g).items():
            at(params, path)[...] = jnp.asarray(value)

        def run(params, x):
            return nnx.merge(graphdef, params, rest, copy=True)(normed(g, x))

        y, (dparams, dx) = value_and_pullback(run, g["cotangent"], params, g["x"])
        assert_close(y, g["y"], ratio=1e-10)
        assert_close(dx, g["grad_x"], ratio=1e-9)
        for path, value in leaves("grad", g).items():
            assert_close(at(dparams, path)[...], value, ratio=1e-9, what="/".join(path))


@pytest.mark.of_the_day
@pytest.mark.parametrize("case", ["vqattn_0", "vqattn_1"])
def test_states_equal_the_published_ones(case):
    with x64():
        g = golden(f"transformer_vq/{case}")
        mixer = built(g)
        for path, value in leaves("param", g).items():
            at(mixer_tree(mixer), path)[...] = jnp.asarray(value)
        state = mixer.init_state(2)
        extend = nnx.jit(lambda m, x, state: m.extend(x, state))
        for end, name in ((2 * mixer.block_size, "state_after_block2"), (None, "final_state")):
            start = 0 if end else 2 * mixer.block_size
            _, state = extend(mixer, normed(g, g["x"][:, start:end]), state)
            k, v, codes = (a[:, -mixer.memory :] for a in state.inner.recent.items)
            cache = f"{name}_xlcache/"
            held = (g[cache + "z"] < mixer.num_codes).all()
            if held:
                np.testing.assert_array_equal(np.moveaxis(codes, 1, 2), g[cache + "z"])
            assert_close(np.moveaxis(k, 1, 2), g[cache + "k_hat"], ratio=1e-10)
            assert_close(np.moveaxis(v, 1, 2), g[cache + "v"], ratio=1e-10)
            if mixer.compressive:
                compare_groups(mixer, state.inner, g, f"{name}_aggcache/")


def compare_groups(mixer, state, g, name):
    """Theirs were updated at the end of the block: the tokens before `memory` are in groups."""
    _, v, codes = (a[:, : mixer.block_size] for a in state.recent.items)
    held = np.asarray(state.recent.valid)[:, : mixer.block_size]
    hot = np.eye(mixer.num_codes)[np.asarray(codes)] * held[..., None, None]
    count = np.asarray(state.groups.count) + hot.sum(1)
    total = np.asarray(state.groups.total) + np.einsum("bshn,bshv->bhnv", hot, v)
    assert_close(count, g[name + "lower"], ratio=1e-12)
    mean = total / np.maximum(count, 1)[..., None]
    assert_close(mean, g[name + "upper_div_lower"], ratio=1e-10)


def mixer_tree(mixer):
    return nnx.state(mixer, nnx.Param)


def test_codes_errors_and_averages_equal_the_published_ones():
    with x64():
        g = golden("transformer_vq/vq")
        k = jnp.moveaxis(jnp.asarray(g["vecs"]), 1, 2)
        codes, words = quantize(k, g["codebook"])
        np.testing.assert_array_equal(np.moveaxis(codes, 2, 1), g["shortcodes"])
        assert_close(np.moveaxis(words, 2, 1), g["codewords"], ratio=1e-12)
        error = np.square(k - words).sum(-1)
        assert_close(np.moveaxis(error, 2, 1), g["errs2"], ratio=1e-10)
        codes = jnp.moveaxis(jnp.asarray(g["shortcodes2"]), 1, 2)
        sums = code_sums(k, codes, jnp.asarray(g["loss_mask"], k.dtype), 6)
        scale, keep = float(g["n_block_per_update"]), float(g["c_gamma"])
        for new, name in zip(sums, ("c_count", "c_sum"), strict=True):
            target = keep * g[name] + (1 - keep) * scale * np.asarray(new)
            assert_close(target, g[f"{name}_target"], ratio=1e-12)


DIVISORS = (1, 2, 3, 4, 6, 12)
FAST = ((3, 4), (4, 2), (12, 1))
PAIRS = [
    pytest.param(b, m, marks=() if (b, m) in FAST else pytest.mark.slow)
    for b in DIVISORS
    for m in DIVISORS
]


@pytest.mark.parametrize(("block", "memory"), PAIRS)
def test_equals_the_quadratic_form_for_all_pairs_of_sizes(block, memory):
    with x64():
        mixer = TransformerVQ(
            4,
            num_heads=1,
            num_codes=3,
            block_size=block,
            memory=memory,
            **DTYPES,
            rngs=nnx.Rngs(0),
        )
        mixer.bias[...] = jax.random.normal(jax.random.key(1), mixer.bias.shape)
        x = jax.random.normal(jax.random.key(0), (1, 12, 4))
        expected = quadratic(mixer, np.asarray(x[0]))
        assert_close(mixer(x)[0], expected, ratio=1e-12)


def quadratic(mixer, x):
    """Softmax over all past keys, quantised, for one head of width 4."""
    w = {n: np.asarray(getattr(mixer, n).kernel[...]) for n in ("q_proj", "k_proj", "v_proj")}

    def unit(a):
        return a / np.sqrt(np.mean(a**2, -1, keepdims=True) + 1e-6) / 4**0.25

    def silu(a):
        return a / (1 + np.exp(-a))

    q, k, v = unit(x @ w["q_proj"]), unit(x @ w["k_proj"]), silu(x @ w["v_proj"])
    book = np.asarray(mixer.codebook())[0]
    k = book[((k[:, None] - book) ** 2).sum(-1).argmin(-1)]
    u, b = np.asarray(mixer.bias[...])[:, 0] / 4**0.25
    y = []
    for t in range(len(x)):
        s = np.array([(q[t] + u) @ k[i] for i in range(t + 1)])
        for i in range(max(0, t - mixer.memory), t + 1):
            angle = (t - i) * mixer.position_base ** (-np.arange(0, 4, 2) / 4)
            wave = np.concatenate([np.sin(angle), np.cos(angle)])
            s[i] += (q[t] + b) @ (wave @ np.asarray(mixer.r_proj.kernel[...])) / 4**0.25
        p = np.exp(s - s.max())
        gate = silu(x[t] @ np.asarray(mixer.gate_proj.kernel[...]))
        o = (p @ v[: t + 1]) / p.sum() * gate
        y.append(o @ np.asarray(mixer.out_proj.kernel[...]))
    return np.stack(y)


def test_training_moves_the_codebook_and_writes_the_commitment_over_real_tokens():
    with x64():
        g = golden("transformer_vq/vqattn_0")
        mixer = built(g)
        for path, value in leaves("param", g).items():
            at(mixer_tree(mixer), path)[...] = jnp.asarray(value)
        x = normed(g, g["x"])
        before = mixer.code_sum[...]
        mixer(x)
        assert float(aux_losses(mixer)) == 0
        mixer(x, rngs=nnx.Rngs(0))
        assert_close(mixer.commitment[...], g["l_commit_per_block"].mean(), ratio=1e-6)
        moved = np.asarray(mixer.code_sum[...])
        assert not np.array_equal(moved, before)
        mixer.code_sum[...] = before
        mixer.code_count[...] = jnp.asarray(g["param_quantizer/c_count"])
        ids = jnp.ones((4, 20), jnp.int32).at[2:].set(0)  # padding moves nothing
        mixer(jnp.concatenate([x, 9 * x]), ids, rngs=nnx.Rngs(0))
        assert_close(mixer.code_sum[...], moved, ratio=1e-12)
        assert_close(mixer.commitment[...], g["l_commit_per_block"].mean(), ratio=1e-6)


@pytest.mark.of_the_day("long chunks of vq")
def test_long_chunks_continue_the_stream():
    mixer = TransformerVQ(4, num_heads=2, num_codes=3, block_size=2, memory=3, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 23, 4))
    extend = nnx.jit(lambda mixer, part, state: mixer.extend(part, state))
    state, parts = mixer.init_state(2), []
    for part in jnp.split(x, (3, 16), axis=1):
        y, state = extend(mixer, part, state)
        parts.append(y)
    assert_close(jnp.concatenate(parts, 1), nnx.jit(lambda m, x: m(x))(mixer, x), ratio=1e-5)
    assert int(state.inner.groups.count[0, 0].sum() + state.inner.recent.count[0]) == 23


def test_what_cannot_be_is_refused():
    for options, match in (
        ({"num_heads": 3}, "must divide"),
        ({"memory": 0}, "at least 1"),
        ({"ema": 1.0}, "in \\[0, 1\\)"),
    ):
        with pytest.raises(ValueError, match=match):
            TransformerVQ(8, **options, rngs=nnx.Rngs(0))
