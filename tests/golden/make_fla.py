"""Makes tests/golden/fla: models of flash-linear-attention with random weights, run on a CPU.

    pip install torch transformers einops triton flash-linear-attention fla-core
    python tests/golden/make_fla.py

Its kernels run on a GPU; each is replaced here by the library's own naive operator, norms and
convolutions by torch. The layers, their wiring and the names of the weights are the library's. Run
once, with flash-linear-attention 0.6.0, torch 2.13.0+cpu and transformers 5.24.0.
"""

from __future__ import annotations

import json
from pathlib import Path

import fla.layers.attn
import fla.layers.delta_net
import fla.layers.gated_deltanet
import fla.layers.gla
import fla.layers.hgrn2
import fla.layers.multiscale_retention
import fla.layers.rwkv7
import fla.models
import fla.models.rwkv7.modeling_rwkv7
import fla.modules
import fla.modules.mlp
import numpy as np
import torch
import torch.nn.functional as F
from fla.ops.delta_rule.naive import delta_rule_recurrence
from fla.ops.gated_delta_rule.naive import naive_recurrent_gated_delta_rule
from fla.ops.generalized_delta_rule.dplr.naive import dplr_recurrence
from fla.ops.gla.naive import naive_recurrent_gla
from fla.ops.retention.naive import naive_retention
from fla.ops.rwkv7.fused_addcmul import torch_addcmul_rwkv7
from fla.ops.rwkv7.fused_k_update import k_update_ref
from fla.ops.rwkv7.gate_output_correction import gate_output_correction_ref
from safetensors.torch import save_file

OUT = Path(__file__).parent / "fla"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 37, "intermediate_size": 24}
CASES = {
    "gla": ("GLA", {"num_heads": 2, "norm_eps": 1e-5}),
    "retnet": ("RetNet", {"num_heads": 2}),
    "delta_net": ("DeltaNet", {"num_heads": 2, "allow_neg_eigval": True}),
    "gated_deltanet": ("GatedDeltaNet", {"num_heads": 2, "num_v_heads": 4, "head_dim": 6}),
    "hgrn2": ("HGRN2", {"expand_ratio": 8, "tie_word_embeddings": True}),
    "rwkv7": (
        "RWKV7",
        {"head_dim": 8, "decay_low_rank_dim": 6, "a_low_rank_dim": 6, "v_low_rank_dim": 4}
        | {"gate_low_rank_dim": 10},
    ),
    "transformer": (
        "Transformer",
        {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True, "qkv_bias": True, "window_size": 5},
    ),
}


def rms(self, x, residual=None, prenorm=False, residual_in_fp32=False):
    """RMSNorm and LayerNorm, with the residual that comes along."""
    x = x if residual is None else x + residual
    if isinstance(self, fla.modules.LayerNorm):
        y = F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
    else:
        y = F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
    return (y, x) if prenorm else y


def gated_norm(self, x, g, residual=None, prenorm=False, residual_in_fp32=False):
    """FusedRMSNormGated."""
    gate = torch.sigmoid(g) if self.activation == "sigmoid" else F.silu(g)
    return F.rms_norm(x, x.shape[-1:], self.weight, self.eps) * gate


def convolved(x, weight, activation):
    """A causal depthwise convolution along axis 1; weight [D, W]."""
    width = weight.shape[1]
    y = F.conv1d(F.pad(x.transpose(1, 2), (width - 1, 0)), weight[:, None], groups=x.shape[-1])
    return (F.silu(y) if activation in ("silu", "swish") else y).transpose(1, 2)


def rotated(self, q, k, seqlen_offset=0, cu_seqlens=None, max_seqlen=None):
    """RotaryEmbedding over halves."""
    half = self.dim // 2
    inverse = self.base ** -(torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(q.shape[1])[:, None] * inverse
    cos, sin = angle.cos().float()[:, None], angle.sin().float()[:, None]

    def turn(x):
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    return turn(q), turn(k)


def softmax_attention(q, k, v, causal=True, window_size=(-1, -1)):
    """flash_attn_func."""
    groups = q.shape[2] // k.shape[2]
    k, v = (x.repeat_interleave(groups, 2) for x in (k, v))
    at = torch.arange(q.shape[1])
    seen = at[:, None] >= at
    if window_size[0] >= 0:
        seen &= at[:, None] - at <= window_size[0]
    scores = torch.einsum("blhd,bshd->bhls", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhls,bshd->blhd", scores.masked_fill(~seen, -1e30).softmax(-1), v)


def unit(x):
    """l2_norm."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def gla(q, k, v, gk, **options):
    """fused_recurrent_gla."""
    return naive_recurrent_gla(q, k, v, gk)


def retention(q, k, v, **options):
    """fused_recurrent_retention."""
    o = naive_retention(*(x.transpose(1, 2) for x in (q, k, v)))
    return o.transpose(1, 2), None


def delta_rule(q, k, v, beta, **options):
    """fused_recurrent_delta_rule."""
    q, k = unit(q), unit(k)
    o, _ = delta_rule_recurrence(*(x.transpose(1, 2) for x in (q, k, v, beta)))
    return o.transpose(1, 2), None


def gated_delta_rule(q, k, v, g, beta, A_log, dt_bias, allow_neg_eigval, **options):
    """fused_recurrent_gated_delta_rule, with the gate made in the kernel."""
    q, k = (unit(x).repeat_interleave(v.shape[2] // x.shape[2], 2) for x in (q, k))
    beta = torch.sigmoid(beta) * (2 if allow_neg_eigval else 1)
    return naive_recurrent_gated_delta_rule(q, k, v, beta, -A_log.exp() * F.softplus(g + dt_bias))


def rwkv7(r, w, k, v, kk, a, scale, **options):
    """fused_mul_recurrent_rwkv7; the naive operator scales by 1 / sqrt(K)."""
    r = r * r.shape[-1] ** 0.5
    o, _ = dplr_recurrence(*(x.transpose(1, 2) for x in (r, k, v, -kk, kk * a, w)))
    return o.transpose(1, 2), None


def replace() -> None:
    """Naive operators and torch in place of kernels."""
    layers = fla.layers
    fla.modules.RMSNorm.forward = fla.modules.LayerNorm.forward = rms
    fla.modules.FusedRMSNormGated.forward = gated_norm
    fla.modules.GroupNorm.forward = lambda self, x: F.group_norm(
        x.flatten(0, 1), self.num_groups, self.weight, self.bias, self.eps
    ).view_as(x)
    fla.modules.ShortConvolution.forward = lambda self, x, **options: (
        convolved(x, self.weight[:, 0], self.activation), None
    )  # fmt: skip
    fla.modules.RotaryEmbedding.forward = rotated
    fla.modules.mlp.swiglu_linear = lambda x, y, w, b: F.linear(F.silu(x) * y, w, b)
    layers.attn.flash_attn_func = softmax_attention
    layers.gla.fused_recurrent_gla = layers.hgrn2.fused_recurrent_gla = gla
    layers.hgrn2.swish = F.silu
    layers.hgrn2.rms_norm_linear = lambda x, w, b, lw, lb, eps=1e-5: F.linear(
        F.rms_norm(x, x.shape[-1:], w, eps), lw, lb
    )
    layers.multiscale_retention.fused_recurrent_retention = retention
    layers.delta_net.fused_recurrent_delta_rule = delta_rule
    layers.gated_deltanet.fused_recurrent_gated_delta_rule = gated_delta_rule
    layers.gated_deltanet.causal_conv1d = lambda x, weight, activation, **options: (
        convolved(x, weight, activation), None
    )  # fmt: skip
    layers.rwkv7.fused_mul_recurrent_rwkv7 = rwkv7
    layers.rwkv7.fused_addcmul_rwkv7 = torch_addcmul_rwkv7
    layers.rwkv7.fused_k_rwkv7 = k_update_ref
    layers.rwkv7.gate_output_correction = gate_output_correction_ref
    layers.rwkv7.l2_norm = unit

    def shifted(x, *args, **options):
        delta = F.pad(x, (0, 0, 1, 0))[:, :-1] - x
        return (delta, None) if options.get("output_cache") else delta

    layers.rwkv7.token_shift = shifted
    fla.models.rwkv7.modeling_rwkv7.token_shift = shifted


def make(name: str) -> None:
    """One model and what it gives."""
    cls, options = CASES[name]
    config = getattr(fla.models, f"{cls}Config")(**SIZES, **options)
    torch.manual_seed(0)
    model = getattr(fla.models, f"{cls}ForCausalLM")(config).eval()
    with torch.no_grad():
        for path, value in model.named_parameters():
            is_norm = "norm" in path and path.endswith("weight")
            value.normal_(std=0.3).add_(float(is_norm))
            if path == "model.lower_bounds":  # of which one number a channel says nothing
                value.copy_(value.log_softmax(0))
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, 37, (2, 13)))
        out = model(tokens, use_cache=False, output_hidden_states=True)
    folder = OUT / name
    folder.mkdir(parents=True)
    said = {**config.to_dict(), "architectures": [f"{cls}ForCausalLM"]}
    for key in ("_name_or_path", "transformers_version"):
        said.pop(key, None)
    (folder / "config.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n")
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    np.savez(folder / "io.npz", input_ids=tokens.numpy(), logits=out.logits.numpy())
    print(name, float(out.logits.abs().max()))


if __name__ == "__main__":
    replace()
    for case in CASES:
        if not (OUT / case).exists():
            make(case)
