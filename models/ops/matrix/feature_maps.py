"""Feature maps of kernel attention: weights φ(q)·φ(k) in place of exp(q·k / √K).

Pure functions of the last axis. Elementwise ones: `elu_plus_one` (Katharopoulos et al. 2020,
arXiv:2006.16236), `relu`, `squared_relu`; `taylor` and `quadratic` have about K²/2 features;
`reweighted` doubles them; `favor_features` are random (Choromanski et al. 2020, arXiv:2009.14794).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Key

from seqzoo.models.ops.layout.cpu import squared_norm
from seqzoo.models.ops.matrix.orthogonal import haar

FavorKind = Literal["positive", "trigonometric", "relu"]
Stabilizer = Literal["token", "global", "none"]
ProjectionKind = Literal["orthogonal", "structured", "iid"]


def elu_plus_one(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """elu(x) + 1: x + 1 above zero, exp(x) below."""
    return jax.nn.elu(x) + 1


def squared_relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0)²."""
    return jnp.square(jax.nn.relu(x))


ELEMENTWISE: dict[str, Callable[[Array], Array]] = {
    "elu+1": elu_plus_one,
    "relu": jax.nn.relu,
    "squared_relu": squared_relu,
}


def alike(phi: Callable[[Array], Array]) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The feature map (q, k) -> (φ(q), φ(k)) of `gated_linear_attention`."""
    return functools.partial(_alike, phi)


def _alike(phi: Callable[[Array], Array], q: Array, k: Array) -> tuple[Array, Array]:
    return phi(q), phi(k)


def taylor(x: Float[Array, "*B K"]) -> Float[Array, "*B F"]:
    """1 + s + s²/2 with s = q·k / √K, the exponential to second order (Based, arXiv:2402.18668).

    F = 1 + K + K (K + 1) / 2: each unordered pair of channels is there once.
    """
    x = x * x.shape[-1] ** -0.25
    return jnp.concatenate([jnp.ones_like(x[..., :1]), x, math.sqrt(0.5) * _pairs(x)], -1)


def quadratic(x: Float[Array, "*B K"]) -> Float[Array, "*B F"]:
    """s² with s = q·k / √K (ReBased, arXiv:2402.10644); F = K (K + 1) / 2."""
    return _pairs(x * x.shape[-1] ** -0.25)


def _pairs(x: Float[Array, "*B K"]) -> Float[Array, "*B F"]:
    """x_i² and √2 x_i x_j, i < j: their inner product is (q·k)²."""
    root = math.sqrt(2)
    rows = []
    for i in range(x.shape[-1]):  # slices rather than a gather, whose gradient would scatter
        rows.append(
            x[..., i : i + 1] * jnp.concatenate([x[..., i : i + 1], root * x[..., i + 1 :]], -1)
        )
    return jnp.concatenate(rows, -1)


def reweighted(
    x: Float[Array, "B L H K"], positions: Int[Array, "#B L"], horizon: int
) -> Float[Array, "B L H 2K"]:
    """φ(q)·φ(k) cos(π (i - j) / 2M) for φ = relu (cosFormer, arXiv:2202.08791, eq. 10).

    M is `horizon`. Positions beyond it count as M, so that no weight becomes negative.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    angle = (jnp.minimum(positions, horizon) * (math.pi / 2 / horizon)).astype(dtype)
    angle, x = angle[..., None, None], jax.nn.relu(x)
    return jnp.concatenate([x * jnp.cos(angle), x * jnp.sin(angle)], -1)


# FAVOR+ (Choromanski et al. 2020, arXiv:2009.14794)


def favor_features(
    x: Float[Array, "B L H K"],
    projection: Float[Array, "M K"],
    *,
    kind: FavorKind = "positive",
    stabilizer: Stabilizer = "token",
    eps: float | None = None,
) -> Float[Array, "B L H F"]:
    """Random features whose inner products estimate exp(q·k / √K), up to what the stabiliser adds.

    With y = x / K^(1/4), W the projection and m the stabiliser:
        positive       M^(-1/2) (exp(W y - |y|²/2 - m) + eps), m = max of W y;          F = M
        trigonometric  M^(-1/2) [cos(W y), sin(W y)] exp(|y|²/2 - m), m = max of |y|²/2; F = 2 M
        relu           relu(W x) + eps, an estimate of another kernel;                  F = M

    Args:
        x: queries or keys.
        projection: rows with the distribution of N(0, I); see `random_projection`.
        kind: which of the three.
        stabilizer: of what m is the maximum: of each token, which a normaliser cancels for queries
            but which reweights keys; of the whole sequence ("global", the authors' for keys), which
            a normaliser cancels for both but for eps, and which lets the future in through eps; or
            none. Gradients flow through m. The mixer's own causal form is a running maximum.
        eps: by default 1e-6, or 1e-3 for relu; unused by trigonometric features.

    Raises:
        ValueError: unknown kind or stabiliser, or widths that differ.
    """
    if kind not in get_args(FavorKind) or stabilizer not in get_args(Stabilizer):
        raise ValueError(
            f"favor_features: kind must be one of {get_args(FavorKind)} and stabilizer one of "
            f"{get_args(Stabilizer)}; got {kind=}, {stabilizer=}"
        )
    if projection.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"favor_features: projection must be [M, K] with x's K={x.shape[-1]}; got "
            f"{projection.shape}"
        )
    if kind == "relu":
        return jax.nn.relu(x @ projection.T) + (1e-3 if eps is None else eps)
    dash, half = favor_exponents(x, projection)
    top = dash if kind == "positive" else half
    if stabilizer == "none":
        m = jnp.zeros_like(half)
    else:
        axes = -1 if stabilizer == "token" else (1, -1)
        m = top.max(axes, keepdims=True)
    ratio = projection.shape[0] ** -0.5
    if kind == "positive":
        return ratio * (jnp.exp(dash - half - m) + (1e-6 if eps is None else eps))
    return ratio * waves(dash) * jnp.exp(half - m)


def favor_exponents(
    x: Float[Array, "B L H K"], projection: Float[Array, "M K"]
) -> tuple[Float[Array, "B L H M"], Float[Array, "B L H 1"]]:
    """W y and |y|²/2 with y = x / K^(1/4), in at least float32."""
    y = x.astype(jnp.promote_types(x.dtype, jnp.float32)) * x.shape[-1] ** -0.25
    half = 0.5 * squared_norm(y)
    return y @ projection.T.astype(y.dtype), half[..., None]


def waves(angle: Float[Array, "*B M"]) -> Float[Array, "*B 2M"]:
    """Cosines, then sines."""
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)


def random_projection(
    key: Key[Array, ""],
    num_features: int,
    width: int,
    *,
    kind: ProjectionKind = "orthogonal",
    equal_norms: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "M K"]:
    """`num_features` rows M of `width` K, drawn by `key`, each distributed as N(0, I_K).

    "iid" rows are independent. "orthogonal" ones are so within each block of K rows, by a QR
    decomposition; "structured" too, by 4 log2 K rounds of Givens rotations of random pairs, which
    is O(K² log K) for a block instead of O(K³). Norms are those of fresh Gaussian vectors, or all
    √K with `equal_norms`. Raises ValueError for an unknown kind and for sizes below 1.
    """
    if kind not in get_args(ProjectionKind):
        raise ValueError(
            f"unknown projection {kind!r}; known: {', '.join(get_args(ProjectionKind))}"
        )
    if num_features < 1 or width < 1:
        raise ValueError(f"features and width must be at least 1; got {num_features}, {width}")
    dtype = jnp.promote_types(dtype, jnp.float32)
    rows, norms = jax.random.split(key)
    gaussian = jax.random.normal(norms, (num_features, width), dtype)
    if kind == "iid":
        directions = gaussian / jnp.linalg.norm(gaussian, axis=-1, keepdims=True)
    else:
        draw = haar if kind == "orthogonal" else _givens
        keys = jax.random.split(rows, -(-num_features // width))
        blocks = jax.vmap(lambda key: draw(key, width, dtype))(keys)
        directions = blocks.reshape(-1, width)[:num_features]
    if equal_norms:
        return directions * math.sqrt(width)
    return directions * jnp.linalg.norm(gaussian, axis=-1, keepdims=True)


def _givens(key: Array, width: int, dtype: DTypeLike) -> Float[Array, "K K"]:
    half = width // 2

    def turn(matrix: Array, key: Array) -> tuple[Array, None]:
        order, angles = jax.random.split(key)
        matrix = jax.random.permutation(order, matrix)
        angle = jax.random.uniform(angles, (half, 1), dtype, 0, 2 * math.pi)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        a, b, rest = matrix[:half], matrix[half : 2 * half], matrix[2 * half :]
        return jnp.concatenate([cos * a - sin * b, sin * a + cos * b, rest]), None

    rounds = 4 * max(1, math.ceil(math.log2(width)))
    return jax.lax.scan(turn, jnp.eye(width, dtype=dtype), jax.random.split(key, rounds))[0]
