"""From an encoder's vectors to outputs: rows pooled, vectors transformed, embeddings as head."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.blocks.layers import ACTIVATIONS, Norm
from seqzoo.models.linear import Linear
from seqzoo.models.ops.layout.cpu import with_rows_joined


class HeadTransform(nnx.Module):
    """norm(act(W h)) before the outputs, the head of BERT (Devlin et al. 2018, 1810.04805)."""

    def __init__(self, d_model: int, width: int, config: BackboneConfig, *, rngs: nnx.Rngs):
        """`width`: of what comes out. Raises ValueError where there is no plain activation."""
        if config.feedforward not in ACTIVATIONS:
            raise ValueError(
                "head_transform takes the feed-forward's activation; got "
                f"feedforward={config.feedforward!r} (has one: {', '.join(ACTIVATIONS)})"
            )
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, width, **dtypes)
        self.norm = Norm(config.norm, width, eps=config.norm_eps, **dtypes)
        self.activation = config.feedforward

    def __call__(self, h: Float[Array, "... D"]) -> Float[Array, "... E"]:
        """Every vector by itself."""
        return self.norm.norm(ACTIVATIONS[self.activation](self.in_proj(h)))


def attend(embed: nnx.Embed, h: Float[Array, "... D"]) -> Float[Array, "... V"]:
    """The embedding as head, its table as it lies: its `attend` copies it, turned, on a CPU."""
    h, table = embed.promote_dtype((h, embed.embedding[...]), dtype=embed.dtype)
    return with_rows_joined(lambda x: jnp.einsum("...d,vd->...v", x, table), h)


def pool(
    h: Float[Array, "B L D"], segment_ids: Int[Array, "B L"] | None, pooling: str
) -> Float[Array, "B D"]:
    """The mean, the last or the first of each row's real tokens; a row of padding gives 0."""
    if segment_ids is None:
        segment_ids = jnp.ones(h.shape[:2], jnp.int32)
    valid = segment_ids > 0
    if pooling == "mean":
        h = h.astype(jnp.promote_types(h.dtype, jnp.float32))
        return jnp.where(valid[..., None], h, 0).sum(1) / jnp.maximum(valid.sum(1), 1)[:, None]
    index = jnp.where(valid, jnp.arange(h.shape[1]), -1 if pooling == "last" else h.shape[1])
    at = index.max(1) if pooling == "last" else index.min(1)
    at = jnp.clip(at, 0, h.shape[1] - 1)
    picked = jnp.take_along_axis(h, at[:, None, None], axis=1)[:, 0]
    return jnp.where(valid.any(1)[:, None], picked, 0)
