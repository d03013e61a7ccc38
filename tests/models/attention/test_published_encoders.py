"""Whole encoders with the weights of published ones: Longformer, Nystromformer and FNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build as build_mixer
from tests.golden import golden
from tests.helpers import assert_close
from tests.models.test_published_transformers import (
    KEPT,
    RATIO,
    blocks,
    build,
    linear,
    put_norm,
)

ENCODER = {"norm": "layer", "norm_position": "post", "feedforward": "mlp", "embed_norm": True}


def load(w, model, prefix, offset, eps, feed="intermediate.dense"):
    """Embeddings with positions from row `offset` on, feed-forwards and norms."""
    at = f"{prefix}.embeddings."
    table = w[f"{at}word_embeddings.weight"] + w[f"{at}token_type_embeddings.weight"][0]
    model.encoder.embed.embedding[...] = jnp.asarray(table)
    rows = w[f"{at}position_embeddings.weight"][offset:]
    embed = model.encoder.position_embed
    embed[...] = jnp.zeros_like(embed[...]).at[: len(rows)].set(rows[: len(embed[...])])
    put_norm(model.encoder.norm, w, f"{at}LayerNorm")
    for i, block in enumerate(blocks(model)):
        at = f"{prefix}.encoder.layer.{i}."
        linear(block.feedforward.up_proj, w, f"{at}intermediate.dense")
        linear(block.feedforward.down_proj, w, f"{at}output.dense")
        put_norm(block.ff_norm, w, f"{at}output.LayerNorm")
        yield block, at


def head(h, w, table, transform, norm, bias, approximate, eps):
    h = np.asarray(h) @ w[f"{transform}.weight"].T + w[f"{transform}.bias"]
    h = np.asarray(jax.nn.gelu(jnp.asarray(h), approximate=approximate))
    h = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + eps)
    return (h * w[f"{norm}.weight"] + w[f"{norm}.bias"]) @ table.T + w[bias]


def masked_head(h, w, prefix, eps):
    table, name = w[f"{prefix}.embeddings.word_embeddings.weight"], "cls.predictions"
    parts = f"{name}.transform.dense", f"{name}.transform.LayerNorm", f"{name}.bias"
    return head(h, w, table, *parts, True, eps)[..., :KEPT]


def encoder(name, options, eps, **changes):
    return build(
        name, options, causal=False, positions="learned", norm_eps=eps, **ENCODER | changes
    )


@pytest.mark.parametrize("row", [0, 1])
def test_longformer(row):
    """Windows of 2 and 4 on a side; the first row has one global token and the second two."""
    w = golden("hf/longformer_mlm/case")
    chosen = tuple(int(p) for p in np.flatnonzero(w["global_attention_mask"][row]))
    model = encoder("longformer", {"num_heads": 2}, 1e-12, feedforward="gelu")
    for i, (block, at) in enumerate(load(w, model, "longformer", 1, 1e-12)):
        options = {"num_heads": 2, "positions": "none", "use_bias": True, "block_size": 2}
        options |= {"window": (3, 5)[i], "global_positions": chosen}
        block.mixer = mixer = build_mixer(
            "longformer", 16, causal=False, rngs=nnx.Rngs(0), **options
        )
        for name in ("query", "key", "value"):
            linear(getattr(mixer, f"{name[0]}_proj"), w, f"{at}attention.self.{name}")
            own = mixer.global_proj[f"{name[0]}_proj"]
            linear(own, w, f"{at}attention.self.{name}_global")
        linear(mixer.out_proj, w, f"{at}attention.output.dense")
        put_norm(block.norm, w, f"{at}attention.output.LayerNorm")
    table = w["longformer.embeddings.word_embeddings.weight"]
    parts = "lm_head.dense", "lm_head.layer_norm", "lm_head.bias"

    def logits(h):
        return head(h, w, table, *parts, False, 1e-12)[..., :KEPT]

    run = jax.jit(lambda x, ids: model.encoder(x, ids))
    tokens, real = w["input_ids"][row : row + 1], w["attention_mask"][row : row + 1]
    ones = np.ones_like(real)
    assert_close(logits(run(tokens, None))[0], w["logits"][row], ratio=RATIO)
    assert_close(logits(run(tokens, ones))[0], w["logits"][row], ratio=RATIO)
    masked = logits(run(tokens, real))
    assert_close(masked[real > 0], w["logits_masked"][row][real[0] > 0], ratio=RATIO)


def test_nystromformer():
    w = golden("hf/nystromformer_mlm/case")
    options = {"num_heads": 2, "landmarks": 4, "conv_width": 3, "shared_start": True}
    model = encoder("nystromformer", options, 1e-5)
    for block, at in load(w, model, "nystromformer", 2, 1e-5):
        mixer = block.mixer
        for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
            linear(getattr(mixer, ours), w, f"{at}attention.self.{theirs}")
        mixer.conv[...] = jnp.asarray(w[f"{at}attention.self.conv.weight"][:, 0, :, 0].T)
        linear(mixer.out_proj, w, f"{at}attention.output.dense")
        put_norm(block.norm, w, f"{at}attention.output.LayerNorm")
    run = jax.jit(lambda x, ids: model.encoder(x, ids))
    h = run(w["input_ids"], np.ones_like(w["input_ids"]))
    assert_close(masked_head(h, w, "nystromformer", 1e-5), w["logits"], ratio=RATIO)


def test_fnet():
    """Their embeddings have a projection after the norm, which here is part of what goes in."""
    w = golden("hf/fnet_mlm/case")
    model = encoder("fnet", {}, 1e-12)
    for block, at in load(w, model, "fnet", 0, 1e-12):
        put_norm(block.norm, w, f"{at}fourier.output.LayerNorm")
    tokens = w["input_ids"]
    ids = np.ones_like(tokens)
    h = model.encoder.embed(tokens) + model.encoder.position_embed[...][: tokens.shape[1]]
    h = model.encoder.norm.norm(h)
    h = h @ w["fnet.embeddings.projection.weight"].T + w["fnet.embeddings.projection.bias"]
    run = jax.jit(lambda h, ids: model.encoder.backbone(h, ids))
    for layout in (None, ids):
        logits = masked_head(run(h, layout), w, "fnet", 1e-12)
        assert_close(logits, w["logits"], ratio=RATIO)
