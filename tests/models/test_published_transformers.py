"""Published models whose tables of relative positions are one for all layers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import ModelSpec, build_model, default_backbone
from tests.golden import golden
from tests.helpers import assert_close

RATIO = 1e-5


def build(preset, options, expansion=2.0, depth=2, **changes):
    sizes = {"d_model": 16, "depth": depth, "expansion": expansion, "scan": False}
    config = dataclasses.replace(default_backbone(preset), **sizes, **changes)
    spec = ModelSpec(head="lm", vocab_size=37, outputs=37, length=40)
    return build_model(spec, preset, config, options, rngs=nnx.Rngs(0))


def blocks(model):
    return model.encoder.backbone.stack.units


def put_norm(norm, w, name):
    norm.norm.scale[...] = jnp.asarray(w[f"{name}.weight"])
    if f"{name}.bias" in w:
        norm.norm.bias[...] = jnp.asarray(w[f"{name}.bias"])


def linear(module, w, name):
    module.kernel[...] = jnp.asarray(w[f"{name}.weight"].T)
    if module.bias is not None:
        module.bias[...] = jnp.asarray(w[f"{name}.bias"])


def load_bert(w, prefix, options, attention="attention.self.{}", **changes):
    """BERT and what kept its blocks; `options` of attention, `changes` of the backbone."""
    model = build("bert", {"num_heads": 2, **options}, **changes)
    encoder = model.encoder
    table = w[f"{prefix}.embeddings.word_embeddings.weight"]
    kind = w.get(f"{prefix}.embeddings.token_type_embeddings.weight")
    kind = 0 if kind is None else kind[0]  # all tokens are of the first kind
    encoder.embed.embedding[...] = jnp.asarray(table + kind)
    put_norm(encoder.norm, w, f"{prefix}.embeddings.LayerNorm")
    for i, block in enumerate(blocks(model)):
        at = f"{prefix}.encoder.layer.{i}."
        for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            linear(getattr(block.mixer, ours), w, at + attention.format(theirs))
        linear(block.mixer.out_proj, w, f"{at}attention.output.dense")
        linear(block.feedforward.up_proj, w, f"{at}intermediate.dense")
        linear(block.feedforward.down_proj, w, f"{at}output.dense")
        put_norm(block.norm, w, f"{at}attention.output.LayerNorm")
        put_norm(block.ff_norm, w, f"{at}output.LayerNorm")
    return model, lambda h: masked_head(h, w, table, changes.get("norm_eps", 1e-12))


def masked_head(h, w, table, eps):
    """BERT's language-model head, which is no part of ours."""
    name = "cls.predictions"
    h = h @ w[f"{name}.transform.dense.weight"].T + w[f"{name}.transform.dense.bias"]
    h = np.asarray(jax.nn.gelu(jnp.asarray(h), approximate=False))
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + eps)
    h = h * w[f"{name}.transform.LayerNorm.weight"] + w[f"{name}.transform.LayerNorm.bias"]
    return h @ table.T + w[f"{name}.bias"]


def check_encoder(model, head, case):
    """Logits of whole rows, and of rows with padding on the right."""
    run = jax.jit(model.encoder)
    ones = jnp.ones(case["input_ids"].shape, jnp.int32)
    logits = head(np.asarray(run(case["input_ids"], ones)))
    assert_close(logits, case["logits"], ratio=RATIO)
    if "logits_masked" not in case:
        return
    real = case["attention_mask"] > 0
    logits = head(np.asarray(run(case["input_ids"], case["attention_mask"])))
    assert_close(logits[real], case["logits_masked"][real], ratio=RATIO)


@pytest.mark.of_the_day("published DeBERTa", 3)
def test_deberta():
    w = golden("hf/deberta_v2_mlm/model") | golden("hf/deberta_v2_mlm/io")
    options = {"positions": "deberta:num_buckets=8,max_distance=32"}
    where = "attention.self.{}_proj"
    model, head = load_bert(w, "deberta", options, where, positions="none", norm_eps=1e-7)
    rows = w["deberta.encoder.rel_embeddings.weight"]
    rows = (rows - rows.mean(-1, keepdims=True)) / np.sqrt(rows.var(-1, keepdims=True) + 1e-7)
    rows = rows * w["deberta.encoder.LayerNorm.weight"] + w["deberta.encoder.LayerNorm.bias"]
    for block in blocks(model):
        plug = block.mixer.positions
        plug.embed[...] = jnp.asarray(rows)
        content = block.mixer.k_proj, block.mixer.q_proj  # which they share (share_att_key)
        for ours, theirs in zip((plug.pos_k_proj, plug.pos_q_proj), content, strict=True):
            ours.kernel[...], ours.bias[...] = theirs.kernel[...], theirs.bias[...]
    check_encoder(model, head, w)


@pytest.mark.of_the_day("published T5", 3)
def test_t5_encoder():
    w = golden("hf/t5_enc_dec/model") | golden("hf/t5_enc_dec/io")
    options = {"num_heads": 2, "d_head": 6, "positions": "t5:num_buckets=8,max_distance=16"}
    model = build("t5_encoder", options)
    model.encoder.embed.embedding[...] = jnp.asarray(w["shared.weight"])
    for i, block in enumerate(blocks(model)):
        at = f"encoder.block.{i}.layer."
        for name in ("q", "k", "v"):
            linear(getattr(block.mixer, f"{name}_proj"), w, f"{at}0.SelfAttention.{name}")
        linear(block.mixer.out_proj, w, f"{at}0.SelfAttention.o")
        first = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        block.mixer.positions.embed[...] = jnp.asarray(w[first])
        linear(block.feedforward.up_proj, w, f"{at}1.DenseReluDense.wi")
        linear(block.feedforward.down_proj, w, f"{at}1.DenseReluDense.wo")
        put_norm(block.norm, w, f"{at}0.layer_norm")
        put_norm(block.ff_norm, w, f"{at}1.layer_norm")
    put_norm(model.encoder.backbone.norm, w, "encoder.final_layer_norm")
    y = jax.jit(model.encoder)(w["input_ids"])
    assert_close(y, w["encoder_last_hidden_state"], ratio=RATIO)
