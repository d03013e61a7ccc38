"""GAU and FLASH against the published numbers and the quadratic form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.attention.gated.flash import Flash
from seqzoo.models.attention.gated.gau import GAU
from tests.golden import golden, golden_cases
from tests.helpers import assert_close, value_and_pullback, x64

DTYPES = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def built(case, g):
    width, d_qk = g["x"].shape[-1], g["param_to_qk.0.weight"].shape[0]
    kind = "laplace" if "laplace" in case or bool(g.get("laplace", False)) else "squared_relu"
    options = {"d_qk": d_qk, "kind": kind, "causal": "causal" in case, **DTYPES}
    options["length"] = g["x"].shape[1]
    if case.startswith("gau"):
        return GAU(width, **options, rngs=nnx.Rngs(0))
    options |= {"block_size": int(g["group_size"]), "shift": bool(g["shift_tokens"])}
    whole = bool(g["reduce_group_non_causal_attn"]) or options["causal"]
    options["far"] = "segment" if whole else "block"
    return Flash(width, rotary=bool(g["rotary"]), **options, rngs=nnx.Rngs(0))


def leaves(prefix, g):
    """The published arrays under our names, for parameters or for gradients."""
    out = "to_out.0" if f"{prefix}_to_out.0.weight" in g else "to_out"
    hidden, bias = g[f"{prefix}_to_hidden.0.weight"], g[f"{prefix}_to_hidden.0.bias"]
    half = len(bias) // 2
    offset = "offsetscale" if f"{prefix}_offsetscale.gamma" in g else "qk_offset_scale"
    order = [0, 1] if offset == "offsetscale" else [0, 1, 2, 3]
    return {
        ("v_proj", "kernel"): hidden[:half].T,
        ("v_proj", "bias"): bias[:half],
        ("gate_proj", "kernel"): hidden[half:].T,
        ("gate_proj", "bias"): bias[half:],
        ("qk_proj", "kernel"): g[f"{prefix}_to_qk.0.weight"].T,
        ("qk_proj", "bias"): g[f"{prefix}_to_qk.0.bias"],
        ("out_proj", "kernel"): g[f"{prefix}_{out}.weight"].T,
        ("out_proj", "bias"): g[f"{prefix}_{out}.bias"],
        ("scale",): g[f"{prefix}_{offset}.gamma"][order],
        ("bias",): g[f"{prefix}_{offset}.beta"][order],
        ("positions", "embed"): g[f"{prefix}_rel_pos_bias.relative_attention_bias.weight"],
    }


def at(tree, path):
    for name in path:
        tree = tree[name]
    return tree


@pytest.mark.parametrize("case", golden_cases("gau"))
def test_equals_the_published_layer(case):
    """The norm before the layer and the residual are the block's."""
    with x64():
        file = golden(f"gau/{case}")
        g = dict(file)
        graphdef, params, rest = nnx.split(built(case, g), nnx.Param, ...)
        for path, value in leaves("param", g).items():
            at(params, path)[...] = jnp.asarray(value)

        def run(params, x, ids=None):
            h = x - x.mean(-1, keepdims=True)
            h = h / jnp.sqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5)
            h = h * g["param_norm.weight"] + g["param_norm.bias"]
            return x + nnx.merge(graphdef, params, rest, copy=True)(h, ids)

        y, (dparams, dx) = value_and_pullback(run, g["cotangent"], params, g["x"])
        assert_close(y, g["y"], ratio=1e-10)
        assert_close(dx, g["grad_x"], ratio=1e-9)
        ratio = 1e-8 if "rotary" in g else 1e-9  # their frequencies are rounded to float32
        for path, value in leaves("grad", g).items():
            assert_close(at(dparams, path)[...], value, ratio=ratio, what="/".join(path))
        mask = g["mask"]
        masked = np.asarray(jax.jit(run)(params, g["x"], mask.astype(np.int32)))
        assert_close(masked[mask], g["y_masked"][mask], ratio=1e-10)


@pytest.mark.parametrize(
    ("causal", "far"), [(True, "segment"), (False, "segment"), (False, "block")]
)
def test_flash_equals_its_quadratic_form_in_packed_rows(causal, far):
    with x64():
        mixer = Flash(6, d_qk=4, block_size=3, causal=causal, far=far, **DTYPES, rngs=nnx.Rngs(0))
        x = jax.random.normal(jax.random.key(0), (1, 14, 6))
        ids = jnp.array([[1, 1, 0, 1, 1, 1, 0, 2, 2, 2, 2, 2, 2, 2]])
        y = mixer(x, ids)
        for run in (jnp.array([0, 1, 3, 4, 5]), jnp.arange(7, 14)):
            assert_close(y[:, run], quadratic(mixer, x[:, run]), ratio=1e-12)


def quadratic(mixer, x):
    """One segment with every score written out."""

    length, C = x.shape[1], mixer.block_size
    z, v, gate = mixer._project(x)
    q, q_far, k, k_far = mixer._scaled(z, jnp.arange(length)[None])
    place = np.arange(length)
    block = place // C
    near = np.asarray(q @ k.swapaxes(1, 2)) / C
    near = near + np.asarray(mixer._bias(place[None], place[None], mixer.d_qk))
    near = np.maximum(near, 0) ** 2 * (block[:, None] == block)
    far = np.asarray(q_far @ k_far.swapaxes(1, 2))
    if mixer.causal:
        near, far = np.tril(near), far / C * (block[:, None] > block)
    else:
        far = far / length * (mixer.far == "segment" or block[:, None] == block)
    return mixer._out((near + far) @ np.asarray(v), gate, x)


def test_flash_continues_by_chunks_shorter_and_longer_than_a_block():
    mixer = Flash(6, d_qk=4, block_size=4, shift=True, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 23, 6))

    @jax.jit
    def in_parts(x):
        state, parts = mixer.init_state(2), []
        for part in jnp.split(x, (9, 11), axis=1):
            y, state = mixer.extend(part, state)
            parts.append(y)
        return jnp.concatenate(parts, 1)

    assert_close(in_parts(x), jax.jit(mixer)(x), ratio=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_many_queries_are_worked_off_in_parts(causal, monkeypatch):
    mixer = GAU(4, d_qk=4, causal=causal, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, 37, 4))
    ids = jnp.ones((1, 37), jnp.int32).at[0, 30:].set(2)
    whole = jax.jit(lambda x: mixer(x, ids))(x)
    monkeypatch.setattr("seqzoo.models.attention.gated.gau.QUERIES", 4)
    assert_close(mixer(x, ids), whole, ratio=1e-6)


def test_what_cannot_be_is_refused():
    for module, options, match in (
        (GAU, {"kind": "tanh"}, "known: softmax"),
        (GAU, {"d_qk": 3, "rotary": True}, "even width"),
        (GAU, {"length": 0}, "at least 1"),
        (Flash, {"kind": "softmax"}, "known: squared_relu"),
        (Flash, {"block_size": 0}, "at least 1 token"),
        (Flash, {"far": "block"}, "causal=False also 'block'"),
    ):
        with pytest.raises(ValueError, match=match):
            module(8, **options, rngs=nnx.Rngs(0))
