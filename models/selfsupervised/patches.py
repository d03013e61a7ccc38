"""The head of contrastive predictive coding (van den Oord et al. 2018, arXiv 1807.03748).

Inputs are cut into patches of W. z_p = K [x_pW; ...; x_pW+W-1] is the code of patch p from its
embedded inputs, c_p the backbone's output at its last input, and Q_k c_p predicts z_{p+k}.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear


class ContrastHead(nnx.Module):
    """Codes and predictions of patches; what is left after the last whole patch is not used."""

    def __init__(
        self, d_model: int, dim: int, *, patch: int, steps: int, rngs: nnx.Rngs, **dtypes: Any
    ):
        self.patch, self.steps, self.dim = patch, steps, dim
        self.k_proj = Linear(patch * d_model, dim, rngs=rngs, **dtypes)
        self.q_proj = Linear(d_model, steps * dim, rngs=rngs, **dtypes)

    def __call__(
        self, embedded: Float[Array, "B L D"], h: Float[Array, "B L D"]
    ) -> Float[Array, "B P K E"]:
        """[B, patches, 1 + steps, dim]: the code of each patch, then its predictions."""
        batch, length, d = h.shape
        count = length // self.patch
        cut = embedded[:, : count * self.patch].reshape(batch, count, self.patch * d)
        codes = self.k_proj(cut)[:, :, None]
        ends = h[:, self.patch - 1 :: self.patch]
        predictions = self.q_proj(ends).reshape(batch, count, self.steps, self.dim)
        return jnp.concatenate([codes, predictions], axis=2)
