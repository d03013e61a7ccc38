"""The delta mixers against the blocks of published models, and what their options promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.linear_attention.delta_parts import strength
from seqzoo.models.linear_attention.deltanet import DeltaNet, DeltaProduct
from seqzoo.models.linear_attention.gated_deltanet import GatedDeltaNet, KimiDeltaAttention
from seqzoo.models.ops.matrix.gated_delta import gated_delta_rule
from seqzoo.models.param_groups import param_groups
from tests.golden import golden
from tests.helpers import assert_close


def kimi(w):
    """Kimi Linear's weights by our paths."""
    conv = {"qkv/conv/kernel": w["conv1d.weight"][:, 0].T}
    qkv = {f"qkv/{x}_proj/kernel": w[f"{x}_proj.weight"].T for x in "qkv"}
    narrow = [w[f"{x}.weight"] for x in ("b_proj", "forget_gate.f_a_proj", "g_a_proj")]
    return (
        conv
        | qkv
        | {
            "in_proj/kernel": np.concatenate(narrow).T,
            "decay_proj/kernel": w["forget_gate.f_b_proj.weight"].T,
            "decay/A_log": w["forget_gate.A_log"].reshape(-1),
            "decay/dt_bias": w["forget_gate.dt_bias"],
            "gate_proj/kernel": w["g_b_proj.weight"].T,
            "norm/scale": w["o_norm.weight"],
            "out_proj/kernel": w["o_proj.weight"].T,
        }
    )


def qwen(w):
    """Qwen3-Next's weights by our paths: rows of one key head stand together there."""
    q, k, v, z = np.split(w["in_proj_qkvz.weight"].reshape(2, 32, 16), [4, 8, 20], axis=1)
    ba = np.split(w["in_proj_ba.weight"].reshape(2, 4, 16), 2, axis=1)
    names = ("qkv/q_proj", "qkv/k_proj", "qkv/v_proj", "gate_proj")
    projections = {
        f"{n}/kernel": x.reshape(-1, 16).T for n, x in zip(names, (q, k, v, z), strict=True)
    }
    return projections | {
        "qkv/conv/kernel": w["conv1d.weight"][:, 0].T,
        "in_proj/kernel": np.concatenate([x.reshape(4, 16) for x in ba]).T,
        "decay/A_log": w["A_log"],
        "decay/dt_bias": w["dt_bias"],
        "norm/scale": w["norm.weight"],
        "out_proj/kernel": w["out_proj.weight"].T,
    }


def loaded(mixer, arrays):
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
    flat = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(params)}
    assert set(flat) == set(arrays), set(flat) ^ set(arrays)
    for path, leaf in nnx.to_flat_state(params):
        value = jnp.asarray(arrays["/".join(map(str, path))])
        assert value.shape == leaf.shape
        leaf[...] = value
    return nnx.merge(graphdef, params, rest)


MODELS = {
    "kimi_linear": (
        lambda: KimiDeltaAttention(16, num_heads=2, d_key=4, d_value=4, rngs=nnx.Rngs(0)),
        kimi,
        ("self_attn.", 0.0, 1e-5),
    ),
    "qwen3_next": (
        lambda: GatedDeltaNet(
            16, num_heads=2, num_value_heads=4, d_key=4, d_value=6, norm_eps=1e-6, rngs=nnx.Rngs(0)
        ),
        qwen,
        ("linear_attn.", 1.0, 1e-6),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_first_block_equals_the_published_model(name):
    make, rename, (prefix, offset, eps) = MODELS[name]
    weights = golden(f"hf/{name}/weights")
    layer = {k[len("model.layers.0.") :]: v for k, v in weights.items() if "layers.0." in k}
    io = golden(f"hf/{name}/io")
    inner = {k[len(prefix) :]: v for k, v in layer.items() if k.startswith(prefix)}
    mixer = loaded(make(), rename(inner))

    def normed(x, which):
        scale = offset + layer[f"{which}_layernorm.weight"]
        return x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + eps) * scale

    x = jnp.asarray(io["hidden_0"])
    x = x + mixer(normed(x, "input"))
    h = normed(x, "post_attention")
    gate, up, down = (layer[f"mlp.{n}_proj.weight"].T for n in ("gate", "up", "down"))
    assert_close(x + (jax.nn.silu(h @ gate) * (h @ up)) @ down, io["hidden_1"], ratio=1e-5)


def test_delta_product_makes_its_steps_in_order():
    """Against a loop over householder steps, each with its own key, value and beta."""
    mixer = DeltaProduct(6, num_heads=1, num_householders=3, d_conv=0, gated=True, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)
    q, k, v, _ = mixer.qkv(x, None, None)
    logits = mixer.in_proj(x)
    beta = 2 * jax.nn.sigmoid(logits[..., :3])
    log_decay = mixer.decay(logits[..., 3:])
    S, outputs = np.zeros((2, 6, 6)), []
    for t in range(5):
        S = np.exp(log_decay[:, t, :, None]) * S
        for j in range(3):
            kj, vj = k[:, 3 * t + j, 0], v[:, 3 * t + j, 0]
            error = vj - np.einsum("bk,bkv->bv", kj, S)
            S = S + kj[:, :, None] * (beta[:, t, j, None] * error)[:, None]
        outputs.append(np.einsum("bk,bkv->bv", q[:, t, 0], S) * 6**-0.5)
    o = jnp.asarray(np.stack(outputs, 1))[:, :, None]
    assert_close(mixer(x), mixer.out_proj(mixer.norm(o).astype(x.dtype)), ratio=1e-5)


def test_one_householder_is_deltanet():
    options = {"num_heads": 2, "allow_negative_eigenvalues": True}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8)), jnp.float32)
    one = DeltaProduct(8, num_householders=1, **options, rngs=nnx.Rngs(0))
    assert_close(one(x), DeltaNet(8, **options, rngs=nnx.Rngs(0))(x), ratio=1e-6)


def test_negative_eigenvalues_reflect():
    """What is kept under a key changes its sign at each visit with beta near 2, never below 1."""
    k = jnp.tile(jnp.array([1.0, 0.0]), (1, 4, 1, 1))
    s0 = jnp.array([[[[1.0], [0.0]]]])
    for negative, signs in ((True, [-1, 1, -1, 1]), (False, [1, 1, 1, 1])):
        beta = strength(jnp.full((1, 4, 1), 3.0), negative)
        o, _ = gated_delta_rule(k, k, jnp.zeros((1, 4, 1, 1)), beta, None, s0)
        assert np.sign(np.asarray(o[0, :, 0, 0])).tolist() == signs


def test_decays_are_dynamics():
    groups = param_groups(KimiDeltaAttention(8, num_heads=2, rngs=nnx.Rngs(0)))
    assert set(jax.tree.leaves(groups["decay"])) == {"dynamics"}
    assert jax.tree.leaves(groups["norm"]) == ["no_decay"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "give d_key where 3 heads do not divide d_model=8"),
        ({"num_heads": 2, "num_value_heads": 3}, "divide num_value_heads"),
        ({"num_heads": 2, "d_key": 0}, "d_key must be at least 1"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GatedDeltaNet(8, **options, rngs=nnx.Rngs(0))
