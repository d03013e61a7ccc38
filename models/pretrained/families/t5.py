"""T5 and its version 1.1 as the transformers library keeps them."""

from __future__ import annotations

from seqzoo.models.attention.positions import T5
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import COPIED, Rule, linear, norm

# Feed-forwards by name; the library's gated-gelu is that of the tanh.
FEEDFORWARDS = {"relu": "relu", "gated-gelu": "geglu", "gated-silu": "swiglu"}
TABLE = "layer.0.SelfAttention.relative_attention_bias.weight"
QKVO = (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o"))


def _stack(tensors: str, ours: str, depth: int, last: int, gated: bool) -> tuple[Rule, ...]:
    """A stack of blocks: `last` is the place of the feed-forward among a block's layers."""
    parts = (("wi_0", "gate"), ("wi_1", "up")) if gated else (("wi", "up"),)
    at, block = f"{tensors}.block.{{i}}.layer", f"{ours}blocks.{{i}}"
    ff, tables = f"{at}.{last}.DenseReluDense", f"{ours}blocks.%d.attention.positions.embed"
    return (
        *_heads(f"{at}.0.SelfAttention", f"{block}.attention"),
        *norm(f"{at}.0.layer_norm", f"{block}.norm"),
        *_heads(f"{at}.1.EncDecAttention", f"{block}.reader.cross"),
        *norm(f"{at}.1.layer_norm", f"{block}.reader_norm"),
        *(
            rule
            for theirs, own in (*parts, ("wo", "down"))
            for rule in linear(f"{ff}.{theirs}", f"{block}.ff.{own}_proj")
        ),
        *norm(f"{at}.{last}.layer_norm", f"{block}.ff_norm"),
        Rule(f"{tensors}.block.0.{TABLE}", tuple(tables % i for i in range(depth)), COPIED),
        *norm(f"{tensors}.final_layer_norm", f"{ours}final_norm"),
    )


def _heads(tensor: str, module: str) -> tuple[Rule, ...]:
    return tuple(
        rule
        for ours, theirs in QKVO
        for rule in linear(f"{tensor}.{theirs}", f"{module}.{ours}_proj")
    )


def t5(keys: Keys) -> Translation:
    """T5, version 1.0 or 1.1 (model_type "t5")."""
    keys.fixed(is_encoder_decoder=True, is_decoder=False)
    keys.ignore("dense_act_fn", "is_gated_act")  # both from feed_forward_proj
    d_model, width = keys.size("d_model", 512), keys.size("d_ff", 2048)
    depth = keys.size("num_layers", 6)
    other = keys.size("num_decoder_layers", depth)
    heads = {"num_heads": keys.size("num_heads", 8), "d_head": keys.size("d_kv", 64), "scale": 1.0}
    positions = T5(
        num_buckets=keys.size("relative_attention_num_buckets", 32),
        max_distance=keys.size("relative_attention_max_distance", 128),
    )
    tied = keys.flag("tie_word_embeddings", True)
    # Version 1.0 ties its head and divides what it reads; 1.1 does neither. The library's newest
    # configs say the second by a key of its own.
    scaled = keys.flag("scale_decoder_outputs", tied)
    fields = {
        "d_model": d_model,
        "norm": "rms",
        "norm_eps": keys.number("layer_norm_epsilon", 1e-6),
        "feedforward": keys.choice("feed_forward_proj", FEEDFORWARDS, "relu"),
        "feedforward_bias": False,
        "expansion": width / d_model,
        "init": "t5",
    }
    embedding, gated = "shared.weight", fields["feedforward"] != "relu"
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return Translation(
        vocab=keys.size("vocab_size", 32128),
        length=keys.size("n_positions", 512),
        pattern=("attention",),
        backbone=BackboneConfig(**fields, depth=depth, causal=False),
        decoder=BackboneConfig(**fields, depth=other, tie_embeddings=tied),
        writing={
            "reader": heads,
            "scale": d_model**-0.5 if scaled else 1.0,
            "begin": keys.count("decoder_start_token_id", 0),
        },
        options={**heads, "positions": str(positions), "use_bias": False},
        rules=(
            Rule(embedding, "embed.embedding"),
            *_stack("encoder", "", depth, 1, gated),
            *_stack("decoder", "decoder.", other, 2, gated),
            *linear("lm_head", "out_proj"),
        ),
        unused=(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",),
        tied=dict.fromkeys((*copies, "lm_head.weight") if tied else copies, embedding),
    )
