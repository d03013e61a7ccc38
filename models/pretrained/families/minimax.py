"""MiniMax-01 as the transformers library keeps it."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.llama import decoder, heads
from seqzoo.models.pretrained.families.parts import LAYER, experts, layer_types, translated
from seqzoo.models.pretrained.family import Translation, rope
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import (
    Rule,
    interleaved,
    linear,
    norm,
)


def minimax_rules(heads_: int) -> tuple[Rule, ...]:
    """The table of MiniMax-01, whose lightning attention has q, k and v of a head together."""
    ours, at = "blocks.{i}.lightning_attention", f"{LAYER}.self_attn"
    return (
        *decoder(),
        *heads(),
        Rule(
            f"{at}.qkv_proj.weight",
            tuple(f"{ours}.{n}_proj.kernel" for n in "qkv"),
            interleaved(heads_),
        ),
        *linear(f"{at}.output_gate", f"{ours}.gate_proj"),
        *linear(f"{at}.out_proj", f"{ours}.out_proj"),
        *norm(f"{at}.norm", f"{ours}.norm"),
        *experts(f"{LAYER}.mlp"),
    )


def minimax(keys: Keys) -> Translation:
    """MiniMax-01: lightning and softmax attention, experts (model_type "minimax")."""
    d_model, depth = keys.size("hidden_size", 4096), keys.size("num_hidden_layers", 32)
    count = keys.size("num_attention_heads", 32)
    d_head = keys.size("head_dim", d_model // count)
    keys.fixed(hidden_act="silu", sliding_window=None)
    kinds = ("linear_attention", "full_attention")
    default = [kinds[(i + 1) % 2] for i in range(depth)]
    linear_layers = layer_types(keys, depth, default)
    factors = {
        linear_: {
            field: keys.number(f"{name}_attn_{theirs}_factor", 1.0)
            for field, theirs in (("skip", "alpha"), ("gain", "beta"))
        }
        for linear_, name in ((True, "linear"), (False, "full"))
    }
    backbone = BackboneConfig(
        d_model=d_model,
        depth=depth,
        arrangement="listed",
        each=tuple(factors[linear_] for linear_ in linear_layers),
        norm="rms",
        norm_eps=keys.number("rms_norm_eps", 1e-5),
        norm_position="both",
        ff_skip=keys.number("mlp_alpha_factor", 1.0),
        ff_gain=keys.number("mlp_beta_factor", 1.0),
        feedforward="moe",
        expansion=keys.size("intermediate_size", 14336) / d_model,
        experts=keys.size("num_local_experts", 8),
        experts_per_token=keys.size("num_experts_per_tok", 2),
        routing={"kind": "swiglu"},
        head_bias=False,
        tie_embeddings=keys.flag("tie_word_embeddings", False),
    )
    options = {
        "attention": {
            **rope(keys, d_head, base=1e6),
            "num_heads": count,
            "num_kv_heads": keys.size("num_key_value_heads", 8),
            "d_head": d_head,
        },
        "lightning_attention": {"num_heads": count, "d_head": d_head, "norm_eps": 1e-6},
    }
    pattern = tuple("lightning_attention" if l else "attention" for l in linear_layers)
    block = keys.size("block_size", 256)
    derived = {
        f"model.layers.{i}.self_attn.{name}": functools.partial(make, count, i, depth, block)
        for i in range(depth)
        if linear_layers[i]
        for name, make in _DECAYS.items()
    }
    table = minimax_rules(count)
    made = translated(keys, 32000, 131072, pattern, backbone, options, table, derived=derived)
    return made


def _slope(heads_: int, i: int, depth: int, block: int) -> np.ndarray:
    f = np.float32
    base = f(1 / 2 ** (8 / heads_)) ** np.arange(1, heads_ + 1).astype(f)
    return (base * f(1 - i / (depth - 1 + 1e-5) + 1e-5))[:, None, None]


def _query_decay(heads_: int, i: int, depth: int, block: int) -> np.ndarray:
    places = np.arange(1, block + 1, dtype=np.float32)
    return np.exp(-_slope(heads_, i, depth, block) * places[:, None])


def _key_decay(heads_: int, i: int, depth: int, block: int) -> np.ndarray:
    places = np.arange(1, block + 1, dtype=np.float32)
    return np.exp(-_slope(heads_, i, depth, block) * (block - places[:, None]))


def _pair_decay(heads_: int, i: int, depth: int, block: int) -> np.ndarray:
    ahead = np.arange(block)[:, None] - np.arange(block)
    slope = _slope(heads_, i, depth, block)[None] * ahead.astype(np.float32)
    return np.exp(np.where(slope >= 0, -slope, np.float32(-np.inf)))


_DECAYS: dict[str, Callable[..., np.ndarray]] = {
    "slope_rate": _slope,
    "query_decay": _query_decay,
    "key_decay": _key_decay,
    "diagonal_decay": _pair_decay,
}
