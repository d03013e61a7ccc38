"""Small anti-aliased strokes for Pathfinder's pictures: paddles, their surroundings, and discs.

Each is drawn on a finer grid and reduced with a Lanczos filter of three lobes, in the 8-bit
arithmetic of the imaging library that the published generator used: two passes, each rounded and
clipped to 0..255.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

LOBES = 3


@functools.cache
def paddle(
    angle: float, length: int, thickness: float, margin: int, antialias: int
) -> tuple[Float32[np.ndarray, "S S"], Float32[np.ndarray, "S S"]]:
    """A paddle from the middle of its patch along `angle`, and the region that others must leave.

    Args:
        angle: in radians; (row, column) moves by (sin, cos).
        length: in pixels.
        thickness: in pixels; thickness * antialias is whole.
        margin: pixels around the paddle that belong to the region.
        antialias: fine pixels to one of the picture.

    Returns:
        Both in [0, 1], of side 2 (length + ceil(thickness) + margin) + 1.
    """
    half = length + math.ceil(thickness) + margin
    centre = half * antialias
    row, column = displacement(angle, length * antialias)
    fine = line(2 * centre + 1, centre, row, column, round(thickness * antialias))
    around = dilate(fine, disk(margin * antialias))
    side = 2 * half + 1
    return tuple(reduce_to(x, side).astype(np.float32) / 255 for x in (fine, around))


@functools.cache
def marker(radius: float, antialias: int) -> Float32[np.ndarray, "S S"]:
    """A disc in the middle of its patch, in [0, 1]."""
    half = math.ceil(radius) + LOBES + 1
    side = 2 * half + 1
    offsets = np.arange(side * antialias) - half * antialias
    fine = offsets[:, None] ** 2 + offsets**2 <= (radius * antialias) ** 2
    return reduce_to(fine, side).astype(np.float32) / 255


def displacement(angle: float, distance: float) -> tuple[int, int]:
    """Whole (rows, columns) from a pixel to the point at a distance, rounded up."""
    # Without the first rounding sin(pi) > 0 would count as a pixel.
    return tuple(
        math.ceil(round(distance * turn, 9)) for turn in (math.sin(angle), math.cos(angle))
    )


def line(side: int, centre: int, row: int, column: int, width: int) -> Bool[np.ndarray, "S S"]:
    """A line from the middle of a square by (row, column) pixels; width 1 is one pixel a step."""
    image = np.zeros((side, side), bool)
    if width == 1:
        steps = max(abs(row), abs(column))
        along = np.arange(steps + 1) / max(steps, 1)
        image[centre + _nearest(along * row), centre + _nearest(along * column)] = True
        return image
    norm = math.hypot(row, column) or 1.0
    at = np.arange(side) - centre
    rows, columns = at[:, None], at[None]
    along = (rows * row + columns * column) / norm
    across = np.abs(rows * column - columns * row) / norm
    # A half-open band: a whole number of fine pixels across in the axes' directions.
    return (across <= width / 2 - 1e-6) & (along >= -0.5) & (along <= norm + 0.5)


def disk(radius: int) -> Bool[np.ndarray, "S S"]:
    """The pixels at most `radius` from the middle."""
    at = np.arange(-radius, radius + 1)
    return at[:, None] ** 2 + at**2 <= radius**2


def dilate(
    image: Bool[np.ndarray, "A B"], shape: Bool[np.ndarray, "S S"]
) -> Bool[np.ndarray, "A B"]:
    """Where a shape, laid with its middle on a pixel, meets the image."""
    half = shape.shape[0] // 2
    height, width = image.shape
    padded = np.pad(image, half)
    out = np.zeros_like(image)
    for dy, dx in np.argwhere(shape):
        out |= padded[dy : dy + height, dx : dx + width]
    return out


def reduce_to(fine: Bool[np.ndarray, "A A"], side: int) -> UInt8[np.ndarray, "S S"]:
    """A square picture of 0 and 1 as 8-bit grey values on a coarser grid."""
    weights = _lanczos(fine.shape[0], side)
    across = _to_byte(255.0 * fine @ weights.T)
    return _to_byte(weights @ across).astype(np.uint8)


@functools.cache
def _lanczos(size: int, side: int) -> np.ndarray:
    """Row i: the weights with which `size` fine pixels make coarse pixel i."""
    scale = size / side
    stretch = max(scale, 1.0)
    weights = np.zeros((side, size))
    for i in range(side):
        middle = (i + 0.5) * scale
        first = max(int(middle - LOBES * stretch + 0.5), 0)
        last = min(int(middle + LOBES * stretch + 0.5), size)
        x = (np.arange(first, last) - middle + 0.5) / stretch
        weight = np.where(np.abs(x) < LOBES, np.sinc(x) * np.sinc(x / LOBES), 0)
        weights[i, first:last] = weight / weight.sum()
    return weights


def _nearest(x: np.ndarray) -> Int[np.ndarray, "n"]:
    return (np.sign(x) * np.floor(np.abs(x) + 0.5)).astype(int)  # halves away from the middle


def _to_byte(x: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(x + 0.5), 0, 255)
