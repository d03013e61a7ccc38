"""Initialisations of whole blocks that come with an architecture."""

from __future__ import annotations

from typing import Literal

import jax
from flax import nnx

from seqzoo.models.mixer import Mixer

InitKind = Literal["default", "deepnorm", "t5"]

# DeepNet scales what adds to the residual stream: values, outputs and both feed-forward matrices.
DEEPNORM_SCALED = ("v_proj", "out_proj", "up_proj", "gate_proj", "down_proj")


def deepnorm_skip(depth: int) -> float:
    """alpha = (2N)^(1/4), by which the skipped input is multiplied.

    DeepNet (Wang et al. 2022, arXiv:2203.00555, figure 2), N layers of an encoder or of a decoder
    alone.
    """
    return (2 * depth) ** 0.25


def initialize(block: nnx.Module, kind: InitKind, depth: int) -> None:
    """Changes the kernels of a block just made.

    deepnorm: those of `DEEPNORM_SCALED` are multiplied by beta = (8N)^(-1/4) (figure 2 of the
    paper; it starts from Xavier's variance, we from LeCun's). t5: queries have the factor 1/sqrt(K)
    that T5's scores lack (Raffel et al. 2020, arXiv:1910.10683; the Mesh TensorFlow code gives the
    variance 1/(d_model K)), so that scores start as usual where attention has scale=1; the other
    kernels of T5 have the variance of the default. Mixers without queries keep the default.
    """
    if kind == "deepnorm":
        _multiply(block, DEEPNORM_SCALED, (8 * depth) ** -0.25)
    elif kind == "t5":
        for _, part in nnx.iter_modules(block):
            if isinstance(part, Mixer) and part.usual_queries != 1.0:
                _multiply(part, ("q_proj",), part.usual_queries)


def _multiply(module: nnx.Module, names: tuple[str, ...], factor: float) -> None:
    def scaled(path: tuple, value: jax.Array) -> jax.Array:
        keys = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        wanted = "kernel" in keys and keys[keys.index("kernel") - 1] in names
        return value * factor if wanted else value

    params = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree_util.tree_map_with_path(scaled, params))
