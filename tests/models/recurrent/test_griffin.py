"""Griffin's blocks against a published RecurrentGemma."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models import RGLRU, Attention
from seqzoo.models.layers import FeedForward
from tests.golden import golden
from tests.helpers import assert_close

D, HEADS, WINDOW = 16, 2, 4


def layer(index):
    weights = golden("hf/recurrent_gemma/weights")
    prefix = f"model.layers.{index}."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}


def norm(x, weight):
    return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6) * (1 + weight)


def linear(module, w, name):
    module.kernel[...] = jnp.asarray(w[f"{name}.weight"].T)
    module.bias[...] = jnp.asarray(w[f"{name}.bias"])


def recurrent(w):
    """The temporal block with its weights."""
    mixer = RGLRU(D, num_blocks=2, rngs=nnx.Rngs(0))
    t = "temporal_block"
    for ours, theirs in (("in", "linear_x"), ("gate", "linear_y"), ("out", "linear_out")):
        linear(getattr(mixer, f"{ours}_proj"), w, f"{t}.{theirs}")
    mixer.conv.kernel[...] = jnp.asarray(w[f"{t}.conv_1d.weight"][:, 0].T)
    mixer.conv.bias[...] = jnp.asarray(w[f"{t}.conv_1d.bias"])
    for ours, theirs in (("input", "input"), ("decay", "recurrent")):
        gate = getattr(mixer, f"{ours}_gate_proj")
        gate.kernel[...] = jnp.asarray(w[f"{t}.rg_lru.{theirs}_gate_weight"])
        gate.bias[...] = jnp.asarray(w[f"{t}.rg_lru.{theirs}_gate_bias"])
    mixer.decay[...] = jnp.asarray(w[f"{t}.rg_lru.recurrent_param"])
    return jax.jit(mixer)


def local(w):
    """Local attention with one head of keys and values, half of each head rotated."""
    options = {"num_kv_heads": 1, "window": WINDOW, "rope_fraction": 0.5, "use_bias": True}
    mixer = Attention(D, num_heads=HEADS, **options, rngs=nnx.Rngs(0))
    for name in "qkv":  # whose biases start at 0 and have no counterpart
        kernel = jnp.asarray(w[f"temporal_block.{name}_proj.weight"].T)
        getattr(mixer, f"{name}_proj").kernel[...] = kernel
    linear(mixer.out_proj, w, "temporal_block.o_proj")
    return jax.jit(mixer)


def test_all_blocks_equal_the_published_model():
    io = golden("hf/recurrent_gemma/io")
    for index in range(3):
        w = layer(index)
        mlp = FeedForward(D, kind="geglu", expansion=2.0, rngs=nnx.Rngs(0))
        for name in ("gate", "up", "down"):
            linear(getattr(mlp, f"{name}_proj"), w, f"mlp_block.{name}_proj")
        x = io[f"hidden_{index}"]
        mix = local(w) if index == 2 else recurrent(w)
        x = x + np.asarray(mix(norm(x, w["temporal_pre_norm.weight"])))
        x = x + np.asarray(mlp(norm(x, w["channel_pre_norm.weight"])))
        if index == 2:
            final = golden("hf/recurrent_gemma/weights")["model.final_norm.weight"]
            x = norm(x, final)
        assert_close(x, io[f"hidden_{index + 1}"], ratio=1e-5, what=f"block {index}")
