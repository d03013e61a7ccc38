"""FNet: the real part of a Fourier transform as mixer (Lee-Thorp et al. 2021, arXiv:2105.03824).

    y = Re(F_L x F_D)        (eq. 3), F_n the discrete Fourier transform of n points

over the channels and over the n real tokens of the row, whatever padding stands beside them; rows
with padding take Bluestein's algorithm (1970), a transform whose length need not be known before
compilation. No parameters; both ways only, one segment a row.

Cost of L tokens: O(L log(L) D + L log(D) D). No state.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Complex, Float, Int

from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.segments import Segments, compact
from seqzoo.models.ops.layout.sequence_parallel import by_channels, by_positions

LONGEST = 2**16  # with padding; squares of positions are 32 bits


class FNet(Mixer):
    """Fourier transforms over channels and tokens; see the module docstring."""

    looks_both_ways = True
    causal_form = False
    packing = "none"

    def __init__(
        self,
        d_model: int,
        *,
        causal: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """Raises ValueError for causal=True."""
        self.causal = causal

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """It cannot stream: 0."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        layout = ctx.segments
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if layout.masked and x.shape[1] > LONGEST:
            raise ValueError(f"fnet: padded rows have at most {LONGEST} tokens; got {x.shape[1]}")
        planes = by_positions(_over_channels, wide)
        y = by_channels(_over_tokens, planes, (), layout if layout.masked else None)
        if not layout.masked:
            return y, ()
        return y, ()


def _over_channels(x: Float[Array, "B L D"]) -> Float[Array, "B L D 2"]:
    """The transform of each token; real and imaginary part, as complex arrays are not exchanged."""
    z = jnp.fft.fft(x, axis=-1)
    return jnp.stack([z.real, z.imag], axis=-1)


def _over_tokens(
    planes: Float[Array, "B L D 2"], tables: tuple[()], layout: Segments | None
) -> Float[Array, "B L D"]:
    """The real part of the transform over the real tokens of each row."""
    z = planes[..., 0] + 1j * planes[..., 1]
    if layout is None:
        return jnp.fft.fft(z, axis=1).real
    rows = compact(layout)
    z = jnp.where(layout.valid[..., None], z, 0)
    return rows.unpack(chirp_transform(rows.pack(z), layout.valid.sum(1)).real)


def chirp_transform(z: Complex[Array, "B L D"], count: Int[Array, "B"]) -> Complex[Array, "B L D"]:
    """The discrete Fourier transform of the first `count` of L rows; zeros must follow them.

    With w_k = exp(-iπ k² / n): Z_k = w_k Σ_j (z_j w_j) conj(w_{k-j}), a convolution.
    """
    length = z.shape[1]
    count = jnp.maximum(count, 1)[:, None]
    k = jnp.arange(length, dtype=jnp.uint32)
    turns = (k * k) % (2 * count).astype(jnp.uint32)  # exact, unlike the angle of a large number
    angle = turns.astype(z.real.dtype) * (jnp.pi / count.astype(z.real.dtype))
    w = jnp.exp(-1j * angle)[..., None]
    back = jnp.conj(w)
    chirp = jnp.concatenate([back, jnp.zeros_like(back[:, :1]), jnp.flip(back[:, 1:], 1)], 1)
    spectrum = jnp.fft.fft(z * w, 2 * length, axis=1) * jnp.fft.fft(chirp, axis=1)
    return w * jnp.fft.ifft(spectrum, axis=1)[:, :length]
