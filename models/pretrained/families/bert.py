"""BERT and RoFormer as the transformers library keeps them, and the tables of their descendants."""

from __future__ import annotations

from typing import Any

import numpy as np

from seqzoo.models.attention.positions import Deberta, Rope
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.family import ACTIVATIONS, Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import COPIED, TRANSPOSED, Rule, linear, norm

# Names of the first releases.
RENAMED = ((r"\.gamma$", ".weight"), (r"\.beta$", ".bias"))


def head(cls: str = "cls.predictions") -> tuple[Rule, ...]:
    """The masked language model's head."""
    return (
        *linear(f"{cls}.transform.dense", "transform.in_proj"),
        *norm(f"{cls}.transform.LayerNorm", "transform.norm"),
        Rule(f"{cls}.bias", "bias"),
        Rule(f"{cls}.bias", "out_proj.bias"),
        Rule(f"{cls}.decoder.weight", "out_proj.kernel", TRANSPOSED),
    )


def embeddings(prefix: str) -> tuple[Rule, ...]:
    """Tokens, kinds, positions and their norm."""
    return (
        Rule(f"{prefix}.embeddings.word_embeddings.weight", "embed.embedding"),
        Rule(f"{prefix}.embeddings.token_type_embeddings.weight", "type_embed"),
        Rule(f"{prefix}.embeddings.position_embeddings.weight", "position_embed"),
        *norm(f"{prefix}.embeddings.LayerNorm", "embed_norm"),
    )


def layers(prefix: str, mixer: str, attention: str = "attention.self.{}") -> tuple[Rule, ...]:
    """The blocks; `attention` is where queries, keys and values are."""
    at, ours_at = f"{prefix}.encoder.layer.{{i}}", f"blocks.{{i}}.{mixer}"
    return (
        *(
            rule
            for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value"))
            for rule in linear(f"{at}.{attention.format(theirs)}", f"{ours_at}.{ours}_proj")
        ),
        *linear(f"{at}.attention.output.dense", f"{ours_at}.out_proj"),
        *norm(f"{at}.attention.output.LayerNorm", "blocks.{i}.norm"),
        *feedforward(at),
    )


def feedforward(at: str) -> tuple[Rule, ...]:
    """The two maps of a block and the norm behind them."""
    return (
        *linear(f"{at}.intermediate.dense", "blocks.{i}.ff.up_proj"),
        *linear(f"{at}.output.dense", "blocks.{i}.ff.down_proj"),
        *norm(f"{at}.output.LayerNorm", "blocks.{i}.ff_norm"),
    )


def tied_head(prefix: str, cls: str = "cls.predictions") -> dict[str, str]:
    """Copies that some files keep beside the embedding and the bias."""
    return {
        f"{cls}.decoder.weight": f"{prefix}.embeddings.word_embeddings.weight",
        f"{cls}.decoder.bias": f"{cls}.bias",
    }


def backbone(keys: Keys, activation: str = "gelu", kinds: int = 2, **more: Any) -> BackboneConfig:
    """What BERT's descendants share; `activation`, `kinds`: where the config says nothing."""
    d_model = keys.size("hidden_size", 768)
    fields: dict[str, Any] = {
        "d_model": d_model,
        "depth": keys.size("num_hidden_layers", 12),
        "norm": "layer",
        "norm_eps": keys.number("layer_norm_eps", 1e-12),
        "norm_position": "post",
        "embed_norm": True,
        "feedforward": keys.choice("hidden_act", ACTIVATIONS, activation),
        "expansion": keys.size("intermediate_size", 4 * d_model) / d_model,
        "token_types": keys.count("type_vocab_size", kinds),
        "causal": False,
        "pooling": "first",
        "tie_embeddings": keys.flag("tie_word_embeddings", True),
        "head_bias": True,
        "head_transform": True,
    }
    return BackboneConfig(**{**fields, **more})


def bert(keys: Keys) -> Translation:
    """BERT as a masked language model (model_type "bert")."""
    keys.fixed(position_embedding_type="absolute", is_decoder=False)
    keys.ignore("classifier_dropout", "chunk_size_feed_forward")
    return Translation(
        vocab=keys.size("vocab_size", 30522),
        length=keys.size("max_position_embeddings", 512),
        pattern=("attention",),
        backbone=backbone(keys, positions="learned"),
        options=_heads(keys),
        rules=(*embeddings("bert"), *layers("bert", "attention"), *head()),
        renamed=RENAMED,
        unused=(
            r"bert\.pooler\..*",
            r"cls\.seq_relationship\..*",
            r"bert\.embeddings\.position_ids",
        ),
        tied=tied_head("bert") if keys.flag("tie_word_embeddings", True) else {},
    )


def roformer(keys: Keys) -> Translation:
    """RoFormer, masked or causal (model_type "roformer")."""
    d_model, d_embed = keys.size("hidden_size", 768), keys.size("embedding_size", None)
    length = keys.size("max_position_embeddings", 1536)
    options = {
        **_heads(keys),
        "positions": str(Rope(interleaved=True, values=keys.flag("rotary_value", False))),
    }
    d_head = d_model // options["num_heads"]
    width = d_embed if d_embed not in (None, d_model) else 0
    return Translation(
        vocab=keys.size("vocab_size", 50000),
        length=length,
        pattern=("attention",),
        backbone=backbone(keys, embed_width=width, causal=keys.flag("is_decoder", False)),
        options=options,
        rules=(
            *embeddings("roformer"),
            *linear("roformer.embeddings_project", "in_proj"),
            *layers("roformer", "attention"),
            *head(),
        ),
        renamed=RENAMED,
        unused=(r"roformer\.pooler\..*",),
        tied=tied_head("roformer") if keys.flag("tie_word_embeddings", True) else {},
        derived={"roformer.encoder.embed_positions.weight": lambda: _waves(length, d_head)},
    )


def deberta_v2(keys: Keys) -> Translation:
    """DeBERTa v2 and v3 as masked language models (model_type "deberta-v2").

    The table of distances is one tensor of the files and one parameter a layer, alike.
    """
    keys.fixed(relative_attention=True, legacy=True, conv_kernel_size=0)
    keys.ignore("pooler_dropout", "pooler_hidden_act", "pooler_hidden_size")
    keys.ignore("conv_act", "conv_groups", "max_relative_positions")
    kinds, depth = _position_kinds(keys), keys.size("num_hidden_layers", 24)
    length, buckets = keys.size("max_position_embeddings", 512), keys.raw("position_buckets", -1)
    most = keys.config.get("max_relative_positions", -1)
    most = length if most < 1 else most
    normed = keys.choice("norm_rel_ebd", {"none": False, "layer_norm": True}, "none")
    eps = keys.number("layer_norm_eps", 1e-7)
    positions = Deberta(
        num_buckets=2 * (buckets if buckets > 0 else most),
        max_distance=most,
        content_to_position="c2p" in kinds,
        position_to_content="p2c" in kinds,
        shared_projections=keys.flag("share_att_key", False),
        table_norm=eps if normed else None,
    )
    added = keys.flag("position_biased_input", True)
    d_model = keys.size("hidden_size", 1536)
    width = keys.size("embedding_size", d_model)
    at = [f"blocks.{i}.attention.positions" for i in range(depth)]
    theirs = "deberta.encoder.layer.{i}.attention.self"
    return Translation(
        vocab=keys.size("vocab_size", 128100),
        length=length,
        pattern=("attention",),
        backbone=backbone(
            keys,
            kinds=0,
            positions="learned" if added else "none",
            embed_width=0 if width == d_model else width,
            norm_eps=eps,
        ),
        options={**_heads(keys), "positions": str(positions)},
        rules=(
            *embeddings("deberta"),
            Rule("deberta.embeddings.embed_proj.weight", "in_proj.kernel", TRANSPOSED),
            *layers("deberta", "attention", "attention.self.{}_proj"),
            Rule("deberta.encoder.rel_embeddings.weight", tuple(f"{a}.embed" for a in at), COPIED),
            *(
                Rule(f"deberta.encoder.LayerNorm.{n}", tuple(f"{a}.norm.{m}" for a in at), COPIED)
                for n, m in (("weight", "scale"), ("bias", "bias"))
            ),
            *linear(f"{theirs}.pos_key_proj", "blocks.{i}.attention.positions.pos_k_proj"),
            *linear(f"{theirs}.pos_query_proj", "blocks.{i}.attention.positions.pos_q_proj"),
            *head(),
        ),
        renamed=RENAMED,
        unused=(r"(deberta\.)?pooler\..*", r"deberta\.embeddings\.position_ids"),
        tied=tied_head("deberta") if keys.flag("tie_word_embeddings", True) else {},
    )


def _position_kinds(keys: Keys) -> list[str]:
    """Of the terms between contents and positions; old configs join their names by |."""
    said = keys.raw("pos_att_type", None) or []
    kinds = said.lower().split("|") if isinstance(said, str) else said
    if not isinstance(kinds, list) or not kinds or not {*kinds} <= {"c2p", "p2c"}:
        raise ValueError(f"{keys.where}: pos_att_type={said!r} is not handled (only c2p and p2c)")
    return kinds


def _heads(keys: Keys) -> dict[str, Any]:
    return {
        "num_heads": keys.size("num_attention_heads", 12),
        "positions": "none",
        "use_bias": True,
    }


def _waves(length: int, width: int) -> np.ndarray:
    """Sines and then cosines of every position, as the library tabulates rotations."""
    j = np.arange(width) // 2 * 2
    angle = np.arange(length)[:, None] / np.power(10000, j / width)
    waves = np.concatenate([np.sin(angle[:, 0::2]), np.cos(angle[:, 1::2])], axis=1)
    return waves.astype(np.float32)
