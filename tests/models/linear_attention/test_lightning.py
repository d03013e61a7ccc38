"""Lightning attention against its equations, and the first block of a published MiniMax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import BackboneConfig, LightningAttention
from seqzoo.models.backbone import Backbone
from tests.golden import golden
from tests.helpers import assert_close
from tests.laws import normal
from tests.models.linear_attention import by_hand as hand


def equations(w, x):
    q, k, v = (hand.silu(hand.heads(x @ w[n])) for n in ("q_proj", "k_proj", "v_proj"))
    decay = -np.float64(np.float32(0.5 + 1e-5)) * np.array([2.0**-4, 2.0**-8])[:, None]
    o = hand.rms_norm(hand.recur(q, k, v, decay).reshape(*x.shape[:2], -1), w["norm"], 1e-5)
    return (hand.sigmoid(x @ w["gate_proj"]) * o) @ w["out_proj"]


def test_equals_the_equations():
    hand.check(LightningAttention, equations, layer=(1, 3), chunk_size=5)


@pytest.mark.parametrize("scan", [True, False])
def test_later_layers_of_a_stack_forget_less(scan):
    config = BackboneConfig(d_model=8, depth=3, scan=scan)
    stack = Backbone(("lightning_attention",), config, {"num_heads": 2}, rngs=nnx.Rngs(0)).stack
    if scan:
        factors = stack.units.mixer.decay[...]
    else:
        factors = [unit.mixer.decay[...] for unit in stack.units]
    np.testing.assert_allclose(factors, np.array([1.0, 0.5, 0.0]) + 1e-5, rtol=1e-2)
    assert np.isfinite(jax.jit(lambda x: stack(x))(normal(0, 1, 4, 8))).all()


def test_the_first_block_equals_the_published_model():
    weights, io = golden("hf/minimax/weights"), golden("hf/minimax/io")
    w = {k.removeprefix("model.layers.0."): v for k, v in weights.items() if "layers.0." in k}
    mixer = LightningAttention(16, num_heads=2, d_head=8, layer=(0, 2), rngs=nnx.Rngs(0))
    qkv = w["self_attn.qkv_proj.weight"].reshape(2, 3, 8, 16)
    for i, p in enumerate((mixer.q_proj, mixer.k_proj, mixer.v_proj)):
        p.kernel[...] = jnp.asarray(qkv[:, i].reshape(16, 16).T)
    mixer.gate_proj.kernel[...] = jnp.asarray(w["self_attn.output_gate.weight"].T)
    mixer.out_proj.kernel[...] = jnp.asarray(w["self_attn.out_proj.weight"].T)
    mixer.norm.scale[...] = jnp.asarray(w["self_attn.norm.weight"])

    x = hand.rms_norm(io["hidden_0"], w["input_layernorm.weight"], 1e-5)
    x = x + 0.9 * np.asarray(jax.jit(mixer)(jnp.asarray(x)))  # the published factors of the sums
    x = hand.rms_norm(x, w["post_attention_layernorm.weight"], 1e-5)
    assert_close(1.2 * x + _experts(w, x), io["hidden_1"], ratio=1e-5)


def _experts(w, x):
    """The better of two SwiGLU networks for every token."""
    outputs = []
    for gate_up, down in zip(
        w["mlp.experts.gate_up_proj"], w["mlp.experts.down_proj"], strict=True
    ):
        gate, up = np.split(x @ gate_up.T, 2, axis=-1)
        outputs.append((hand.silu(gate) * up) @ down.T)
    best = np.argmax(x @ w["mlp.gate.weight"].T, axis=-1)
    return np.where(best[..., None] == 0, *outputs)
