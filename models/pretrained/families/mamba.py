"""Mamba, Falcon Mamba and Mamba-2 as the transformers library keeps them."""

from __future__ import annotations

import math
from typing import Any

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import TAPS, Rule, linear, norm

MODEL = (
    Rule("backbone.embeddings.weight", "embed.embedding"),
    *norm("backbone.layers.{i}.norm", "blocks.{i}.norm"),
    *norm("backbone.norm_f", "final_norm"),
    *linear("lm_head", "out_proj"),
)


def selection(tensor: str, block: str) -> tuple[Rule, ...]:
    """The tensors of one selective state space with its convolution."""
    return (
        *linear(f"{tensor}.in_proj", f"{block}.in_proj"),
        Rule(f"{tensor}.conv1d.weight", f"{block}.conv.kernel", TAPS),
        Rule(f"{tensor}.conv1d.bias", f"{block}.conv.bias"),
        *linear(f"{tensor}.x_proj", f"{block}.x_proj"),
        linear(f"{tensor}.dt_proj", f"{block}.dt_proj")[0],
        Rule(f"{tensor}.dt_proj.bias", f"{block}.dt_bias"),
        Rule(f"{tensor}.A_log", f"{block}.A_log"),
        Rule(f"{tensor}.D", f"{block}.D"),
        *linear(f"{tensor}.out_proj", f"{block}.out_proj"),
    )


MAMBA = (*MODEL, *selection("backbone.layers.{i}.mixer", "blocks.{i}.mamba"))
_2 = ("backbone.layers.{i}.mixer", "blocks.{i}.mamba2")
MAMBA2 = (
    *MODEL,
    *linear(f"{_2[0]}.in_proj", f"{_2[1]}.in_proj"),
    Rule(f"{_2[0]}.conv1d.weight", f"{_2[1]}.conv.kernel", TAPS),
    Rule(f"{_2[0]}.conv1d.bias", f"{_2[1]}.conv.bias"),
    Rule(f"{_2[0]}.dt_bias", f"{_2[1]}.dt_bias"),
    Rule(f"{_2[0]}.A_log", f"{_2[1]}.A_log"),
    Rule(f"{_2[0]}.D", f"{_2[1]}.D"),
    Rule(f"{_2[0]}.norm.weight", f"{_2[1]}.norm.scale"),
    *linear(f"{_2[0]}.out_proj", f"{_2[1]}.out_proj"),
)
# The library's own early conversions keep the names of the first release.
RENAMED = ((r"^backbone\.embedding\.", "backbone.embeddings."),)


def mamba(keys: Keys) -> Translation:
    """Mamba (model_type "mamba")."""
    return _translated(keys, "mamba", {**_options(keys), **_rank(keys)}, MAMBA)


def falcon_mamba(keys: Keys) -> Translation:
    """Falcon Mamba, whose step sizes, inputs and outputs pass norms without weights."""
    options = {"inner_norm": True, "norm_eps": keys.number("mixer_rms_eps", 1e-6)}
    return _translated(keys, "mamba", {**_options(keys), **_rank(keys), **options}, MAMBA)


def mamba2(keys: Keys) -> Translation:
    """Mamba-2, its heads given by number and width."""
    d_model, expand = keys.size("hidden_size", 4096), keys.size("expand", 2)
    heads, d_head = keys.size("num_heads", 128), keys.size("head_dim", 64)
    if heads * d_head != expand * d_model:
        raise ValueError(
            f"{keys.where}: num_heads x head_dim must be expand x hidden_size; got "
            f"{heads} x {d_head} and {expand} x {d_model}"
        )
    low, high = keys.raw("time_step_limit", (0.0, math.inf))
    limit = {} if (low, high) == (0.0, math.inf) else {"dt_limit": (float(low), float(high))}
    keys.ignore("time_step_rank", "chunk_size")  # without a projection of steps; a matter of speed
    options = {
        **_options(keys),
        **limit,
        "d_head": d_head,
        "num_groups": keys.size("n_groups", 8),
        "norm_eps": keys.number("layer_norm_epsilon", 1e-5),
    }
    return _translated(keys, "mamba2", options, MAMBA2)


def _options(keys: Keys) -> dict[str, Any]:
    keys.fixed(hidden_act="silu")
    keys.ignore("time_step_min", "time_step_max", "time_step_floor", "time_step_init_scheme")
    keys.ignore("time_step_scale")  # of the initialisation
    expand, d_model = keys.size("expand", 2), keys.size("hidden_size", 4096)
    keys.fixed(intermediate_size=expand * d_model)
    return {
        "d_state": keys.size("state_size"),
        "expand": expand,
        "d_conv": keys.size("conv_kernel", 4),
        "use_bias": keys.flag("use_bias", False),
        "conv_bias": keys.flag("use_conv_bias", True),
    }


def _rank(keys: Keys) -> dict[str, Any]:
    rank = keys.raw("time_step_rank", "auto")
    return {} if rank == "auto" else {"dt_rank": keys.size("time_step_rank")}


def _translated(keys: Keys, mixer: str, options: dict[str, Any], rules: Any) -> Translation:
    tied = keys.flag("tie_word_embeddings", mixer == "mamba")
    backbone = BackboneConfig(
        d_model=keys.size("hidden_size"),
        depth=keys.size("num_hidden_layers"),
        norm="rms",
        norm_eps=keys.number("layer_norm_epsilon", 1e-5),
        feedforward="none",
        tie_embeddings=tied,
        head_bias=False,
        wide_residual=keys.flag("residual_in_fp32", True),
    )
    return Translation(
        vocab=keys.size("vocab_size"),
        length=2048,
        pattern=(mixer,),
        backbone=backbone,
        options=options,
        rules=rules,
        renamed=RENAMED,
        tied={"lm_head.weight": "backbone.embeddings.weight"} if tied else {},
    )
