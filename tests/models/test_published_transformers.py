"""Whole models with the weights of published ones: blocks, positions, norms, embeddings."""

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
KEPT = 12  # logits of each position that the files keep


def build(preset, options, expansion=2.0, depth=2, **changes):
    sizes = {"d_model": 16, "depth": depth, "expansion": expansion, "scan": False}
    config = dataclasses.replace(default_backbone(preset), **sizes, **changes)
    spec = ModelSpec(head="lm", vocab_size=37, outputs=37, length=40)
    return build_model(spec, preset, config, options, rngs=nnx.Rngs(0))


def blocks(model):
    return model.encoder.backbone.stack.units


def put(module, weight, bias=None, turn=True):
    """A torch Linear [out, in] or, with turn=False, a kernel [in, out]."""
    module.kernel[...] = jnp.asarray(weight.T if turn else weight)
    if module.bias is not None:
        module.bias[...] = jnp.zeros_like(module.bias[...]) if bias is None else jnp.asarray(bias)


def put_norm(norm, w, name):
    norm.norm.scale[...] = jnp.asarray(w[f"{name}.weight"])
    if f"{name}.bias" in w:
        norm.norm.bias[...] = jnp.asarray(w[f"{name}.bias"])


def linear(module, w, name):
    put(module, w[f"{name}.weight"], w.get(f"{name}.bias"))


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
    logits = head(np.asarray(run(case["input_ids"], ones)))[..., :KEPT]
    assert_close(logits, case["logits"], ratio=RATIO)
    if "logits_masked" not in case:
        return
    real = case["attention_mask"] > 0
    logits = head(np.asarray(run(case["input_ids"], case["attention_mask"])))[..., :KEPT]
    assert_close(logits[real], case["logits_masked"][real], ratio=RATIO)


def check_decoder(model, case, head=lambda logits: logits, part=lambda model: model):
    """Logits of whole rows, one token at a time, and of half a row and then one at a time."""
    part = part(model)
    tokens = case["input_ids"]
    logits = head(np.asarray(jax.jit(part)(tokens)))[..., :KEPT]
    assert_close(logits, case["logits"], ratio=RATIO)
    step, length = jax.jit(lambda x, s: part.extend(x, s)), tokens.shape[1]
    for first, name in ((1, "logits_stepwise"), (length // 2, "logits_prefill_then_steps")):
        y, state = step(tokens[:, :first], part.init_state(len(tokens)))
        out = [np.asarray(y)]
        for t in range(first, length):
            y, state = step(tokens[:, t : t + 1], state)
            out.append(np.asarray(y))
        logits = head(np.concatenate(out, 1))[..., :KEPT]
        assert_close(logits, case[name], ratio=RATIO)


def test_bert():
    w = golden("hf/bert_mlm/case")
    model, head = load_bert(w, "bert", {})
    table = w["bert.embeddings.position_embeddings.weight"]
    model.encoder.position_embed[...] = jnp.asarray(table)
    check_encoder(model, head, w)


@pytest.mark.parametrize("kind", ["mlm", "clm"])
def test_roformer(kind):
    w = golden(f"hf/roformer_{kind}/case")
    options = {"positions": "rope", "rope_interleaved": True}
    model, head = load_bert(w, "roformer", options, positions="none", causal=kind == "clm")
    if kind == "mlm":
        check_encoder(model, head, w)
    else:
        check_decoder(model, w, head, lambda model: model.encoder)


def test_deberta():
    w = golden("hf/deberta_v2_mlm/case")
    options = {"positions": "deberta", "num_buckets": 8, "max_distance": 32}
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


def test_gpt2():
    w = golden("hf/gpt2/case")
    model = build("gpt2", {"num_heads": 2}, expansion=4.0, tie_embeddings=True)
    model.encoder.embed.embedding[...] = jnp.asarray(w["transformer.wte.weight"])
    model.encoder.position_embed[...] = jnp.asarray(w["transformer.wpe.weight"])
    for i, block in enumerate(blocks(model)):
        at = f"transformer.h.{i}."
        parts = [np.split(w[f"{at}attn.c_attn.{n}"], 3, axis=-1) for n in ("weight", "bias")]
        mixer, ff = block.mixer, block.feedforward
        for p, weight, bias in zip((mixer.q_proj, mixer.k_proj, mixer.v_proj), *parts, strict=True):
            put(p, weight, bias, turn=False)
        for p, name in ((mixer.out_proj, "attn.c_proj"), (ff.up_proj, "mlp.c_fc")):
            put(p, w[f"{at}{name}.weight"], w[f"{at}{name}.bias"], turn=False)
        put(ff.down_proj, w[f"{at}mlp.c_proj.weight"], w[f"{at}mlp.c_proj.bias"], turn=False)
        put_norm(block.norm, w, f"{at}ln_1")
        put_norm(block.ff_norm, w, f"{at}ln_2")
    put_norm(model.encoder.backbone.norm, w, "transformer.ln_f")
    check_decoder(model, w)


def test_llama():
    w = golden("hf/llama/case")
    options = {"num_heads": 4, "num_kv_heads": 2}
    model = build("llama", options, feedforward_bias=False)
    model.encoder.embed.embedding[...] = jnp.asarray(w["model.embed_tokens.weight"])
    for i, block in enumerate(blocks(model)):
        at = f"model.layers.{i}."
        for name in ("q", "k", "v"):
            linear(getattr(block.mixer, f"{name}_proj"), w, f"{at}self_attn.{name}_proj")
        linear(block.mixer.out_proj, w, f"{at}self_attn.o_proj")
        for name in ("gate_proj", "up_proj", "down_proj"):
            linear(getattr(block.feedforward, name), w, f"{at}mlp.{name}")
        put_norm(block.norm, w, f"{at}input_layernorm")
        put_norm(block.ff_norm, w, f"{at}post_attention_layernorm")
    put_norm(model.encoder.backbone.norm, w, "model.norm")
    linear(model.out_proj, w, "lm_head")
    check_decoder(model, w)


def test_xlnet():
    """Without segments and memories: relative positions of both ways, norms after the sums."""
    w = golden("hf/xlnet/case")
    options = {"num_heads": 2, "positions": "transformer_xl", "use_bias": False}
    model = build("bert", options, positions="none", embed_norm=False)
    model.encoder.embed.embedding[...] = jnp.asarray(w["transformer.word_embedding.weight"])
    for i, block in enumerate(blocks(model)):
        at = f"transformer.layer.{i}."
        mixer, plug = block.mixer, block.mixer.positions
        for p, name in ((mixer.q_proj, "q"), (mixer.k_proj, "k"), (mixer.v_proj, "v")):
            put(p, w[f"{at}rel_attn.{name}"].reshape(16, 16), turn=False)
        put(mixer.out_proj, w[f"{at}rel_attn.o"].reshape(16, 16))
        halves = w[f"{at}rel_attn.r"].reshape(2, 8, 16)  # sines, then cosines
        put(plug.pos_proj, halves.swapaxes(0, 1).reshape(16, 16), turn=False)
        u_v = [w[f"{at}rel_attn.{n}"] for n in ("r_w_bias", "r_r_bias")]
        plug.bias[...] = jnp.asarray(np.stack(u_v))
        linear(block.feedforward.up_proj, w, f"{at}ff.layer_1")
        linear(block.feedforward.down_proj, w, f"{at}ff.layer_2")
        put_norm(block.norm, w, f"{at}rel_attn.layer_norm")
        put_norm(block.ff_norm, w, f"{at}ff.layer_norm")
    table = w["transformer.word_embedding.weight"]
    check_encoder(model, lambda h: h @ table.T + w["lm_loss.bias"], w)


def test_t5_encoder():
    w = golden("hf/t5_enc_dec/case")
    options = {"num_heads": 2, "d_head": 6, "num_buckets": 8, "max_distance": 16}
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
