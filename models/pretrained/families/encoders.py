"""Longformer, FNet, Nystromformer and XLNet as the transformers library keeps them."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.families.bert import (
    RENAMED,
    backbone,
    embeddings,
    feedforward,
    head,
    layers,
    tied_head,
)
from seqzoo.models.pretrained.family import ACTIVATIONS, Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import TRANSPOSED, Rule, Transform, linear, norm, one

_GLOBAL = "longformer.encoder.layer.{i}.attention.self"
LONGFORMER = (
    *embeddings("longformer"),
    *layers("longformer", "longformer"),
    *(
        rule
        for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value"))
        for rule in linear(
            f"{_GLOBAL}.{theirs}_global", f"blocks.{{i}}.longformer.global_proj.{ours}_proj"
        )
    ),
    *linear("lm_head.dense", "transform.in_proj"),
    *norm("lm_head.layer_norm", "transform.norm"),
    Rule("lm_head.bias", "bias"),
    Rule("lm_head.bias", "out_proj.bias"),
    Rule("lm_head.decoder.weight", "out_proj.kernel", TRANSPOSED),
)


def longformer(keys: Keys) -> Translation:
    """Longformer as a masked language model (model_type "longformer").

    The first token of a segment is global, or those of `from_pretrained(..., global_positions=)`.
    """
    depth, offset = keys.size("num_hidden_layers", 12), keys.count("pad_token_id", 1) + 1
    keys.fixed(hidden_act="gelu")
    keys.fixed(position_embedding_type="absolute", attention_mode="longformer")
    keys.ignore("onnx_export")
    windows = keys.raw("attention_window", 512)
    windows = [windows] * depth if isinstance(windows, int) else windows
    if (
        not isinstance(windows, list)
        or len(windows) != depth
        or any(type(w) is not int or w < 2 or w % 2 for w in windows)
    ):
        raise ValueError(
            f"{keys.where}: attention_window must be even, one number or one a layer; got "
            f"{windows!r}"
        )
    tokens = "longformer.embeddings.word_embeddings.weight"
    tied = {"lm_head.decoder.weight": tokens, "lm_head.decoder.bias": "lm_head.bias"}
    return Translation(
        vocab=keys.size("vocab_size", 30522),
        length=keys.size("max_position_embeddings", 512) - offset,
        pattern=("longformer",) * depth,
        backbone=backbone(
            keys,
            arrangement="listed",
            each=tuple({"mixer": {"window": w // 2 + 1}} for w in windows),
            positions="learned",
            position_offset=offset,
        ),
        options={**_heads(keys), "positions": "none"},
        rules=LONGFORMER,
        renamed=RENAMED,
        unused=(r"longformer\.pooler\..*", r"longformer\.embeddings\.position_ids"),
        tied=tied if keys.flag("tie_word_embeddings", True) else {},
    )


_FNET = "fnet.encoder.layer.{i}"
FNET = (
    *embeddings("fnet"),
    *linear("fnet.embeddings.projection", "in_proj"),
    *norm(f"{_FNET}.fourier.output.LayerNorm", "blocks.{i}.norm"),
    *feedforward(_FNET),
    *head(),
)


def fnet(keys: Keys) -> Translation:
    """FNet as a masked language model (model_type "fnet")."""
    keys.ignore("use_tpu_fourier_optimizations", "tpu_short_seq_length")  # of speed
    d_model = keys.size("hidden_size", 768)
    return Translation(
        vocab=keys.size("vocab_size", 32000),
        length=keys.size("max_position_embeddings", 512),
        pattern=("fnet",),
        backbone=backbone(keys, "gelu_new", 4, positions="learned", embed_width=d_model),
        rules=FNET,
        renamed=RENAMED,
        unused=(
            r"fnet\.pooler\..*",
            r"cls\.seq_relationship\..*",
            r"fnet\.embeddings\.position_ids",
        ),
        tied=tied_head("fnet") if keys.flag("tie_word_embeddings", True) else {},
    )


COLUMN = one(lambda x: x[:, 0, :, 0].T, lambda x: x.T[:, None, :, None])
_NYSTROM = "nystromformer.encoder.layer.{i}.attention.self"
NYSTROMFORMER = (
    *embeddings("nystromformer"),
    *layers("nystromformer", "nystromformer"),
    Rule(f"{_NYSTROM}.conv.weight", "blocks.{i}.nystromformer.conv", COLUMN),
    *head(),
)


def nystromformer(keys: Keys) -> Translation:
    """Nystromformer as a masked language model (model_type "nystromformer")."""
    keys.fixed(inv_coeff_init_option=False)
    landmarks = keys.size("num_landmarks", 64)
    if landmarks == keys.size("segment_means_seq_len", 64):
        raise ValueError(
            f"{keys.where}: as many landmarks as tokens, {landmarks}, is exact attention in the "
            "library, which is not handled"
        )
    options = {
        **_heads(keys),
        "landmarks": landmarks,
        "conv_width": keys.size("conv_kernel_size", 0),
        "shared_start": True,
    }
    return Translation(
        vocab=keys.size("vocab_size", 30000),
        length=keys.size("max_position_embeddings", 510),
        pattern=("nystromformer",),
        backbone=backbone(keys, "gelu_new", positions="learned", position_offset=2),
        options=options,
        rules=NYSTROMFORMER,
        renamed=RENAMED,
        unused=(r"nystromformer\.embeddings\.position_ids",),
        tied=tied_head("nystromformer") if keys.flag("tie_word_embeddings", True) else {},
    )


def _split_heads(width: int) -> Transform:
    """A kernel [D, H K] that the files keep as [D, H, K]."""
    return one(lambda x: x.reshape(x.shape[0], -1), lambda x: x.reshape(x.shape[0], -1, width))


def _out(width: int) -> Transform:
    """An output projection [H K, D] that the files keep as [D, H, K]."""
    return one(lambda x: x.reshape(x.shape[0], -1).T, lambda x: x.T.reshape(x.shape[1], -1, width))


def _waves(width: int) -> Transform:
    """Of a projection of sines and cosines: theirs come one after another, ours in turn."""
    return one(
        lambda x: jnp.swapaxes(x.reshape(2, x.shape[0] // 2, -1), 0, 1).reshape(x.shape[0], -1),
        lambda x: jnp.swapaxes(x.reshape(-1, 2, x.shape[1]), 0, 1).reshape(x.shape[0], -1, width),
    )


PAIR = Transform(lambda x, _: [jnp.stack(x)], lambda x: [x[0][0], x[0][1]])


def xlnet_rules(width: int) -> tuple[Rule, ...]:
    """The table of XLNet; `width`: of a head."""
    at, ours = "transformer.layer.{i}", "blocks.{i}.attention"
    return (
        Rule("transformer.word_embedding.weight", "embed.embedding"),
        *(
            Rule(f"{at}.rel_attn.{n}", f"{ours}.{n}_proj.kernel", _split_heads(width))
            for n in "qkv"
        ),
        Rule(f"{at}.rel_attn.o", f"{ours}.out_proj.kernel", _out(width)),
        Rule(f"{at}.rel_attn.r", f"{ours}.positions.pos_proj.kernel", _waves(width)),
        Rule(
            (f"{at}.rel_attn.r_w_bias", f"{at}.rel_attn.r_r_bias"),
            f"{ours}.positions.bias",
            PAIR,
        ),
        *linear(f"{at}.ff.layer_1", "blocks.{i}.ff.up_proj"),
        *linear(f"{at}.ff.layer_2", "blocks.{i}.ff.down_proj"),
        *norm(f"{at}.rel_attn.layer_norm", "blocks.{i}.norm"),
        *norm(f"{at}.ff.layer_norm", "blocks.{i}.ff_norm"),
        Rule("lm_loss.bias", "bias"),
        Rule("lm_loss.bias", "out_proj.bias"),
        Rule("lm_loss.weight", "out_proj.kernel", TRANSPOSED),
    )


def xlnet(keys: Keys) -> Translation:
    """XLNet reading whole rows, without permutation, memory and segments ("xlnet")."""
    d_model, heads = keys.size("d_model", 1024), keys.size("n_head", 16)
    keys.fixed(attn_type="bi", bi_data=False, clamp_len=-1, same_length=False, untie_r=True)
    keys.fixed(d_head=d_model // heads)
    keys.ignore("mem_len", "reuse_len", "use_mems_eval", "use_mems_train")  # memory that is given
    keys.ignore("start_n_top", "end_n_top")  # of another head
    tied = keys.flag("tie_word_embeddings", True)
    made = BackboneConfig(
        d_model=d_model,
        depth=keys.size("n_layer", 24),
        norm="layer",
        norm_eps=keys.number("layer_norm_eps", 1e-12),
        norm_position="post",
        feedforward=keys.choice("ff_activation", ACTIVATIONS, "gelu"),
        expansion=keys.size("d_inner", 4096) / d_model,
        causal=False,
        tie_embeddings=tied,
        head_bias=True,
    )
    return Translation(
        vocab=keys.size("vocab_size", 32000),
        length=2048,
        pattern=("attention",),
        backbone=made,
        options={"num_heads": heads, "positions": "transformer_xl"},
        rules=xlnet_rules(d_model // heads),
        unused=(
            r"transformer\.mask_emb",
            r"transformer\.layer\.\d+\.rel_attn\.(r_s_bias|seg_embed)",
        ),
        tied={"lm_loss.weight": "transformer.word_embedding.weight"} if tied else {},
    )


def _heads(keys: Keys) -> dict[str, Any]:
    return {"num_heads": keys.size("num_attention_heads", 12), "use_bias": True}
