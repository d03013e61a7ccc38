"""The checkpoints of flash-linear-attention, whose models share a backbone and its names.

Read of version 0.6: `fla/models/*/modeling_*.py` and `fla/layers`. Layers of softmax attention
among others (`attn`) and residuals of attention (`attnres_block_size`) are not handled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from seqzoo.models.attention.positions import Rope
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.parts import LAYER
from seqzoo.models.pretrained.families.recurrent import ROWS
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import (
    TAPS,
    TRANSPOSED,
    Rule,
    Transform,
    joined,
    linear,
    norm,
    one,
)

AT = f"{LAYER}.attn"
MODEL = (
    Rule("model.embeddings.weight", "embed.embedding"),
    *norm(f"{LAYER}.attn_norm", "blocks.{i}.norm"),
    *norm("model.norm", "final_norm"),
    *linear("lm_head", "out_proj"),
)
GATED = (
    *norm(f"{LAYER}.mlp_norm", "blocks.{i}.ff_norm"),
    *(
        rule
        for part in ("gate", "up", "down")
        for rule in linear(f"{LAYER}.mlp.{part}_proj", f"blocks.{{i}}.ff.{part}_proj")
    ),
)
TIED = {"lm_head.weight": "model.embeddings.weight"}


def gla(keys: Keys) -> Translation:
    """Gated linear attention (model_type "gla")."""
    keys.fixed(use_gk=True, use_gv=False, clamp_min=None)
    ours = "blocks.{i}.gla"
    rules = (
        *_projections(ours, "qkv"),
        *linear(f"{AT}.gk_proj.0", f"{ours}.in_proj"),
        Rule(f"{AT}.gk_proj.1.weight", f"{ours}.decay_proj.kernel", TRANSPOSED),
        Rule(f"{AT}.gk_proj.1.bias", f"{ours}.decay"),
        *_gate(ours, "g_norm_swish_gate", "g_norm"),
    )
    return _translated(keys, "gla", _heads(keys, 4, 0.5, 1.0), rules)


def retnet(keys: Keys) -> Translation:
    """RetNet (model_type "retnet")."""
    ours = "blocks.{i}.retnet"
    rules = (*_projections(ours, "qkv"), *_gate(ours, "g_norm_swish_gate", "g_norm"))
    return _translated(keys, "retnet", _heads(keys, 8, 1.0, 2.0), rules, ratio=2)


def delta_net(keys: Keys) -> Translation:
    """DeltaNet (model_type "delta_net")."""
    keys.fixed(use_gate=False, use_beta=True, use_output_norm=True)
    keys.fixed(qk_norm="l2", qk_activation="silu")
    options = _heads(keys, 16, 1.0, 1.0) | _delta(keys)
    wide = [options["num_heads"] * options[name] for name in ("d_key", "d_key", "d_value")]
    ours = "blocks.{i}.deltanet"
    rules = (*_convolved(ours, wide), *linear(f"{AT}.b_proj", f"{ours}.in_proj"))
    return _translated(keys, "deltanet", options, (*rules, *_gate(ours, "o_norm")))


def gated_deltanet(keys: Keys) -> Translation:
    """Gated DeltaNet (model_type "gated_deltanet")."""
    keys.fixed(use_gate=True)
    keys.choice("output_gate_activation", {"swish": 0, "silu": 0}, "swish")
    heads, width = keys.size("num_heads", 6), keys.size("head_dim", 256)
    values = keys.size("num_v_heads", heads)
    sizes = {"d_key": width, "d_value": int(width * keys.number("expand_v", 2.0))}
    options = {"num_heads": heads, "num_value_heads": values, **sizes, **_delta(keys)}
    wide = [heads * width, heads * width, values * sizes["d_value"]]
    ours = "blocks.{i}.gated_deltanet"
    rules = (
        *_convolved(ours, wide),
        Rule(
            tuple(f"{AT}.{n}_proj.weight" for n in "ba"),
            f"{ours}.in_proj.kernel",
            joined(1, [values] * 2),
        ),
        Rule(f"{AT}.A_log", f"{ours}.decay.A_log"),
        Rule(f"{AT}.dt_bias", f"{ours}.decay.dt_bias"),
        *_gate(ours, "o_norm"),
    )
    return _translated(keys, "gated_deltanet", options, rules)


def hgrn2(keys: Keys) -> Translation:
    """HGRN2 (model_type "hgrn2").

    Bounds of all layers are one tensor, of which they are running sums of a softmax; what is saved
    is its logarithm, equal up to one number a channel. The norm has an eps of its own, of outputs
    that are divided by sqrt(K).
    """
    keys.fixed(elementwise_affine=True)
    d_model, depth = keys.size("hidden_size", 2048), keys.size("num_hidden_layers", 24)
    width = keys.size("expand_ratio", None) or d_model // keys.size("num_heads")
    heads, learned = d_model // width, keys.flag("use_lower_bound", True)
    keys.ignore("num_heads")  # follows
    ours = "blocks.{i}.hgrn2"
    rules = (
        *(
            rule
            for our, their in (("q", "q"), ("k", "f"), ("v", "i"), ("out", "o"))
            for rule in linear(f"{AT}.{their}_proj", f"{ours}.{our}_proj")
        ),
        *norm(f"{AT}.g_norm", f"{ours}.norm"),
        Rule("model.lower_bounds", tuple(f"blocks.{i}.hgrn2.bound" for i in range(depth)), BOUNDS),
    )
    options = {"num_heads": heads, "d_key": width, "norm_eps": 1e-5 * width}
    options |= {"learned_bound": True} if learned else {"lower_bound": 0.0}
    return _translated(keys, "hgrn2", options, rules)


def _bounds(x: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    shares = jax.nn.softmax(x[0].astype(jnp.float32), axis=0)
    return list(jnp.cumsum(shares, axis=0) - shares[0])


def _shares(x: Sequence[Array]) -> list[Array]:
    bounds = jnp.stack(x)
    return [jnp.log(jnp.concatenate([1 - bounds[-1:], jnp.diff(bounds, axis=0)]))]


BOUNDS = Transform(_bounds, _shares)
# What the first layer has no use for: it is the value that the others are moved towards.
NOTHING = Transform(lambda x, shapes: [jnp.zeros(shape) for shape in shapes], lambda x: [])
ONE_ROW = one(lambda x: x[None], lambda x: x[0])
STACKED = Transform(lambda x, _: [jnp.stack(x)], lambda x: list(x[0]))
_7 = "blocks.{i}.rwkv7"
RWKV7 = (
    Rule((), tuple(f"blocks.0.rwkv7.value_of.{n}" for n in ("in_proj.kernel",)), NOTHING),
    Rule((), tuple(f"blocks.0.rwkv7.value_of.out_proj.{n}" for n in ("kernel", "bias")), NOTHING),
    *norm(f"{LAYER}.attn_norm", "blocks.{i}.norm"),
    *norm(f"{LAYER}.ffn_norm", "blocks.{i}.ff_norm"),
    *norm("model.layers.0.pre_norm", "embed_norm"),
    *(
        rule
        for our, their in (("q", "r"), ("k", "k"), ("v", "v"), ("out", "o"))
        for rule in linear(f"{AT}.{their}_proj", f"{_7}.{our}_proj")
    ),
    Rule(tuple(f"{AT}.x_{n}" for n in "rwkvag"), f"{_7}.mix", ROWS),
    Rule((f"{AT}.k_k", f"{AT}.k_a"), f"{_7}.key_scale", STACKED),
    Rule(f"{AT}.w_lora.lora.2.bias", f"{_7}.decay"),
    *(
        rule
        for our, their in (("decay", "w"), ("strength", "a"), ("value", "v"), ("gate", "g"))
        for place, part in ((0, "in_proj"), (2, "out_proj"))
        for rule in linear(f"{AT}.{their}_lora.lora.{place}", f"{_7}.{our}_of.{part}")
    ),
    *norm(f"{AT}.g_norm", _7),
    Rule(f"{LAYER}.ffn.x_k", "blocks.{i}.ff.mix", ONE_ROW),
    *linear(f"{LAYER}.ffn.key", "blocks.{i}.ff.up_proj"),
    *linear(f"{LAYER}.ffn.value", "blocks.{i}.ff.down_proj"),
)


def rwkv7(keys: Keys) -> Translation:
    """RWKV-7 (model_type "rwkv7")."""
    d_model, depth = keys.size("hidden_size", 2048), keys.size("num_hidden_layers", 24)
    keys.fixed(norm_first=True, norm_bias=True, hidden_act="sqrelu")
    width = keys.size("head_dim", None) or d_model // keys.size("num_heads")
    keys.ignore("num_heads")
    values = keys.raw("value_dim", None)
    if values not in (None, d_model, [d_model] * depth):
        raise ValueError(f"{keys.where}: value_dim={values!r} is not handled (only {d_model} is)")
    rank, eps = keys.size("decay_low_rank_dim", 64), keys.number("norm_eps", 1e-5)
    keys.fixed(a_low_rank_dim=rank)
    heads = d_model // width
    bonus = one(jnp.ravel, lambda x: x.reshape(heads, width))
    hidden = keys.size("intermediate_size", None)
    if hidden is None:
        hidden = -(-int(d_model * keys.number("hidden_ratio", 4)) // 32) * 32
    block = {"norm": "layer", "feedforward": "rwkv7", "embed_norm": True}
    options = {
        "num_heads": heads,
        "decay_rank": rank,
        "value_rank": keys.size("v_low_rank_dim", 16),
        "gate_rank": keys.size("gate_low_rank_dim", 128),
        "norm_eps": width * eps,
    }
    rules = (*RWKV7, Rule(f"{AT}.r_k", f"{_7}.bonus", bonus))
    return _translated(keys, "rwkv7", options, rules, hidden=hidden, norm_eps=eps, **block)


def transformer(keys: Keys) -> Translation:
    """The library's own Transformer (model_type "transformer")."""
    keys.fixed(elementwise_affine=True)
    ours, heads = "blocks.{i}.attention", keys.size("num_heads", 32)
    rules = (
        *_projections(ours, "qkv"),
        *linear(f"{AT}.o_proj", f"{ours}.out_proj"),
        *norm(f"{AT}.q_norm", f"{ours}.qk_norm.0"),
        *norm(f"{AT}.k_norm", f"{ours}.qk_norm.1"),
    )
    options = {
        "num_heads": heads,
        "num_kv_heads": keys.size("num_kv_heads", heads),
        "positions": str(Rope(base=keys.number("rope_theta", 10000.0))),
        "use_bias": keys.flag("qkv_bias", False),
        "out_bias": False,
        "qk_norm": keys.flag("qk_norm", False),
        "norm_eps": 1e-5,  # of queries and keys, whatever the config says of the others
        "window": keys.size("window_size", None),
    }
    return _translated(keys, "attention", options, rules)


def _projections(ours: str, names: str) -> tuple[Rule, ...]:
    return tuple(r for n in names for r in linear(f"{AT}.{n}_proj", f"{ours}.{n}_proj"))


def _convolved(ours: str, wide: Sequence[int]) -> tuple[Rule, ...]:
    """Queries, keys and values with their convolution, which is three there."""
    convs = tuple(f"{AT}.{n}_conv1d.weight" for n in "qkv")
    kernel = Rule(convs, f"{ours}.qkv.conv.kernel", joined(1, wide, TAPS))
    return (*_projections(f"{ours}.qkv", "qkv"), kernel)


def _gate(ours: str, *norms: str) -> tuple[Rule, ...]:
    """What comes behind the heads; the norm has one name where it is fused, and another."""
    return (
        *(Rule(f"{AT}.{name}.weight", f"{ours}.norm.scale") for name in norms),
        *linear(f"{AT}.g_proj", f"{ours}.gate_proj"),
        *linear(f"{AT}.o_proj", f"{ours}.out_proj"),
    )


def _heads(keys: Keys, heads: int, key: float, value: float) -> dict[str, Any]:
    """Heads and widths; the numbers are those of a config that says nothing."""
    d_model, heads = keys.size("hidden_size", 2048), keys.size("num_heads", heads)
    keys.fixed(num_kv_heads=heads) if keys.config.get("num_kv_heads") is not None else None
    keys.ignore("num_kv_heads")
    widths = {
        "d_key": d_model * keys.number("expand_k", key) / heads,
        "d_value": d_model * keys.number("expand_v", value) / heads,
    }
    if any(width != int(width) or width < 1 for width in widths.values()):
        raise ValueError(f"{keys.where}: {heads} heads have the widths {widths}, no whole numbers")
    return {"num_heads": heads, **{name: int(width) for name, width in widths.items()}}


def _delta(keys: Keys) -> dict[str, Any]:
    short = keys.flag("use_short_conv", True)
    return {
        "d_conv": keys.size("conv_size", 4) if short else 0,
        "allow_negative_eigenvalues": keys.flag("allow_neg_eigval", False),
    }


def _translated(
    keys: Keys,
    mixer: str,
    options: Mapping[str, Any],
    rules: tuple[Rule, ...],
    *,
    ratio: int = 4,
    hidden: int | None = None,
    **block: Any,
) -> Translation:
    """A model of one kind of layer.

    The feed-forward is gated, of `ratio` where the config says nothing, unless `hidden` is given.
    """
    keys.fixed(attn=None, attnres_block_size=None, feature_map=None)
    if "use_short_conv" not in keys.read:
        keys.fixed(use_short_conv=False)
    keys.fixed(use_output_gate=True, elementwise_affine=True)
    keys.ignore("attn_mode", "use_l2warp", "hidden_ratio", "conv_size", "expand_ratio")
    d_model, tied = keys.size("hidden_size", 2048), keys.flag("tie_word_embeddings", False)
    if hidden is None:
        rules = (*GATED, *rules)
        keys.fixed(hidden_act="swish")
        hidden = keys.size("intermediate_size", None)
    if hidden is None:
        ratio = keys.number("hidden_ratio", ratio)
        hidden = -(-int(d_model * ratio * 2 / 3) // 256) * 256
    eps = keys.number("norm_eps", 1e-6)
    fields = {"norm": "rms", "feedforward": "swiglu", "feedforward_bias": False, **block}
    backbone = BackboneConfig(
        d_model=d_model,
        depth=keys.size("num_hidden_layers", 24),
        expansion=hidden / d_model,
        tie_embeddings=tied,
        head_bias=False,
        **{"norm_eps": eps, **fields},
    )
    ours = {"norm_eps": eps, **options}
    return Translation(
        vocab=keys.size("vocab_size", 32000),
        length=keys.size("max_position_embeddings", 2048),
        pattern=(mixer,),
        backbone=backbone,
        options=ours,
        rules=(*MODEL, *rules),
        tied=TIED if tied else {},
    )
