"""What the mixers over the delta rules share: sizes, keys of unit length, norm of the outputs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Mixer
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.states import stream_state


@stream_state
class DeltaState(NamedTuple):
    """The last inputs of the convolution, and what every head remembers."""

    window: Float[Array, "B W-1 E"] | None  # None without convolution
    s: Float[Array, "B H K V"]  # with levels [B, H, M, K, V]


class HeadSizes(NamedTuple):
    """Heads and their widths; several value heads may share one head of queries and keys."""

    heads: int
    value_heads: int
    d_key: int
    d_value: int


def head_sizes(
    d_model: int,
    num_heads: int,
    num_value_heads: int | None,
    d_key: int | None,
    d_value: int | None,
) -> HeadSizes:
    """Fills in d_model / heads where no width is given. Raises ValueError for what cannot be."""
    value_heads = num_heads if num_value_heads is None else num_value_heads
    if min(num_heads, value_heads) < 1 or value_heads % num_heads:
        raise ValueError(
            "num_heads must be at least 1 and divide num_value_heads; got "
            f"{num_heads=}, num_value_heads={value_heads}"
        )
    widths = []
    for name, width, heads in (("d_key", d_key, num_heads), ("d_value", d_value, value_heads)):
        if width is None and d_model % heads:
            raise ValueError(f"give {name} where {heads} heads do not divide {d_model=}")
        widths.append(d_model // heads if width is None else width)
        if widths[-1] < 1:
            raise ValueError(f"{name} must be at least 1; got {width}")
    return HeadSizes(num_heads, value_heads, *widths)


class QueryKeyValue(nnx.Module):
    """Projection, short convolution and SiLU; queries and keys then have unit length.

    With `steps` > 1 every token has that many keys and values, which follow each other in time.
    """

    def __init__(
        self,
        d_model: int,
        sizes: HeadSizes,
        d_conv: int,
        *,
        steps: int = 1,
        levels: int = 0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_conv`: taps of the convolution, 0 for none; `levels`: states a head, 0 for one."""
        self.sizes, self.steps, self.levels, self.dtype = sizes, steps, levels, dtype
        heads, value_heads, d_key, d_value = sizes
        widths = (heads * d_key, steps * heads * d_key, steps * value_heads * d_value)
        options = {"use_bias": False, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.q_proj = Linear(d_model, widths[0], **options)
        self.k_proj = Linear(d_model, widths[1], **options)
        self.v_proj = Linear(d_model, widths[2], **options)
        self.conv = DepthwiseConv(sum(widths), d_conv, **options) if d_conv else None

    def initial(self, batch_size: int) -> DeltaState:
        """Zeros of at least float32."""
        heads, d_key, d_value = self.sizes[1:]
        dtype = jnp.promote_types(self.dtype, jnp.float32)
        window = None if self.conv is None else self.conv.initial(batch_size)
        states = (heads, self.levels) if self.levels else (heads,)
        return DeltaState(window, jnp.zeros((batch_size, *states, d_key, d_value), dtype))

    def state_size(self) -> int:
        """Value heads x levels x K x V, and (d_conv - 1) channels of q, k and v."""
        window = 0 if self.conv is None else self.conv.state_size()
        states = self.sizes.value_heads * max(self.levels, 1)
        return states * self.sizes.d_key * self.sizes.d_value + window

    def __call__(
        self, x: Float[Array, "B L D"], window: Float[Array, "B W-1 E"] | None, segments: Segments
    ) -> tuple[Array, Array, Array, Array | None]:
        """q [B, L, H, K], k [B, L steps, H, K], v [B, L steps, H, V], H value heads; the window."""
        q, k, v = (p(x) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.conv is not None:
            mixed, window = self.conv(jnp.concatenate([q, k, v], -1), window, segments)
            q, k, v = jnp.split(mixed, [q.shape[-1], q.shape[-1] + k.shape[-1]], axis=-1)
        heads, value_heads, d_key, d_value = self.sizes
        rows, length = x.shape[0], x.shape[1]
        q, k, v = (jax.nn.silu(z) for z in (q, k, v))
        q, k = (z.reshape(rows, -1, heads, d_key) for z in (q, k))
        q, k = (jnp.repeat(_unit(z), value_heads // heads, axis=2) for z in (q, k))
        return q, k, v.reshape(rows, length * self.steps, value_heads, d_value), window


def _unit(x: Array) -> Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-6)


class HeadNorm(nnx.Module):
    """RMS norm of every head's outputs with one scale for all heads, and then a gate."""

    def __init__(
        self,
        d_value: int,
        gate: Literal["none", "silu", "sigmoid"],
        *,
        eps: float,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.gate, self.eps = gate, eps
        self.scale = nnx.Param(jnp.ones(d_value, param_dtype))

    def __call__(
        self, o: Float[Array, "B L H V"], z: Float[Array, "B L H*V"] | None = None
    ) -> Float[Array, "B L H*V"]:
        """rms(o) scale, times silu(z) or sigmoid(z) where there is a gate."""
        o = o.astype(jnp.promote_types(o.dtype, jnp.float32))
        power = jnp.mean(o**2, axis=-1, keepdims=True)
        o = o * jax.lax.rsqrt(power + self.eps) * self.scale[...].astype(o.dtype)
        o = o.reshape(*o.shape[:2], -1)
        if self.gate == "none":
            return o
        return o * (jax.nn.silu if self.gate == "silu" else jax.nn.sigmoid)(z.astype(o.dtype))


def strength(logits: Array, allow_negative_eigenvalues: bool) -> Array:
    """beta in (0, 1), or in (0, 2), where I - beta k k^T may reflect."""
    beta = jax.nn.sigmoid(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    return 2 * beta if allow_negative_eigenvalues else beta


class DeltaMixer(Mixer):
    """Queries, keys and values, what follows the heads, and the state of the rule."""

    def __init__(
        self,
        d_model: int,
        sizes: HeadSizes,
        *,
        gate: Literal["none", "silu", "sigmoid"],
        d_conv: int,
        allow_negative_eigenvalues: bool,
        norm_eps: float,
        chunk_size: int | None,
        steps: int = 1,
        levels: int = 0,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.negative, self.chunk_size = allow_negative_eigenvalues, chunk_size
        self.scale = sizes.d_key**-0.5
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.qkv = QueryKeyValue(d_model, sizes, d_conv, steps=steps, levels=levels, **options)
        self.norm = HeadNorm(sizes.d_value, gate, eps=norm_eps, param_dtype=param_dtype)
        inner = sizes.value_heads * sizes.d_value
        self.out_proj = Linear(inner, d_model, use_bias=False, **options)

    def _initial(self, batch_size: int) -> DeltaState:
        return self.qkv.initial(batch_size)

    def state_size(self) -> int:
        """Value heads x levels x K x V, and (d_conv - 1) channels of q, k and v."""
        return self.qkv.state_size()
