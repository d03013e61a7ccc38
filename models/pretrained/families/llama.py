"""Llama and GPT-2 as the transformers library keeps them."""

from __future__ import annotations

from collections.abc import Sequence

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.family import ACTIVATIONS, GATED, Translation, rope
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import SAME, Rule, linear, norm, split


def decoder(last: str = "model.norm", second: str = "post_attention_layernorm") -> tuple[Rule, ...]:
    """Embedding, the norms of the blocks, the last one and the head."""
    return (
        Rule("model.embed_tokens.weight", "embed.embedding"),
        *norm("model.layers.{i}.input_layernorm", "blocks.{i}.norm"),
        *norm(f"model.layers.{{i}}.{second}", "blocks.{i}.ff_norm"),
        *norm(last, "final_norm"),
        *linear("lm_head", "out_proj"),
    )


QKVO = (("q", "q"), ("k", "k"), ("v", "v"), ("out", "o"))


def heads(
    tensor: str = "model.layers.{i}.self_attn",
    block: str = "blocks.{i}.attention",
    names: Sequence[tuple[str, str]] = QKVO,
) -> tuple[Rule, ...]:
    """The four projections of attention."""
    return tuple(
        rule
        for ours, theirs in names
        for rule in linear(f"{tensor}.{theirs}_proj", f"{block}.{ours}_proj")
    )


def gated(tensor: str = "model.layers.{i}.mlp", block: str = "blocks.{i}.ff"):
    """A gated feed-forward."""
    return tuple(
        rule
        for part in ("gate", "up", "down")
        for rule in linear(f"{tensor}.{part}_proj", f"{block}.{part}_proj")
    )


LLAMA = (*decoder(), *heads(), *gated())
UNUSED = (r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",)


def llama(keys: Keys) -> Translation:
    """Llama 1 to 3 (model_type "llama")."""
    d_model, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    if d_model % heads and "head_dim" not in keys.config:
        raise ValueError(f"{heads} heads do not divide hidden_size={d_model}")
    d_head = keys.size("head_dim", d_model // heads)
    options = {
        **rope(keys, d_head),
        "num_heads": heads,
        "num_kv_heads": keys.size("num_key_value_heads", heads),
        "d_head": d_head,
        "use_bias": keys.flag("attention_bias", False),
    }
    tied = keys.flag("tie_word_embeddings", False)
    backbone = BackboneConfig(
        d_model=d_model,
        depth=keys.size("num_hidden_layers"),
        norm="rms",
        norm_eps=keys.number("rms_norm_eps", 1e-6),
        feedforward=keys.choice("hidden_act", GATED, "silu"),
        feedforward_bias=keys.flag("mlp_bias", False),
        expansion=keys.size("intermediate_size") / d_model,
        tie_embeddings=tied,
        head_bias=False,
    )
    return Translation(
        vocab=keys.size("vocab_size"),
        length=keys.size("max_position_embeddings", 2048),
        pattern=("attention",),
        backbone=backbone,
        options=options,
        rules=LLAMA,
        unused=UNUSED,
        tied={"lm_head.weight": "model.embed_tokens.weight"} if tied else {},
    )


_QKV = tuple(f"blocks.{{i}}.attention.{n}_proj" for n in "qkv")
_H = "transformer.h.{i}"


def conv1d(tensor: str, module: str) -> tuple[Rule, ...]:
    """GPT-2's linear maps, whose kernels are [in, out] as ours."""
    return Rule(f"{tensor}.weight", f"{module}.kernel"), Rule(f"{tensor}.bias", f"{module}.bias")


GPT2 = (
    Rule("transformer.wte.weight", "embed.embedding"),
    Rule("transformer.wpe.weight", "position_embed"),
    Rule(f"{_H}.attn.c_attn.weight", tuple(f"{m}.kernel" for m in _QKV), split(-1, SAME)),
    Rule(f"{_H}.attn.c_attn.bias", tuple(f"{m}.bias" for m in _QKV), split(-1, SAME)),
    *conv1d(f"{_H}.attn.c_proj", "blocks.{i}.attention.out_proj"),
    *conv1d(f"{_H}.mlp.c_fc", "blocks.{i}.ff.up_proj"),
    *conv1d(f"{_H}.mlp.c_proj", "blocks.{i}.ff.down_proj"),
    *norm(f"{_H}.ln_1", "blocks.{i}.norm"),
    *norm(f"{_H}.ln_2", "blocks.{i}.ff_norm"),
    *norm("transformer.ln_f", "final_norm"),
    *linear("lm_head", "out_proj"),
)


def gpt2(keys: Keys) -> Translation:
    """GPT-2 (model_type "gpt2")."""
    keys.fixed(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False)
    keys.ignore("reorder_and_upcast_attn", "n_ctx")  # of precision; n_positions again
    d_model = keys.size("n_embd", 768)
    length = keys.size("n_positions", 1024)
    tied = keys.flag("tie_word_embeddings", True)
    backbone = BackboneConfig(
        d_model=d_model,
        depth=keys.size("n_layer", 12),
        norm="layer",
        norm_eps=keys.number("layer_norm_epsilon", 1e-5),
        feedforward=keys.choice("activation_function", ACTIVATIONS, "gelu_new"),
        expansion=keys.size("n_inner", 4 * d_model) / d_model,
        positions="learned",
        tie_embeddings=tied,
        head_bias=False,
    )
    options = {"num_heads": keys.size("n_head", 12), "positions": "none", "use_bias": True}
    return Translation(
        vocab=keys.size("vocab_size", 50257),
        length=length,
        pattern=("attention",),
        backbone=backbone,
        options=options,
        rules=GPT2,
        renamed=((r"^(wte|wpe|h|ln_f)\.", r"transformer.\1."),),
        unused=(r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",),  # masks
        tied={"lm_head.weight": "transformer.wte.weight"} if tied else {},
    )
