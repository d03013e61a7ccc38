"""Short depthwise causal convolution, the local mixing before many recurrences."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments, compact
from seqzoo.models.ops.layout.sequence_parallel import Recurrence


@op(rows="x")
def short_conv(
    x: Float[Array, "B L D"],
    kernel: Float[Array, "W D"],
    window: Float[Array, "B W-1 D"] | None = None,
    *,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
) -> tuple[Float[Array, "B L D"], Float[Array, "B W-1 D"]]:
    """y_t = Σ_j kernel[W-1-j] ⊙ x_{t-j}, over the W latest real tokens of the same segment.

    `kernel[-1]` multiplies the current token, as in a causally padded Conv1d. The cost is W
    multiplications per element: meant for W up to a few dozen.

    Args:
        x: inputs; what stands at padding is ignored.
        kernel: one filter per channel.
        window: the last W-1 real inputs before x, oldest first; None for zeros.
        segment_ids: 0 at padding, which is skipped; a new segment starts from zeros.

    Returns:
        y, of x's dtype, and the window after the last real token, zeros where its segment is
        shorter, of at least float32.

    Raises:
        ValueError: the shapes of kernel or window do not match.
    """
    _check(x, kernel, window)
    width = kernel.shape[0]
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    if window is None:
        window = jnp.zeros((x.shape[0], width - 1, x.shape[2]), dtype)
    layout = as_segments(segment_ids, x.shape[1])
    rows = _ROWS if width > 1 else _rows
    return rows((kernel,), (x, layout), window.astype(dtype))


def _rows(
    shared: tuple[Array], inputs: tuple[Array, Segments], window: Array
) -> tuple[Array, Array]:
    (kernel,), (x, layout) = shared, inputs
    width, values = kernel.shape[0], x.astype(window.dtype)
    if not layout.masked:
        padded = jnp.concatenate([window, values], axis=1)
        return _filter(padded, kernel).astype(x.dtype), padded[:, x.shape[1] :]
    compaction = compact(layout)
    values = compaction.pack(jnp.where(layout.valid[..., None], values, 0))
    padded = jnp.concatenate([window, values], axis=1)
    run = jnp.pad(compaction.segments.run, ((0, 0), (width - 1, 0)))  # the window is of run 0
    y = compaction.unpack(_filter(padded, kernel, run))
    return y.astype(x.dtype), _last_window(padded, run, layout.valid.sum(axis=1), width)


def _summarize(
    shared: tuple[Array], inputs: tuple[Array, Segments], nothing: Array
) -> tuple[Array, Array]:
    """By how much the window before is moved, and the window from nothing."""
    x, layout = inputs
    width = nothing.shape[1] + 1
    moved = jnp.full(x.shape[0], x.shape[1])
    if layout.masked:  # what another segment left behind is moved out
        moved = jnp.where(layout.run[:, -1] == 0, layout.valid.sum(1), width)
    return jnp.minimum(moved, width - 1), _rows(shared, inputs, nothing)[1]


def _moved(_: tuple, moved: Array, own: Array, before: Array) -> Array:
    rest = before.shape[1]
    index = moved[:, None] + jnp.arange(rest)
    old = jnp.pad(before, ((0, 0), (0, rest), (0, 0)))
    return own + jnp.take_along_axis(old, index[..., None], axis=1)


_ROWS = Recurrence(_rows, _summarize, _moved)


def _filter(padded: Array, kernel: Array, run: Array | None = None) -> Array:
    width = kernel.shape[0]
    length = padded.shape[1] - width + 1
    y = 0
    for i in range(width):
        term = kernel[i].astype(padded.dtype) * padded[:, i : i + length]
        if run is not None and i < width - 1:
            same = run[:, i : i + length] == run[:, width - 1 :]
            term = jnp.where(same[..., None], term, 0)
        y = y + term
    return y


def _last_window(padded: Array, run: Array, count: Array, width: int) -> Array:
    """The W-1 inputs up to real token number `count` that belong to the last run."""
    index = count[:, None] + jnp.arange(width - 1)
    kept = jnp.take_along_axis(run, index, axis=1) == run[:, -1:]
    taken = jnp.take_along_axis(padded, index[..., None], axis=1)
    return jnp.where(kept[..., None], taken, 0)


def _check(x: Array, kernel: Array, window: Array | None) -> None:
    if kernel.ndim != 2 or kernel.shape[0] < 1 or kernel.shape[1] != x.shape[2]:
        raise ValueError(
            f"short_conv: kernel must be [W, D] with W >= 1 and D = {x.shape[2]} of x; "
            f"got {kernel.shape}"
        )
    expected = (x.shape[0], kernel.shape[0] - 1, x.shape[2])
    if window is not None and window.shape != expected:
        raise ValueError(
            f"short_conv: window must be [B, W-1, D] = {expected}; got {window.shape}; "
            "pass None to start from zeros"
        )
