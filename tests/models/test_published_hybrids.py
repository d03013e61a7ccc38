"""The attention blocks of published hybrids, whose recurrent blocks are tested beside their mixers.

MiniMax, Qwen3-Next and Kimi Linear: hidden states of the second block and logits. Their mixtures of
experts choose one of two SwiGLU networks, which ours (GELU, top two) are not, and are written out.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Attention
from seqzoo.models.ops import attention
from tests.golden import golden
from tests.helpers import assert_close
from tests.models.linear_attention.by_hand import rms_norm, sigmoid, silu


class Golden:
    """Weights and arrays of one model."""

    def __init__(self, name):
        self.all = golden(f"hf/{name}/weights")
        self.io = golden(f"hf/{name}/io")
        at = "model.layers.1."
        self.block = {k.removeprefix(at): v for k, v in self.all.items() if at in k}

    def __getitem__(self, name):
        return self.block[f"{name}.weight"]

    def check(self, x, eps, offset):
        """The output of the block, through the norm behind it and the head."""
        x = rms_norm(x, self.all["model.norm.weight"] + offset, eps)
        assert_close(x, self.io["hidden_2"], ratio=1e-5, what="hidden")
        assert_close(x @ self.all["lm_head.weight"].T, self.io["logits"], ratio=1e-5)


def swiglu(x, gate, up, down):
    return (silu(x @ gate.T) * (x @ up.T)) @ down.T


def experts(w, x, scores):
    """The expert of the larger score for every token."""
    made = [
        swiglu(x, *np.split(gate_up, 2), down)
        for gate_up, down in zip(
            w.block["mlp.experts.gate_up_proj"], w.block["mlp.experts.down_proj"], strict=True
        )
    ]
    return np.where(np.argmax(scores, axis=-1)[..., None] == 0, *made)


def always(w, x, name):
    return swiglu(x, *(w[f"mlp.{name}.{part}_proj"] for part in ("gate", "up", "down")))


def load(mixer, w, **changed):
    for name in ("q", "k", "v"):
        kernel = changed.get(name, w[f"self_attn.{name}_proj"])
        getattr(mixer, f"{name}_proj").kernel[...] = jnp.asarray(kernel.T)
    mixer.out_proj.kernel[...] = jnp.asarray(w["self_attn.o_proj"].T)
    return mixer


def streamed(mixer, x):
    """One token at a time."""
    state, ys = mixer.init_state(len(x)), []
    step = jax.jit(lambda x, state: mixer.extend(x, state))
    for t in range(x.shape[1]):
        y, state = step(x[:, t : t + 1], state)
        ys.append(y)
    return np.concatenate(ys, axis=1)


def applied(mixer, x, stream):
    x = jnp.asarray(x)
    return streamed(mixer, x) if stream else np.asarray(jax.jit(mixer)(x))


@pytest.mark.parametrize("stream", [False, True])
def test_minimax(stream):
    """Grouped queries; every sum takes the normed input, times a factor."""
    w = Golden("minimax")
    options = {"num_heads": 2, "num_kv_heads": 1, "d_head": 8, "rope_base": 1e6}
    mixer = load(Attention(16, **options, max_length=16, rngs=nnx.Rngs(0)), w)
    x = rms_norm(w.io["hidden_1"], w["input_layernorm"], 1e-5)
    x = 1.1 * x + applied(mixer, x, stream)
    x = rms_norm(x, w["post_attention_layernorm"], 1e-5)
    w.check(1.2 * x + experts(w, x, x @ w["mlp.gate"].T), 1e-5, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_qwen3_next(stream):
    """Half of each head rotated, norms of queries and keys, a gate of the outputs."""
    w = Golden("qwen3_next")
    options = {"num_heads": 2, "num_kv_heads": 1, "d_head": 8, "rope_fraction": 0.5}
    options |= {"qk_norm": True, "output_gate": True, "max_length": 16}
    q, gate = np.split(w["self_attn.q_proj"].reshape(2, 16, 16), 2, axis=1)
    mixer = load(Attention(16, **options, rngs=nnx.Rngs(0)), w, q=q.reshape(16, 16))
    mixer.gate_proj.kernel[...] = jnp.asarray(gate.reshape(16, 16).T)
    for norm, name in zip(mixer.qk_norm, "qk", strict=True):
        norm.scale[...] = jnp.asarray(1 + w[f"self_attn.{name}_norm"])
    x = w.io["hidden_1"]
    x = x + applied(mixer, rms_norm(x, 1 + w["input_layernorm"], 1e-6), stream)
    h = rms_norm(x, 1 + w["post_attention_layernorm"], 1e-6)
    shared = sigmoid(h @ w["mlp.shared_expert_gate"].T) * always(w, h, "shared_expert")
    w.check(x + experts(w, h, h @ w["mlp.gate"].T) + shared, 1e-6, 1)


def latent_attention(w, x):
    """Multi-head latent attention without positions: no mixer here, but our op has its shapes."""
    q = (x @ w["self_attn.q_proj"].T).reshape(*x.shape[:2], 2, 10)
    latent, k_all = np.split(x @ w["self_attn.kv_a_proj_with_mqa"].T, [6], axis=-1)
    latent = rms_norm(latent, w["self_attn.kv_a_layernorm"], 1e-6)
    kv = (latent @ w["self_attn.kv_b_proj"].T).reshape(*x.shape[:2], 2, 12)
    k_all = np.broadcast_to(k_all[:, :, None], (*x.shape[:2], 2, 4))
    k = np.concatenate([kv[..., :6], k_all], axis=-1)
    o = attention(*(jnp.asarray(z) for z in (q, k, kv[..., 6:])), causal=True)
    return np.asarray(o).reshape(*x.shape[:2], -1) @ w["self_attn.o_proj"].T


def test_kimi_linear():
    w = Golden("kimi_linear")
    x = w.io["hidden_1"]
    x = x + latent_attention(w, rms_norm(x, w["input_layernorm"], 1e-5))
    h = rms_norm(x, w["post_attention_layernorm"], 1e-5)
    scores = sigmoid(h @ w["mlp.gate"].T) + w.block["mlp.gate.e_score_correction_bias"]
    w.check(x + 2.446 * experts(w, h, scores) + always(w, h, "shared_experts"), 1e-5, 0)
