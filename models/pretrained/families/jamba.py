"""Jamba as the transformers library keeps it."""

from __future__ import annotations

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.llama import decoder, gated, heads
from seqzoo.models.pretrained.families.mamba import selection
from seqzoo.models.pretrained.families.parts import LAYER, experts, translated
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import (
    Rule,
)

JAMBA = (
    *decoder(last="model.final_layernorm", second="pre_ff_layernorm"),
    *selection(f"{LAYER}.mamba", "blocks.{i}.mamba"),
    *(
        Rule(f"{LAYER}.mamba.{name}_layernorm.weight", f"blocks.{{i}}.mamba.inner_norms.{n}.scale")
        for n, name in enumerate(("dt", "b", "c"))
    ),
    *heads(),
    *gated(f"{LAYER}.feed_forward"),
    *experts(f"{LAYER}.feed_forward", router="router"),
)


def jamba(keys: Keys) -> Translation:
    """Jamba: Mamba, some attention without positions, some experts (model_type "jamba")."""
    d_model, depth = keys.size("hidden_size", 4096), keys.size("num_hidden_layers", 32)
    eps = keys.number("rms_norm_eps", 1e-6)
    keys.fixed(hidden_act="silu", sliding_window=None)
    keys.ignore("num_logits_to_keep", "layers_block_type", "layers_num_experts")
    every, first = keys.size("attn_layer_period", 8), keys.count("attn_layer_offset", 4)
    some, start = keys.size("expert_layer_period", 2), keys.count("expert_layer_offset", 1)
    number = keys.size("num_experts", 16)
    pattern = tuple("attention" if i % every == first else "mamba" for i in range(depth))
    mixed = [i % some == start and number > 1 for i in range(depth)]
    backbone = BackboneConfig(
        d_model=d_model,
        depth=depth,
        arrangement="listed",
        each=tuple({"feedforward": "moe" if m else "swiglu"} for m in mixed),
        norm="rms",
        norm_eps=eps,
        feedforward_bias=False,
        expansion=keys.size("intermediate_size", 14336) / d_model,
        experts=number,
        experts_per_token=keys.size("num_experts_per_tok", 2),
        routing={"kind": "swiglu", "normalized": False},
        head_bias=False,
        tie_embeddings=keys.flag("tie_word_embeddings", False),
    )
    rank = keys.raw("mamba_dt_rank", "auto")
    count = keys.size("num_attention_heads", 32)
    options = {
        "attention": {
            "num_heads": count,
            "num_kv_heads": keys.size("num_key_value_heads", count),
            "positions": "none",
        },
        "mamba": {
            "d_state": keys.size("mamba_d_state", 16),
            "d_conv": keys.size("mamba_d_conv", 4),
            "expand": keys.size("mamba_expand", 2),
            "dt_rank": None if rank == "auto" else keys.size("mamba_dt_rank"),
            "conv_bias": keys.flag("mamba_conv_bias", True),
            "use_bias": keys.flag("mamba_proj_bias", False),
            "inner_norm": True,
            "inner_scale": True,
            "norm_eps": eps,
        },
    }
    return translated(keys, 65536, 262144, pattern, backbone, options, JAMBA)
