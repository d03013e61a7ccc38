"""Kimi Linear as the transformers library keeps it."""

from __future__ import annotations

from collections.abc import Mapping

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.llama import decoder, gated
from seqzoo.models.pretrained.families.parts import LAYER, experts, layer_types, translated
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import (
    TAPS,
    Rule,
    joined,
    linear,
    norm,
    one,
)


def kimi_rules(sizes: Mapping[str, int]) -> tuple[Rule, ...]:
    """The table of Kimi Linear; `sizes`: heads, the width of one, and of queries and values."""
    at, ours, mla = f"{LAYER}.self_attn", "blocks.{i}.kda", "blocks.{i}.mla"
    wide = sizes["heads"] * sizes["width"]
    small = [sizes["heads"], sizes["width"], sizes["width"]]
    return (
        *decoder(),
        *(r for n in "qkv" for r in linear(f"{at}.{n}_proj", f"{ours}.qkv.{n}_proj")),
        Rule(f"{at}.conv1d.weight", f"{ours}.qkv.conv.kernel", TAPS),
        Rule(
            tuple(f"{at}.{n}_conv1d.weight" for n in "qkv"),
            f"{ours}.qkv.conv.kernel",
            joined(1, [wide] * 3, TAPS),
        ),
        Rule(
            (f"{at}.b_proj.weight", f"{at}.forget_gate.f_a_proj.weight", f"{at}.g_a_proj.weight"),
            f"{ours}.in_proj.kernel",
            joined(1, small),
        ),
        *linear(f"{at}.forget_gate.f_b_proj", f"{ours}.decay_proj"),
        Rule(f"{at}.forget_gate.A_log", f"{ours}.decay.A_log", ONE_A_HEAD),
        Rule(f"{at}.forget_gate.dt_bias", f"{ours}.decay.dt_bias"),
        *linear(f"{at}.g_b_proj", f"{ours}.gate_proj"),
        Rule(f"{at}.o_norm.weight", f"{ours}.norm.scale"),
        *linear(f"{at}.o_proj", f"{ours}.out_proj"),
        *linear(f"{at}.q_proj", f"{mla}.q_proj"),
        *linear(f"{at}.q_a_proj", f"{mla}.q_in_proj"),
        *norm(f"{at}.q_a_layernorm", f"{mla}.q_norm"),
        *linear(f"{at}.q_b_proj", f"{mla}.q_proj"),
        *linear(f"{at}.kv_a_proj_with_mqa", f"{mla}.in_proj"),
        *norm(f"{at}.kv_a_layernorm", f"{mla}.norm"),
        *linear(f"{at}.kv_b_proj", f"{mla}.kv_proj"),
        *linear(f"{at}.o_proj", f"{mla}.out_proj"),
        *gated(),
        *experts(f"{LAYER}.mlp"),
        Rule(f"{LAYER}.mlp.gate.e_score_correction_bias", "blocks.{i}.ff.bias"),
        *gated(f"{LAYER}.mlp.shared_experts", "blocks.{i}.ff.shared"),
    )


ONE_A_HEAD = one(lambda x: x.reshape(-1), lambda x: x.reshape(1, 1, -1, 1))


def kimi_linear(keys: Keys) -> Translation:
    """Kimi Linear: KDA and latent attention without positions, experts ("kimi_linear")."""
    d_model, depth = keys.size("hidden_size", 2304), keys.size("num_hidden_layers", 27)
    eps = keys.number("rms_norm_eps", 1e-5)
    keys.fixed(hidden_act="silu", attention_bias=False, mla_use_nope=True, moe_layer_freq=1)
    keys.fixed(moe_router_activation_func="sigmoid", num_nextn_predict_layers=0)
    keys.ignore("rope_theta", "rope_scaling", "use_grouped_topk")  # no positions; by the groups
    # Widths that follow from others, and heads of keys, of which latent attention has as many.
    keys.ignore("head_dim", "qk_head_dim", "num_key_value_heads")
    width, count, taps, linear_layers = _kimi_linear_part(keys, depth)
    dense = keys.raw("mlp_layer_types", None)
    if dense is None:
        first = keys.count("first_k_dense_replace", 1)
        dense = ["dense" if i < first else "sparse" for i in range(depth)]
    keys.ignore("first_k_dense_replace")
    if not isinstance(dense, list) or len(dense) != depth or set(dense) - {"dense", "sparse"}:
        raise ValueError(
            f"{keys.where}: mlp_layer_types must name {depth} layers, dense or sparse; got "
            f"{dense!r}"
        )
    narrow = keys.size("moe_intermediate_size", 1024) / d_model
    plain = {"feedforward": "swiglu", "expansion": keys.size("intermediate_size", 9216) / d_model}
    mixed = {"feedforward": "moe", "expansion": narrow}
    backbone = BackboneConfig(
        d_model=d_model,
        depth=depth,
        arrangement="listed",
        each=tuple(plain if kind == "dense" else mixed for kind in dense),
        norm="rms",
        norm_eps=eps,
        feedforward_bias=False,
        experts=keys.size("num_experts", 256),
        experts_per_token=keys.size("num_experts_per_token", 8),
        routing={
            "kind": "swiglu",
            "scores": "sigmoid",
            "bias": True,
            "normalized": keys.flag("moe_renormalize", True),
            "scale": keys.number("routed_scaling_factor", 2.446),
            "groups": keys.size("num_expert_group", 1),
            "kept_groups": keys.size("topk_group", 1),
            "shared": keys.size("num_shared_experts", 1) * narrow,
        },
        head_bias=False,
        tie_embeddings=keys.flag("tie_word_embeddings", False),
    )
    options = {
        "kda": {
            "num_heads": count,
            "d_key": width,
            "d_value": width,
            "d_conv": taps,
            "norm_eps": eps,
        },
        "mla": {
            "num_heads": keys.size("num_attention_heads", 32),
            "kv_rank": keys.size("kv_lora_rank", 512),
            "q_rank": keys.size("q_lora_rank", None),
            "d_nope": keys.size("qk_nope_head_dim", 128),
            "d_rope": keys.size("qk_rope_head_dim", 64),
            "d_value": keys.size("v_head_dim", 128),
            "rotary": False,
        },
    }
    pattern = tuple("kda" if l else "mla" for l in linear_layers)
    table = kimi_rules({"heads": count, "width": width})
    renamed = ((r"\.self_attn\.(f_a_proj|f_b_proj|dt_bias|A_log)", r".self_attn.forget_gate.\1"),)
    length = keys.size("model_max_length", keys.size("max_position_embeddings", 2**20))
    return translated(keys, 163840, length, pattern, backbone, options, table, renamed=renamed)


def _kimi_linear_part(keys: Keys, depth: int) -> tuple[int, int, int, list[bool]]:
    """Width and number of KDA's heads, its taps, and which layers have it, in either form."""
    own = keys.sub("linear_attn_config", None)
    if own is None:
        sizes = (
            keys.size("linear_head_dim", 128),
            keys.size("linear_num_heads", 32),
            keys.size("linear_conv_kernel_dim", 4),
        )
        default = [
            "full_attention" if i and i % 4 == 0 else "linear_attention" for i in range(depth)
        ]
        return *sizes, layer_types(keys, depth, default)
    sizes = own.size("head_dim"), own.size("num_heads"), own.size("short_conv_kernel_size", 4)
    full, kda = own.raw("full_attn_layers"), own.raw("kda_layers")  # counted from 1
    own.finish()
    if sorted([*full, *kda]) != list(range(1, depth + 1)):
        raise ValueError(
            f"{own.where}: full_attn_layers and kda_layers must name {depth} layers once"
        )
    return *sizes, [i + 1 in kda for i in range(depth)]
