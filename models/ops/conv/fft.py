"""Long convolutions by FFT, causal or two-sided, that stop at the borders of segments."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int

from seqzoo.models.ops.conv.transforms import FAST, PRODUCTS, Transform
from seqzoo.models.ops.layout.backends import run as run_form
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments, compact
from seqzoo.models.ops.layout.sequence_parallel import by_channels

# Offsets that the split form sums directly; below, transforms are too short to pay.
DIRECT = 16

# How blocks are split: parts of one, and the transform. More parts make fewer transforms and more
# products of spectra. CPU, B=4, L=2048, D=128, forward and backward: four take 0.83 of the time of
# two (0.85 packed). What a TPU's compiler says is in docs/speed.md.
FORMS = {"transforms": (4, FAST), "products": (16, PRODUCTS)}
WRITTEN = 4  # products of spectra at a border that are written out; beyond it they are a loop


@op(rows="u")
def fft_conv(
    u: Float[Array, "B L D"],
    kernel: Float[Array, "Lk D"],
    *,
    reverse_kernel: Float[Array, "Lr D"] | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    strict: bool = False,
) -> Float[Array, "B L D"]:
    """y_t = Σ_{s<=t} kernel[t-s] ⊙ u_s, plus Σ_{s>t} reverse_kernel[s-t-1] ⊙ u_s if it is given.

    The two-sided form is that of S4 (Gu et al. 2022, arXiv:2111.00396): the reversed kernel starts
    at the next token, so that the current one counts once. Kernels of any length; what reaches
    beyond L is not read. Arithmetic is at least float32, and y has u's dtype.

    Without segments, one product of real FFTs, O(L log L). With them padding is moved to the end;
    rows of one segment then take the same product, and packed rows are split: a part of a block
    reaches the parts behind it through the one run at the border between, O(L log² L).

    A transform rounds everything by the largest number of the row, so that the future is felt in
    the last digits. With `strict` rows are always split: where there is no reversed kernel, no bit
    and no gradient of y_t depends on a later token.

    Raises:
        ValueError: a kernel is empty or not of u's width.
    """
    _check(u, kernel, "kernel")
    if reverse_kernel is not None:
        _check(u, reverse_kernel, "reverse_kernel")
    length = u.shape[1]
    if not length:
        return u
    dtype = jnp.promote_types(u.dtype, jnp.float32)
    values, kernel = u.astype(dtype), kernel[:length].astype(dtype)
    if reverse_kernel is not None:
        reverse_kernel = reverse_kernel[: length - 1].astype(dtype)
    layout = as_segments(segment_ids, length)
    convolve = functools.partial(_convolve, strict)
    masks = layout if layout.masked else None
    return by_channels(convolve, values, (kernel, reverse_kernel), masks).astype(u.dtype)


def _convolve(
    strict: bool, values: Array, kernels: tuple[Array, Array | None], layout: Segments | None
) -> Array:
    # Either branch is bilinear; made again in the backward pass, it leaves nothing to be stored.
    split = jax.checkpoint(_split)
    if layout is None and strict:
        return split(values, *kernels, None)
    if layout is None:
        return _whole(values, *kernels)
    rows = compact(layout)
    values = rows.pack(jnp.where(layout.valid[..., None], values, 0))
    run = rows.segments.run
    whole = jax.checkpoint(lambda u, kernel, reverse, run: _whole(u, kernel, reverse))
    operands = values, *kernels, run
    y = split(*operands) if strict else jax.lax.cond(jnp.any(run > 0), split, whole, *operands)
    return rows.unpack(y)


def _whole(u: Array, kernel: Array, reverse: Array | None) -> Array:
    """Both directions in one circular kernel, its reversed part wrapped around."""
    length = u.shape[1]
    behind = 0 if reverse is None else reverse.shape[0]
    size = good_size(max(length + kernel.shape[0] - 1, length + behind))
    ring = jnp.pad(kernel, ((0, size - kernel.shape[0] - behind), (0, 0)))
    if behind:
        ring = jnp.concatenate([ring, reverse[::-1]])
    spectrum = jnp.fft.rfft(u, size, axis=-2) * jnp.fft.rfft(ring, size, axis=-2)
    return jnp.fft.irfft(spectrum, size, axis=-2)[:, :length]


def _split(
    u: Array,
    kernel: Array,
    reverse: Array | None,
    run: Int[Array, "B L"] | None,
) -> Array:
    """Both directions within runs, which are contiguous; the second on the reversed row."""
    forms = {name: functools.partial(_split_causal, *how) for name, how in FORMS.items()}
    causal = functools.partial(run_form, "fft_conv", forms)
    y = causal(u, kernel, run)
    if reverse is None or not reverse.shape[0]:
        return y
    ahead = jnp.pad(reverse, ((1, 0), (0, 0)))
    back = None if run is None else run[:, ::-1]
    return y + causal(u[:, ::-1], ahead, back)[:, ::-1]


def _split_causal(
    parts: int,
    transform: Transform,
    u: Array,
    kernel: Array,
    run: Int[Array, "B L"] | None,
) -> Array:
    length = u.shape[1]
    total = DIRECT
    while total < length:
        total *= 2
    u = jnp.pad(u, ((0, 0), (0, total - length), (0, 0)))
    if run is not None:
        run = jnp.pad(run, ((0, 0), (0, total - length)), mode="edge")
    kernel = jnp.pad(kernel, ((0, total - kernel.shape[0]), (0, 0)))
    y = _direct(_blocks(u, DIRECT), _blocks(run, DIRECT), kernel).reshape(u.shape)
    size = DIRECT
    while size < total:
        count = min(parts, total // size)
        blocks = (_blocks(x, count, size) for x in (u, run))
        y = y + _across(transform, *blocks, kernel[: count * size]).reshape(u.shape)
        size *= count
    return y[:, :length]


def _blocks(x: Array | None, *sizes: int) -> Array | None:
    return None if x is None else x.reshape(x.shape[0], -1, *sizes, *x.shape[2:])


def _direct(u: Float[Array, "B n b D"], run: Int[Array, "B n b"] | None, kernel: Array) -> Array:
    """Contributions from within blocks, offset by offset."""
    y = kernel[0] * u
    for offset in range(1, DIRECT):
        term = kernel[offset] * u[:, :, :-offset]
        if run is not None:
            same = run[..., offset:] == run[..., :-offset]
            term = jnp.where(same[..., None], term, 0)
        y = y + jnp.pad(term, ((0, 0), (0, 0), (offset, 0), (0, 0)))
    return y


def _across(
    transform: Transform,
    u: Float[Array, "B n p h D"],
    run: Int[Array, "B n p h"] | None,
    kernel: Float[Array, "ph D"],
) -> Float[Array, "B n p h D"]:
    """Contributions of every block's p parts to the parts behind them.

    Period 2 h suffices: what wraps around falls on the first half, which is dropped. What passes
    from part to part is of the one run at their border, and comes as far as that run goes.
    """
    count, half = u.shape[2:4]
    sources, targets = u[:, :, :-1], None
    if run is not None:
        leaving, entering = run[:, :, :-1, -1], run[:, :, 1:, 0]
        sources = jnp.where((run[:, :, :-1] == leaving[..., None])[..., None], sources, 0)
        targets = (run[:, :, 1:] == entering[..., None])[..., None]
    kernel = kernel.reshape(count, half, -1)
    windows = jnp.concatenate([kernel[:-1], kernel[1:]], axis=1)
    seen, windows = (transform.forward(x, 2 * half) for x in (sources, windows))
    spectrum = _passed(seen, windows, None if run is None else (leaving, entering))
    y = transform.behind(spectrum, 2 * half)
    y = y if targets is None else jnp.where(targets, y, 0)
    return jnp.pad(y, ((0, 0), (0, 0), (1, 0), (0, 0), (0, 0)))


def _passed(
    seen: Complex[Array, "B n q f D"],
    windows: Complex[Array, "q f D"],
    runs: tuple[Int[Array, "B n q"], Int[Array, "B n q"]] | None,
) -> Complex[Array, "B n q f D"]:
    """y_j = Σ_{i<=j} windows[j-i] ⊙ seen_i, where the run that leaves i is what enters j."""
    count = windows.shape[0]
    if count > WRITTEN:
        return _passed_in_turn(seen, windows, runs)
    spectrum = 0
    for gap in range(count):
        moved = seen[:, :, : count - gap]
        if runs is not None:
            same = runs[0][:, :, : count - gap] == runs[1][:, :, gap:]
            moved = jnp.where(same[..., None, None], moved, 0)
        term = windows[gap] * moved
        spectrum = spectrum + jnp.pad(term, ((0, 0), (0, 0), (gap, 0), (0, 0), (0, 0)))
    return spectrum


def _passed_in_turn(seen: Array, windows: Array, runs: tuple[Array, Array] | None) -> Array:
    """The same in a loop: written out, a TPU's compiler takes minutes for it."""
    count = windows.shape[0]

    def behind(x: Array, gap: Array) -> Array:
        wide = jnp.pad(x, [(count if axis == 2 else 0, 0) for axis in range(x.ndim)])
        return jax.lax.dynamic_slice_in_dim(wide, count - gap, count, 2)

    @jax.checkpoint  # linear: made again in the backward pass, a step leaves nothing
    def step(spectrum: Array, x: tuple[Array, Array]) -> tuple[Array, None]:
        gap, window = x
        moved = behind(seen, gap)
        if runs is not None:
            same = behind(runs[0], gap) == runs[1]
            moved = jnp.where(same[..., None, None], moved, 0)
        return spectrum + window * moved, None

    return jax.lax.scan(step, jnp.zeros_like(seen), (jnp.arange(count), windows))[0]


def good_size(least: int) -> int:
    """The smallest even number >= `least` without prime factors above 5, which FFTs like."""
    powers = [
        2 * 2**a * 3**b * 5**c
        for c in range(_digits(least, 5) + 1)
        for b in range(_digits(least, 3) + 1)
        for a in range(_digits(least, 2) + 1)
    ]
    return min(p for p in powers if p >= least)


def _digits(number: int, base: int) -> int:
    return int(np.ceil(np.log(max(number, 2)) / np.log(base)))


def _check(u: Array, kernel: Array, name: str) -> None:
    if kernel.ndim != 2 or kernel.shape[0] < 1 or kernel.shape[1] != u.shape[2]:
        raise ValueError(
            f"fft_conv: {name} must be [length >= 1, D] with D = {u.shape[2]} of u; "
            f"got {kernel.shape}"
        )
