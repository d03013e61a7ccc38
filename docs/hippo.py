"""Draws a signal and what HiPPO memories of several sizes still know of it, as an SVG.

    python docs/hippo.py docs/hippo.svg

Each row is one measure after the last sample: the signal in grey, and its reconstruction from 8, 16
and 32 coefficients. LegS spreads them over the whole past, LegT and Fourier over a window, and LagT
over a recent past that fades.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from seqzoo.models.ssm import reconstruct, remember

LENGTH, WINDOW = 1000, 400
WIDTH, HEIGHT, MARGIN = 900, 130, 24
SIZES = {8: "#d95f02", 16: "#7570b3", 32: "#1b9e77"}
# samples of the memory's scale, samples that are drawn
ROWS = {"legs": (None, LENGTH), "legt": (WINDOW, WINDOW), "fourier": (WINDOW, WINDOW)}
ROWS["lagt"] = (40, 200)
TITLES = {"legs": "LegS: all of the past", "legt": f"LegT: the last {WINDOW}"}
TITLES |= {"fourier": f"Fourier: the last {WINDOW}", "lagt": "LagT: weight exp(-age / 40)"}


def signal() -> np.ndarray:
    """Band-limited noise: sines of 1 to 12 cycles."""
    rng = np.random.default_rng(1)
    time = np.arange(LENGTH) / LENGTH
    waves = [rng.normal() * np.sin(2 * np.pi * (k * time + rng.uniform())) for k in range(1, 13)]
    f = sum(waves)
    return f / np.abs(f).max()


def line(values: np.ndarray, row: int, colour: str, width: float) -> str:
    """A polyline of the last samples, the newest at the right edge."""
    x = WIDTH - 1 - np.arange(len(values))[::-1] * (WIDTH - 2 * MARGIN) / LENGTH - MARGIN
    y = (row + 0.55) * HEIGHT - np.clip(values, -1.3, 1.3) * 0.33 * HEIGHT
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::2], y[::2], strict=True))
    return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" points="{points}"/>'


def text(x: float, y: float, words: str, colour: str = "#333") -> str:
    """A label."""
    return f'<text x="{x}" y="{y:.0f}" font-size="13" fill="{colour}">{words}</text>'


def draw() -> str:
    """The whole picture."""
    f = signal()
    parts = []
    for row, (measure, (window, span)) in enumerate(ROWS.items()):
        parts.append(line(f, row, "#bbbbbb", 4))
        ages = (np.arange(span) + 0.5) / (window or span)
        for n, colour in SIZES.items():
            known = reconstruct(remember(f, measure, n, window=window)[-1], measure, ages)
            parts.append(line(known[::-1], row, colour, 1.4))
        parts.append(text(MARGIN, row * HEIGHT + 16, TITLES[measure]))
    for i, (n, colour) in enumerate(SIZES.items()):
        parts.append(text(WIDTH - 420 + 140 * i, 16, f"{n} coefficients", colour))
    size = f'width="{WIDTH}" height="{HEIGHT * len(ROWS)}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
