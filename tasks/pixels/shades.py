"""Pictures and waveforms as text, for human eyes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

SHADES = " ░▒▓█"
BARS = "▁▂▃▄▅▆▇█"


def picture(values: Float[np.ndarray, "H W"], *, width: int = 64) -> str:
    """Lines of blocks, two columns a pixel, brighter where the value is larger; in [0, 1]."""
    height, full = values.shape
    factor = -(-full // width)
    if factor > 1:  # the brightest of each square: thin lines stay
        rows, columns = height // factor * factor, full // factor * factor
        squares = values[:rows, :columns].reshape(rows // factor, factor, -1, factor)
        values = squares.max(axis=(1, 3))
    levels = np.clip((values * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return "\n".join("".join(2 * SHADES[level] for level in row) for row in levels.tolist())


def waveform(values: Float[np.ndarray, "L"], *, width: int = 72) -> str:
    """One line: the loudness of `width` stretches, as bars up to the loudest."""
    pieces = np.array_split(np.abs(values), min(width, len(values)))
    loud = np.array([piece.max() for piece in pieces])
    levels = (loud / max(loud.max(), 1e-9) * (len(BARS) - 1)).round().astype(int)
    return "".join(BARS[level] for level in levels.tolist())
