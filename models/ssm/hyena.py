"""Hyena: long convolutions with implicit filters and gates (Poli et al. 2023, arXiv:2302.10866).

    x_0, ..., x_N-1, v = conv(W_in u)                              a short filter for every channel
    v <- h_n ∗ (x_n ⊙ v) + b_n ⊙ (x_n ⊙ v)   for n = N-1, ..., 1,   y = W_out (x_0 ⊙ v)
    h_n(t) = (MLP z(t))_n exp(-δ t),   z(t) = t, cos and -sin of a few frequencies

with order N, N - 1 long filters (the authors' code; algorithm 3 and section 3.3), sine activations
with learned frequencies, and decays δ over the channels. Time t is in units of `unit`, an
option and not the length of a row: rows of any length, packed rows and streams agree.

A convolution with a filter that is no finite sum of exponentials has no small state: while
streaming, the inputs of the long filters are kept, up to `max_length` tokens of a segment.
Cost of L tokens: O(L D (log² L + D)); of one step: O(max_length D).
State: (N - 1) D max_length + 1 + (d_conv - 1) (N + 1) D elements per sequence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.depthwise import DepthwiseConv
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.conv.fft import fft_conv
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.softmax.local_blocks import Recent, forget, latest, run_tags

# The slowest and the fastest filter decay to TARGET within these multiples of `unit`.
TARGET, SLOWEST, FASTEST = 1e-2, 1.5, 0.3


class ImplicitFilter(nnx.Module):
    """Filters whose taps are a small network's values at the times of the taps."""

    def __init__(
        self,
        channels: int,
        *,
        filters: int,
        width: int,
        bands: int,
        frequency: float,
        length: int,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.channels, self.filters, self.bands, self.length = channels, filters, bands, length
        options = {"param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = _undecayed(Linear(1 + 2 * bands, width, **options))
        self.hidden1_proj = _undecayed(Linear(width, width, **options))
        self.hidden2_proj = _undecayed(Linear(width, width, **options))
        self.out_proj = _undecayed(Linear(width, filters * channels, use_bias=False, **options))
        self.scale = nnx.Param(jnp.full(width, frequency, param_dtype))

    def __call__(self, taps: int, dtype: DTypeLike) -> Float[Array, "F Lk D"]:
        """The first taps of each filter."""
        i = np.arange(taps)
        t = i / max(self.length - 1, 1)
        phase = 2 * np.pi / self.length * i[:, None] * np.linspace(1e-4, self.bands - 1, self.bands)
        z = np.concatenate([t[:, None], np.cos(phase), -np.sin(phase)], axis=1)
        h = jnp.asarray(z, dtype)
        for layer in (self.in_proj, self.hidden1_proj, self.hidden2_proj):
            h = jnp.sin(self.scale[...].astype(dtype) * layer(h))
        decay = np.linspace(-np.log(TARGET) / SLOWEST, -np.log(TARGET) / FASTEST, self.channels)
        # Not as a constant, which at a million taps would be gigabytes of the program.
        window = jnp.exp(-jnp.asarray(t, dtype)[:, None] * jnp.asarray(decay, dtype))
        h = self.out_proj(h).reshape(taps, self.filters, self.channels)
        return jnp.moveaxis(h, 1, 0) * window


def _undecayed(layer: Linear) -> Linear:
    layer.kernel = nnx.Param(layer.kernel[...], group="no_decay")
    return layer


@stream_state
class HyenaState(NamedTuple):
    """The last inputs of the short filter, and those of the long ones."""

    window: Float[Array, "B W-1 (N+1)D"]
    past: Recent  # [B, M, N-1, D]


class Hyena(Mixer):
    """Gated long convolutions; see the module docstring."""

    state_growth = "linear"

    def __init__(
        self,
        d_model: int,
        *,
        order: int = 2,
        d_conv: int = 3,
        filter_width: int = 64,
        filter_bands: int = 1,
        frequency: float = 10.0,
        max_length: int = 2048,
        unit: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`order`: N; `filter_width`, `filter_bands`, `frequency`: of the filters' network.

        `max_length`: most tokens of a segment. `unit`: tokens in a unit of the filters' time, by
        default max_length. Raises ValueError for sizes below 1 and an order below 2.
        """
        unit = max_length if unit is None else unit
        sizes = min(d_conv, filter_width, filter_bands, max_length, unit)
        if order < 2 or sizes < 1:
            raise ValueError(
                f"order must be at least 2 and sizes at least 1; got {order=}, {d_conv=}, "
                f"{filter_width=}, {filter_bands=}, {max_length=}, {unit=}"
            )
        self.order, self.max_length = order, max_length
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        wide = (order + 1) * d_model
        self.in_proj = Linear(d_model, wide, **options)
        self.conv = DepthwiseConv(wide, d_conv, **options)
        self.filter = ImplicitFilter(
            d_model,
            filters=order - 1,
            width=filter_width,
            bands=filter_bands,
            frequency=frequency,
            length=unit,
            param_dtype=param_dtype,
            rngs=rngs,
        )
        skip = jax.random.normal(rngs.params(), (order - 1, d_model), param_dtype)
        self.D = nnx.Param(skip, group="no_decay")
        self.out_proj = Linear(d_model, d_model, **options)

    @classmethod
    def longer(cls, options: Mapping[str, Any], length: int) -> dict[str, Any]:
        """More tokens with the same filters."""
        return {"max_length": length, "unit": options["unit"] or options["max_length"]}

    def _initial(self, batch_size: int) -> HyenaState:
        token = jax.ShapeDtypeStruct((self.order - 1, self.d_model), self.wide)
        past = forget(token, batch_size, self.max_length)
        return HyenaState(self.conv.initial(batch_size), past)

    def state_size(self) -> int:
        """(N - 1) D max_length + 1 + (d_conv - 1) (N + 1) D."""
        return (self.order - 1) * self.d_model * self.max_length + 1 + self.conv.state_size()

    @jax.named_scope("hyena")
    def _mix(self, x: Float[Array, "B L D"], inner: HyenaState | None, ctx: Context):
        layout = ctx.segments
        window, past = (None, None) if inner is None else inner
        mixed, window = self.conv(self.in_proj(x), window, layout)
        gate, *gates, v = jnp.split(mixed, self.order + 1, axis=-1)
        taps = x.shape[1] + (0 if past is None else self.max_length)
        kernels = self.filter(taps, self.wide)
        tags = run_tags(layout, *x.shape[:2])
        seen = []
        for n, x_n in enumerate(reversed(gates)):
            v = (v * x_n).astype(self.wide)
            if layout.masked:
                v = jnp.where(layout.valid[..., None], v, 0)
            seen.append(v)
            if past is None:
                long = fft_conv(v, kernels[n], segment_ids=layout, strict=True)
            else:
                long = continued(past._replace(items=past.items[:, :, n]), v, kernels[n], tags)
            v = long + self.D[n].astype(self.wide) * v
        if past is not None:
            past = past.after(jnp.stack(seen, axis=2), latest(past.tagged(tags)))
        return self.out_proj(v * gate), HyenaState(window, past)


def continued(past: Recent, v: Float[Array, "B C D"], kernel: Array, tags: Array) -> Array:
    """The convolution of what is remembered and of v, at v's tokens."""
    rows = past.before(v)
    if v.shape[1] == 1:  # a single token continues the run that is remembered, or is padding
        return jnp.sum(rows * kernel[::-1], axis=1, keepdims=True)
    return fft_conv(rows, kernel, segment_ids=past.tagged(tags), strict=True)[:, past.size :]
