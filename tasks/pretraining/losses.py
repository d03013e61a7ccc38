"""Losses between views of examples, each of one example, and how much embeddings have collapsed.

Rows of weight 0 only fill a batch: they are no example's negatives, and their own loss may be
anything finite. All is over the whole (global) batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

EPS = 1e-8  # below which a vector has no direction


def unit(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Vectors of norm 1, where they have a direction."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, EPS**2))


def nt_xent(
    a: Float[Array, "B E"], b: Float[Array, "B E"], weight: Float[Array, "B"], temperature: float
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """SimCLR's loss of two views of each example, and how often the other view comes first.

    -log exp(s_ij / t) / sum_{k != i} exp(s_ik / t), s cosines, over the 2 B views, i and j views of
    one example (Chen et al. 2020, arXiv 2002.05709, eq. 1); a mean over the two.
    """
    z, count = unit(jnp.concatenate([a, b])), len(a)
    own = jnp.arange(2 * count)
    other = (own + count) % (2 * count)
    hidden = (own[:, None] == own) | (jnp.tile(weight, 2) == 0)
    scores = jnp.where(hidden & (other[:, None] != own), -jnp.inf, z @ z.T / temperature)
    nats, right = _picked(scores, other)
    return nats.reshape(2, count).mean(0), right.reshape(2, count).mean(0)


def info_nce(
    query: Float[Array, "B E"],
    key: Float[Array, "B E"],
    queue: Float[Array, "K E"],
    temperature: float,
) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
    """MoCo's loss, and how often the key comes before all of the queue.

    -log exp(q k / t) / (exp(q k / t) + sum_i exp(q k_i / t)), vectors of norm 1, k_i in the queue
    (He et al. 2019, arXiv 1911.05722, eq. 1).
    """
    query, key = unit(query), unit(key)
    positive = jnp.sum(query * key, axis=-1, keepdims=True)
    scores = jnp.concatenate([positive, query @ queue.T], axis=-1) / temperature
    return _picked(scores, jnp.zeros(len(query), jnp.int32))


def cosine(p: Float[Array, "B E"], z: Float[Array, "B E"]) -> Float[Array, "B"]:
    """Of the directions of two vectors."""
    return jnp.sum(unit(p) * unit(z), axis=-1)


def sinkhorn(
    scores: Float[Array, "N P"], weight: Float[Array, "N"], sharpness: float, rounds: int
) -> Float[Array, "N P"]:
    """Soft codes of each row that use all prototypes alike.

    exp(scores / sharpness), in turns divided so that each prototype has a share of 1/P and each row
    one of 1/N (Caron et al. 2020, arXiv 2006.09882, eq. 3 and appendix A); rows then sum to 1.
    """
    real = (weight > 0)[:, None]
    scores = jnp.where(real, scores, -jnp.inf)
    codes = jnp.where(real, jnp.exp((scores - scores.max()) / sharpness), 0)
    for _ in range(rounds):
        codes = codes / (codes.shape[1] * _some(codes.sum(0, keepdims=True)))
        codes = codes / (jnp.maximum(real.sum(), 1) * _some(codes.sum(1, keepdims=True)))
    return codes / _some(codes.sum(1, keepdims=True))


def cross_entropy(
    target: Float[Array, "N P"], scores: Float[Array, "N P"], temperature: float
) -> Float[Array, "N"]:
    """-sum target log softmax(scores / temperature): SwAV's eq. 2, DINO's eq. 2."""
    return -jnp.sum(target * jax.nn.log_softmax(scores / temperature, axis=-1), axis=-1)


def effective_rank(z: Float[Array, "B E"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """exp of the entropy of the singular values' shares: how many directions embeddings have.

    1 where all point one way, at most min(B, E) (Roy and Vetterli 2007; as a measure of collapse
    Garrido et al. 2023, arXiv 2210.02885).
    """
    z = jnp.where((weight > 0)[:, None], z, 0)
    scale = _some(jnp.sqrt(jnp.mean(jnp.square(z))))
    gram = (z / scale).T @ (z / scale)
    squares = jnp.linalg.eigvalsh(gram)
    noise = len(squares) * jnp.finfo(squares.dtype).eps * squares.max()
    values = jnp.where(squares > noise, jnp.sqrt(_some(squares)), 0)
    share = values / _some(values.sum())
    return jnp.exp(-jnp.sum(jnp.where(share > 0, share * jnp.log(_some(share)), 0)))


def spread(z: Float[Array, "B E"], weight: Float[Array, "B"]) -> Float[Array, ""]:
    """The deviation of a component of embeddings of norm 1, times sqrt(E): 1 in all directions.

    0 where all are alike (Chen and He 2020, arXiv 2011.10566, section 4.1).
    """
    share = (weight / _some(weight.sum()))[:, None]
    z = jnp.where(share > 0, unit(z), 0)
    mean = jnp.sum(share * z, axis=0)
    variance = jnp.sum(share * jnp.square(z - mean), axis=0)
    return jnp.mean(jnp.sqrt(variance)) * jnp.sqrt(z.shape[-1])


def _picked(scores: Array, place: Int[Array, "N"]) -> tuple[Float[Array, "N"], Float[Array, "N"]]:
    """Nats for one column of each row, and whether it is the largest."""
    picked = jnp.take_along_axis(scores, place[:, None], axis=1)[:, 0]
    right = (scores.argmax(-1) == place).astype(scores.dtype)
    return jax.nn.logsumexp(scores, axis=-1) - picked, right


def _some(x: Array) -> Array:
    """x, and 1 where it is 0 and something is divided by it."""
    return jnp.where(x > 0, x, 1)
