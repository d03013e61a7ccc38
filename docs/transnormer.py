"""Draws how steep linear attention and NormAttention get as a row's weights vanish, as an SVG.

    python docs/transnormer.py docs/transnormer.svg

TransNormer (Qin et al. 2022, arXiv:2210.10340, section 3.1): with linear attention's denominator
the gradient to φ(q) grows as 1 / Σ_s φ(q)·φ(k_s); the norm in its place bounds it by its own
constant. Both axes are logarithmic; the dashed line is the bound.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models import LinearAttention
from seqzoo.models.linear_attention.norm_attention import OutputNorm
from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.ops.matrix.kernel_attention import kernel_sums

LENGTH, WIDTH, EPS = 6, 4, 0.01
# |∂(x / (r + eps)) / ∂x| <= 2 / eps, and x is a sum over keys and values of at most 1.
BOUND = 2 * LENGTH / EPS
WEIGHTS = 10.0 ** -np.arange(0, 7.5, 0.5)
DECADES = -2, 6  # of gradients that are shown
SIZE, MARGIN = (760, 360), 60
COLOURS = {"denominator": "#d95f02", "norm": "#1b9e77"}
TITLES = {"denominator": "linear attention", "norm": "NormAttention"}


@partial(jax.jit, static_argnums=0)
def steepest(form: Literal["denominator", "norm"], weight: float) -> jax.Array:
    """The largest |∂o/∂φ(q)| where every weight of a row is about `weight`."""
    q, k, v = (jax.random.uniform(jax.random.key(i), (1, LENGTH, 1, WIDTH)) for i in range(3))
    layout = Context(all_real(LENGTH))

    def attend(phi: jax.Array) -> jax.Array:
        if form == "denominator":
            mixer = LinearAttention(WIDTH, num_heads=1, eps=0.0, rngs=nnx.Rngs(0))
            return mixer._attend((phi, k, None), None, v, None, layout)[0]
        norm = OutputNorm("srms", WIDTH, eps=EPS, rngs=nnx.Rngs(0))
        return norm(kernel_sums(phi, k, v, causal=True)[0])

    return jnp.abs(jax.jacobian(attend)(weight * q)).max()


def point(weight: float, value: float) -> tuple[float, float]:
    """Where a weight and a gradient lie in the picture."""
    (width, height), spread = SIZE, np.log10(WEIGHTS[0] / WEIGHTS[-1])
    x = MARGIN - np.log10(weight) / spread * (width - 2 * MARGIN)
    share = (np.log10(value) - DECADES[0]) / (DECADES[1] - DECADES[0])
    y = height - MARGIN - share * (height - 2 * MARGIN)
    return round(x, 1), round(y, 1)


def line(points: list[tuple[float, float]], colour: str, options: str = "") -> str:
    """A polyline."""
    words = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="2" {options} points="{words}"/>'


def text(at: tuple[float, float], words: str, colour: str = "#333") -> str:
    """A label that begins at a point."""
    return f'<text x="{at[0]}" y="{at[1]}" font-size="13" fill="{colour}">{words}</text>'


def draw() -> str:
    """The whole picture."""
    first, last = WEIGHTS[0], WEIGHTS[-1]
    low, high = (10.0**exponent for exponent in DECADES)
    parts = [
        line([point(first, high), point(first, low), point(last, low)], "#999"),
        line([point(first, BOUND), point(last, BOUND)], "#999", 'stroke-dasharray="6 4"'),
        text((MARGIN + 10, point(last, BOUND)[1] - 8), f"the norm's bound, {BOUND:.0f}"),
        text((MARGIN, 30), "largest |∂o/∂φ(q)|"),
        text((SIZE[0] - 230, SIZE[1] - 15), "weights of the row, smaller to the right"),
    ]
    for exponent in range(DECADES[0], DECADES[1] + 1, 2):
        parts.append(text((8, point(first, 10.0**exponent)[1] + 4), f"1e{exponent}"))
    for exponent in range(0, 8):
        at = point(10.0**-exponent, low)
        parts.append(text((at[0] - 12, at[1] + 20), f"1e{-exponent}"))
    for form, colour in COLOURS.items():
        points = [point(weight, float(steepest(form, weight))) for weight in WEIGHTS]
        parts.append(line(points, colour))
        x, y = points[-3]
        below = -12 if form == "denominator" else 20
        parts.append(text((x - 60, y + below), TITLES[form], colour))
    head = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif"'
    size = f'width="{SIZE[0]}" height="{SIZE[1]}">'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f"{head} {size}", ground, *parts, "</svg>\n"])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(draw(), encoding="utf-8")
