"""RecurrentGemma, RWKV-4 and xLSTM as the transformers library keeps them."""

from __future__ import annotations

import jax.numpy as jnp

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.llama import gated
from seqzoo.models.pretrained.family import GATED, Translation, rope
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import (
    SAME,
    TAPS,
    Rule,
    Transform,
    joined,
    linear,
    norm,
    split,
)

_T = "model.layers.{i}.temporal_block"
GEMMA = (
    Rule("model.embed_tokens.weight", "embed.embedding"),
    *norm("model.layers.{i}.temporal_pre_norm", "blocks.{i}.norm"),
    *norm("model.layers.{i}.channel_pre_norm", "blocks.{i}.ff_norm"),
    *norm("model.final_norm", "final_norm"),
    *linear("lm_head", "out_proj"),
    *linear(f"{_T}.linear_x", "blocks.{i}.rg_lru.in_proj"),
    *linear(f"{_T}.linear_y", "blocks.{i}.rg_lru.gate_proj"),
    *linear(f"{_T}.linear_out", "blocks.{i}.rg_lru.out_proj"),
    Rule(f"{_T}.conv_1d.weight", "blocks.{i}.rg_lru.conv.kernel", TAPS),
    Rule(f"{_T}.conv_1d.bias", "blocks.{i}.rg_lru.conv.bias"),
    *(
        Rule(f"{_T}.rg_lru.{theirs}_gate_{w}", f"blocks.{{i}}.rg_lru.{ours}_gate_proj.{k}")
        for ours, theirs in (("input", "input"), ("decay", "recurrent"))
        for w, k in (("weight", "kernel"), ("bias", "bias"))
    ),
    Rule(f"{_T}.rg_lru.recurrent_param", "blocks.{i}.rg_lru.decay"),
    *(
        rule
        for ours, theirs in (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o"))
        for rule in linear(f"{_T}.{theirs}_proj", f"blocks.{{i}}.attention.{ours}_proj")
    ),
    *gated("model.layers.{i}.mlp_block"),
)


def recurrent_gemma(keys: Keys) -> Translation:
    """RecurrentGemma, Griffin's blocks (model_type "recurrent_gemma")."""
    d_model, heads = keys.size("hidden_size", 2560), keys.size("num_attention_heads", 10)
    depth = keys.size("num_hidden_layers", 26)
    kinds = keys.raw("block_types", ["recurrent", "recurrent", "attention"])
    names = {"recurrent": "rg_lru", "attention": "attention"}
    if not isinstance(kinds, list) or not kinds or any(kind not in names for kind in kinds):
        raise ValueError(f"block_types={kinds!r} are not handled (known: {', '.join(names)})")
    keys.ignore("layers_block_type")  # the same, unrolled
    keys.fixed(head_dim=d_model // heads)
    tied = keys.flag("tie_word_embeddings", True)
    backbone = BackboneConfig(
        d_model=d_model,
        depth=depth,
        arrangement="listed",
        norm="centered_rms",
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        feedforward=keys.choice("hidden_activation", GATED, "gelu_pytorch_tanh"),
        expansion=keys.size("intermediate_size", 3 * d_model) // 2 / d_model,
        embed_scale=float(jnp.bfloat16(d_model**0.5)),  # rounded so where it was trained
        tie_embeddings=tied,
        head_bias=False,
        logit_cap=keys.number("logits_soft_cap", 30.0),
    )
    options = {
        "rg_lru": {
            "d_hidden": keys.size("lru_width", d_model),
            "num_blocks": heads,
            "d_conv": keys.size("conv1d_width", 4),
        },
        "attention": {
            **rope(keys, d_model // heads, share=0.5),
            "num_heads": heads,
            "num_kv_heads": keys.size("num_key_value_heads", heads),
            "window": keys.size("attention_window_size", 2048),
            "use_bias": keys.flag("attention_bias", False),
            "out_bias": True,
        },
    }
    pattern = tuple(names[kinds[i % len(kinds)]] for i in range(depth))
    return Translation(
        vocab=keys.size("vocab_size", 256000),
        length=2048,
        pattern=pattern,
        backbone=backbone,
        options={name: own for name, own in options.items() if name in pattern},
        rules=GEMMA,
        tied={"lm_head.weight": "model.embed_tokens.weight"} if tied else {},
    )


# Rows of one parameter that are vectors [1, 1, D] of the files.
ROWS = Transform(
    lambda x, _: [jnp.concatenate([a[0] for a in x])],
    lambda x: [a[None, None] for a in x[0]],
)
_B = "rwkv.blocks.{i}"
RWKV4 = (
    Rule("rwkv.embeddings.weight", "embed.embedding"),
    *norm("rwkv.blocks.0.pre_ln", "embed_norm"),
    *norm(f"{_B}.ln1", "blocks.{i}.norm"),
    *norm(f"{_B}.ln2", "blocks.{i}.ff_norm"),
    *norm("rwkv.ln_out", "final_norm"),
    *linear("head", "out_proj"),
    *(
        rule
        for ours, theirs in (("q", "receptance"), ("k", "key"), ("v", "value"), ("out", "output"))
        for rule in linear(f"{_B}.attention.{theirs}", f"blocks.{{i}}.rwkv4.{ours}_proj")
    ),
    Rule(
        tuple(f"{_B}.attention.time_mix_{n}" for n in ("receptance", "key", "value")),
        "blocks.{i}.rwkv4.mix",
        ROWS,
    ),
    Rule(f"{_B}.attention.time_decay", "blocks.{i}.rwkv4.decay"),
    Rule(f"{_B}.attention.time_first", "blocks.{i}.rwkv4.bonus"),
    *(
        rule
        for ours, theirs in (("gate", "receptance"), ("up", "key"), ("down", "value"))
        for rule in linear(f"{_B}.feed_forward.{theirs}", f"blocks.{{i}}.ff.{ours}_proj")
    ),
    Rule(
        tuple(f"{_B}.feed_forward.time_mix_{n}" for n in ("key", "receptance")),
        "blocks.{i}.ff.mix",
        ROWS,
    ),
)


def rwkv(keys: Keys) -> Translation:
    """RWKV-4 (model_type "rwkv"). Its rescaling in halves changes no output and is not needed."""
    d_model = keys.size("hidden_size", 4096)
    keys.ignore("rescale_every", "context_length")
    tied = keys.flag("tie_word_embeddings", False)
    backbone = BackboneConfig(
        d_model=d_model,
        depth=keys.size("num_hidden_layers", 32),
        norm="layer",
        norm_eps=keys.number("layer_norm_epsilon", 1e-5),
        feedforward="rwkv4",
        expansion=keys.size("intermediate_size", 4 * d_model) / d_model,
        embed_norm=True,
        tie_embeddings=tied,
        head_bias=False,
    )
    width = keys.size("attention_hidden_size", d_model)
    return Translation(
        vocab=keys.size("vocab_size", 50277),
        length=2048,
        pattern=("rwkv4",),
        backbone=backbone,
        options={"d_hidden": width, "share_of_now": True},
        rules=RWKV4,
        tied={"head.weight": "rwkv.embeddings.weight"} if tied else {},
    )


def xlstm_rules(heads: int) -> tuple[Rule, ...]:
    """The table of xLSTM; input and forget gates are one projection of ours.

    Both weight modes, "single" and "fused", are known by their names.
    """
    at, ours = "backbone.blocks.{i}", "blocks.{i}.mlstm"
    gates = [f"{at}.mlstm_layer.{gate}gate_preact" for gate in "if"]
    wide = tuple(f"{ours}.{n}_proj.kernel" for n in ("q", "k", "v", "gate"))
    return (
        Rule("backbone.embeddings.weight", "embed.embedding"),
        *norm(f"{at}.norm_mlstm", "blocks.{i}.norm"),
        *norm(f"{at}.norm_ffn", "blocks.{i}.ff_norm"),
        *norm("backbone.out_norm", "final_norm"),
        *linear("lm_head", "out_proj"),
        *(rule for n in "qkv" for rule in linear(f"{at}.mlstm_layer.{n}", f"{ours}.{n}_proj")),
        *linear(f"{at}.mlstm_layer.out_proj", f"{ours}.out_proj"),
        *linear(f"{at}.mlstm_layer.ogate_preact", f"{ours}.gate_proj"),
        Rule(tuple(f"{g}.weight" for g in gates), f"{ours}.in_proj.kernel", joined(1, [heads] * 2)),
        Rule(
            tuple(f"{g}.bias" for g in gates), f"{ours}.in_proj.bias", joined(0, [heads] * 2, SAME)
        ),
        Rule(f"{at}.mlstm_layer.qkv_opreact.weight", wide, split(0)),
        *linear(f"{at}.mlstm_layer.ifgate_preact", f"{ours}.in_proj"),
        Rule(f"{at}.mlstm_layer.multihead_norm.weight", f"{ours}.scale"),
        *(
            rule
            for part, theirs in (("gate", "up_gate"), ("up", "up"), ("down", "down"))
            for rule in linear(f"{at}.ffn.proj_{theirs}", f"blocks.{{i}}.ff.{part}_proj")
        ),
    )


def xlstm(keys: Keys) -> Translation:
    """xLSTM of mLSTM blocks, as xLSTM-7B (model_type "xlstm")."""
    d_model, heads = keys.size("hidden_size", 4096), keys.size("num_heads", 8)
    depth = keys.size("num_hidden_layers", keys.size("num_blocks", 32))
    keys.fixed(num_blocks=depth) if keys.config.get("num_blocks") is not None else None
    keys.fixed(use_bias=False, add_out_norm=True, eps=1e-6)
    keys.choice("weight_mode", {"single": 0, "fused": 0}, "single")
    if keys.config.get("embedding_dim") is not None:
        keys.fixed(embedding_dim=d_model)
    keys.ignore("embedding_dim")
    keys.ignore("mode", "chunkwise_kernel", "sequence_kernel", "step_kernel", "chunk_size")
    keys.ignore("max_inference_chunksize", "return_last_states")
    # Ours reduces norms and keeps states in float32 whatever these say.
    keys.ignore("norm_reduction_force_float32", "autocast_kernel_dtype", "inference_state_dtype")
    multiple = keys.size("ffn_round_up_to_multiple_of", 64)
    hidden = (keys.number("ffn_proj_factor", 2.667) * d_model + multiple - 1) // multiple * multiple
    tied = keys.flag("tie_word_embeddings", False)
    eps = keys.number("norm_eps", 1e-6)
    backbone = BackboneConfig(
        d_model=d_model,
        depth=depth,
        norm="rms",
        norm_eps=eps,
        feedforward="swiglu",
        feedforward_bias=False,
        expansion=int(hidden) / d_model,
        tie_embeddings=tied,
        head_bias=False,
        logit_cap=keys.number("output_logit_soft_cap", 30.0),
    )
    options = {
        "num_heads": heads,
        "d_key": int(d_model * keys.number("qk_dim_factor", 0.5)) // heads,
        "d_value": int(d_model * keys.number("v_dim_factor", 1.0)) // heads,
        "gate_cap": keys.number("gate_soft_cap", 15.0),
        "norm_eps": eps,
    }
    return Translation(
        vocab=keys.size("vocab_size", 50304),
        length=2048,
        pattern=("mlstm",),
        backbone=backbone,
        options=options,
        rules=xlstm_rules(heads),
        tied={"lm_head.weight": "backbone.embeddings.weight"} if tied else {},
    )
