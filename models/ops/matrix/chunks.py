"""What the ops that run in chunks share: cutting rows, and decays that broadcast."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped


def to_chunks(x: Shaped[Array, "B L H D"], size: int) -> Shaped[Array, "N B H C D"]:
    """Chunks of `size` steps; the last is filled up.

    With zeros: no input and no decay. Integers are runs, the last of which goes on.
    """
    rest = -x.shape[1] % size
    mode = "edge" if jnp.issubdtype(x.dtype, jnp.integer) else "constant"
    x = jnp.pad(x, ((0, 0), (0, rest), (0, 0), (0, 0)), mode=mode)
    batch, length, heads, width = x.shape
    x = x.reshape(batch, length // size, size, heads, width)
    return x.transpose(1, 0, 3, 2, 4)


def to_rows(o: Shaped[Array, "N B H C D"], length: int) -> Shaped[Array, "B L H D"]:
    """The inverse of `to_chunks`."""
    count, batch, heads, size, width = o.shape
    return o.transpose(1, 0, 3, 2, 4).reshape(batch, count * size, heads, width)[:, :length]


def decays(
    log_decay: Float[Array, "..."], length: int, heads: int, dtype: DTypeLike
) -> Float[Array, "#B L H #K"]:
    """Log decays of full length; -inf becomes the smallest finite decay, for differences' sake."""
    g = jnp.asarray(log_decay, dtype)
    g = g.reshape((1,) * (4 - g.ndim) + g.shape)
    g = jnp.maximum(g, jnp.log(jnp.finfo(dtype).tiny))
    return jnp.broadcast_to(g, (g.shape[0], length, heads, g.shape[3]))


def check_decays(op: str, log_decay: Float[Array, "..."] | None, shape: tuple[int, ...]) -> None:
    """Raises ValueError where log_decay does not broadcast to `shape`, that of q."""
    if log_decay is None:
        return
    own = jnp.shape(log_decay)
    full = (1,) * (4 - len(own)) + own
    if len(full) > 4 or any(n not in (1, m) for n, m in zip(full, shape, strict=True)):
        raise ValueError(f"{op}: log_decay must broadcast to q's shape {shape}; got {own}")
