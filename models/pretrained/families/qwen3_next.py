"""Qwen3-Next as the transformers library keeps it."""

from __future__ import annotations

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.llama import decoder, gated, heads
from seqzoo.models.pretrained.families.parts import LAYER, experts, layer_types, translated
from seqzoo.models.pretrained.family import Translation, rope
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import (
    SAME,
    TAPS,
    Rule,
    interleaved,
    into_one,
    linear,
    norm,
)


def qwen3_next_rules(key_heads: int, count: int) -> tuple[Rule, ...]:
    """The table of Qwen3-Next; `count`: heads of attention, whose queries come with their gates."""
    at, ours = f"{LAYER}.linear_attn", "blocks.{i}.gated_deltanet"
    full, attention = f"{LAYER}.self_attn", "blocks.{i}.attention"
    parts = (*(f"{ours}.qkv.{n}_proj.kernel" for n in "qkv"), f"{ours}.gate_proj.kernel")
    both = interleaved(key_heads)
    gates = tuple(f"{attention}.{n}_proj" for n in ("q", "gate"))
    return (
        *decoder(),
        Rule(f"{at}.in_proj_qkvz.weight", parts, both),
        Rule(f"{at}.in_proj_ba.weight", f"{ours}.in_proj.kernel", into_one(both, 1, 2)),
        Rule(f"{at}.conv1d.weight", f"{ours}.qkv.conv.kernel", TAPS),
        Rule(f"{at}.A_log", f"{ours}.decay.A_log"),
        Rule(f"{at}.dt_bias", f"{ours}.decay.dt_bias"),
        Rule(f"{at}.norm.weight", f"{ours}.norm.scale"),
        *linear(f"{at}.out_proj", f"{ours}.out_proj"),
        Rule(f"{full}.q_proj.weight", tuple(f"{g}.kernel" for g in gates), interleaved(count)),
        Rule(f"{full}.q_proj.bias", tuple(f"{g}.bias" for g in gates), interleaved(count, SAME)),
        *heads(names=(("k", "k"), ("v", "v"), ("out", "o"))),
        *norm(f"{full}.q_norm", f"{attention}.qk_norm.0"),
        *norm(f"{full}.k_norm", f"{attention}.qk_norm.1"),
        *gated(),
        *experts(f"{LAYER}.mlp"),
        *gated(f"{LAYER}.mlp.shared_expert", "blocks.{i}.ff.shared"),
        *linear(f"{LAYER}.mlp.shared_expert_gate", "blocks.{i}.ff.shared_gate_proj"),
    )


def qwen3_next(keys: Keys) -> Translation:
    """Qwen3-Next: gated DeltaNet and gated attention, experts (model_type "qwen3_next")."""
    d_model, depth = keys.size("hidden_size", 2048), keys.size("num_hidden_layers", 48)
    count, d_head = keys.size("num_attention_heads", 16), keys.size("head_dim", 256)
    eps = keys.number("rms_norm_eps", 1e-6)
    keys.fixed(hidden_act="silu")
    every = keys.size("full_attention_interval", 4)
    kinds = ("full_attention", "linear_attention")
    linear_layers = layer_types(keys, depth, [kinds[(i + 1) % every > 0] for i in range(depth)])
    dense = keys.raw("mlp_only_layers", None) or []
    number, step = keys.count("num_experts", 512), keys.size("decoder_sparse_step", 1)
    if not isinstance(dense, list):
        raise ValueError(f"{keys.where}: mlp_only_layers must be a list; got {dense!r}")
    wide = keys.size("intermediate_size", 5632) / d_model
    narrow = keys.size("moe_intermediate_size", 512) / d_model
    plain = {"feedforward": "swiglu", "expansion": wide}
    mixed = {"feedforward": "moe", "expansion": narrow}
    backbone = BackboneConfig(
        d_model=d_model,
        depth=depth,
        arrangement="listed",
        each=tuple(
            mixed if i not in dense and number and (i + 1) % step == 0 else plain
            for i in range(depth)
        ),
        norm="centered_rms",
        norm_eps=eps,
        feedforward_bias=False,
        experts=max(number, 1),
        experts_per_token=keys.size("num_experts_per_tok", 10),
        routing={
            "kind": "swiglu",
            "normalized": keys.flag("norm_topk_prob", True),
            "shared": keys.size("shared_expert_intermediate_size", 512) / d_model,
            "shared_gate": True,
        },
        head_bias=False,
        tie_embeddings=keys.flag("tie_word_embeddings", False),
    )
    key_heads = keys.size("linear_num_key_heads", 16)
    options = {
        "attention": {
            **rope(keys, d_head, share=0.25),
            "num_heads": count,
            "num_kv_heads": keys.size("num_key_value_heads", 2),
            "d_head": d_head,
            "use_bias": keys.flag("attention_bias", False),
            "qk_norm": True,
            "qk_norm_centered": True,
            "norm_eps": eps,
            "output_gate": True,
        },
        "gated_deltanet": {
            "num_heads": key_heads,
            "num_value_heads": keys.size("linear_num_value_heads", 32),
            "d_key": keys.size("linear_key_head_dim", 128),
            "d_value": keys.size("linear_value_head_dim", 128),
            "d_conv": keys.size("linear_conv_kernel_dim", 4),
            "norm_eps": eps,
        },
    }
    pattern = tuple("gated_deltanet" if l else "attention" for l in linear_layers)
    table = qwen3_next_rules(key_heads, count)
    return translated(
        keys, 151936, 32768, pattern, backbone, options, table, unused=(r"(model\.)?mtp\..*",)
    )
