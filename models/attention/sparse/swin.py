"""Swin: windows of a picture, shifted in every second layer (Liu et al. 2021, arXiv:2103.14030).

    o_t = Σ_s softmax_s(q_t·k_s / √K + b[y_t - y_s, x_t - x_s]) v_s

over the pixels s of t's window (section 3.2). A row is a picture, line by line, `grid_width` pixels
a line; windows are squares of `window` pixels a side, which layers of odd number shift by half of
that. The bias b is learned for each offset and head. Windows at the edges hold what is there; they
are taken by turning the grid around, as the authors do, with those that it joins told apart.

A mixer of one resolution: the paper's stages, between which patches merge, are not of it. It looks
both ways only. Padding may be anywhere, as pixels are counted without it; a row is one picture.

Cost of L pixels: O(L w² K) per head with windows of w². No state.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from seqzoo.models.attention.sparse_parts import heads, only_real, projections
from seqzoo.models.mixer import Constant, Context, Mixer
from seqzoo.models.ops.layout.segments import compact
from seqzoo.models.ops.layout.sequence_parallel import by_parts, by_whole_rows
from seqzoo.models.ops.softmax.local_blocks import weights


class Swin(Mixer):
    """Attention in shifted windows of a picture; see the module docstring."""

    looks_both_ways = True
    causal_form = False
    packing = "none"
    depends_on_layer: ClassVar[bool] = True

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int = 4,
        grid_width: int = 32,
        window: int = 8,
        shift: int | None = None,
        use_bias: bool = True,
        causal: bool = False,
        layer: Any = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`shift`: of this layer, in pixels; None: 0 and window // 2 in turns, 0 if it is alone.

        Raises ValueError for widths that do not divide, sizes below 1, and a shift that is no part
        of a window.
        """
        if min(grid_width, window) < 1 or not 0 <= (shift or 0) < window:
            raise ValueError(
                "grid_width and window are numbers of pixels, at least 1, and shift is less than "
                f"window; got {grid_width=}, {window=}, {shift=}"
            )
        options = {"use_bias": use_bias, "dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        made = projections(d_model, num_heads, **options)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = made
        self.num_heads, self.d_head, self.causal = num_heads, d_model // num_heads, causal
        self.grid_width, self.window = grid_width, window
        if shift is None:
            shift = (window // 2) * (jnp.asarray(0 if layer is None else layer[0]) % 2)
        self.shift = Constant(jnp.asarray(shift, jnp.int32))
        small = nnx.initializers.truncated_normal(0.02)
        table = small(rngs.params(), ((2 * window - 1) ** 2, num_heads), param_dtype)
        self.position_embed = nnx.Param(table)

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """It cannot stream: 0."""
        return 0

    @jax.named_scope("swin")
    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        layout, length = ctx.segments, x.shape[1]
        rows = [heads(p(x), self.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj)]
        rows = [by_whole_rows(a) for a in only_real(layout, *rows)]
        real, moved = jnp.ones((1, length), bool), None
        if layout.masked:
            moved = compact(layout)
            rows, real = [moved.pack(a) for a in rows], moved.segments.valid
        q, k, v = (self._windows(a) for a in rows)
        o = self._pixels(self._attend(q, k, v, self._seen(real)), length)
        o = by_parts(o if moved is None else moved.unpack(o))
        return self.out_proj(o.reshape(x.shape)), ()

    def _windows(self, a: Float[Array, "B L ..."]) -> Float[Array, "B Y X C ..."]:
        """The pixels of each window of the shifted grid, C = window²."""
        w, width = self.window, self.grid_width
        lines = -(-a.shape[1] // width)
        a = jnp.pad(a, ((0, 0), (0, lines * width - a.shape[1]), *((0, 0),) * (a.ndim - 2)))
        a = a.reshape(a.shape[0], lines, width, *a.shape[2:])
        a = jnp.pad(a, ((0, 0), (0, -lines % w), (0, -width % w), *((0, 0),) * (a.ndim - 3)))
        a = jnp.roll(a, (self.shift[...], self.shift[...]), (1, 2))
        a = a.reshape(a.shape[0], a.shape[1] // w, w, a.shape[2] // w, w, *a.shape[3:])
        a = jnp.swapaxes(a, 2, 3)
        return a.reshape(*a.shape[:3], w * w, *a.shape[5:])

    def _pixels(self, a: Float[Array, "B Y X C ..."], length: int) -> Float[Array, "B L ..."]:
        """The inverse of `_windows`."""
        w, (batch, rows, columns) = self.window, a.shape[:3]
        a = jnp.swapaxes(a.reshape(batch, rows, columns, w, w, *a.shape[4:]), 2, 3)
        a = a.reshape(batch, rows * w, columns * w, *a.shape[5:])
        a = jnp.roll(a, (-self.shift[...], -self.shift[...]), (1, 2))[:, :, : self.grid_width]
        return a.reshape(batch, -1, *a.shape[3:])[:, :length]

    def _seen(self, real: Bool[Array, "#B L"]) -> Bool[Array, "#B Y X 1 C C"]:
        """Which pixels of a window see which: real ones on one side of the turned grid's seams."""
        real = self._windows(real)
        w, (rows, columns) = self.window, real.shape[1:3]
        down, right = (jnp.arange(n * w) < self.shift[...] for n in (rows, columns))
        side = 2 * down[:, None] + right
        side = side.reshape(rows, w, columns, w).swapaxes(1, 2).reshape(1, rows, columns, -1)
        same = side[..., :, None] == side[..., None, :]
        return (same & real[..., None, :])[:, :, :, None]

    def _attend(self, q: Array, k: Array, v: Array, seen: Array) -> Float[Array, "B Y X C H K"]:
        wide = jnp.promote_types(q.dtype, jnp.float32)
        s = jnp.einsum("BYXCHK,BYXSHK->BYXHCS", q, k, preferred_element_type=wide)
        bias = self.position_embed[...].astype(wide)[_offsets(self.window)]
        s = s * self.d_head**-0.5 + jnp.moveaxis(bias, -1, 0)
        p = weights(s, seen, "softmax").astype(v.dtype)
        return jnp.einsum("BYXHCS,BYXSHK->BYXCHK", p, v)


def _offsets(window: int) -> np.ndarray:
    """The row of the table of biases for each two pixels of a window, [C, C]."""
    y, x = np.divmod(np.arange(window**2), window)
    down, right = (a[:, None] - a[None] + window - 1 for a in (y, x))
    return down * (2 * window - 1) + right
