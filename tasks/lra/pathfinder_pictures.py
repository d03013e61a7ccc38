"""Pathfinder's pictures: two long dashed contours among short ones, and two discs.

The published generator (Linsley et al. 2018, arXiv 1805.08315; code of 2019) with the settings of
Long Range Arena, drawn anew: contours grow paddle by paddle, turn as a cosine allows and leave a
margin to each other; one that cannot grow is given up together with its partner. Label 1: both
discs sit at the ends of one contour; 0: at ends of both.

What a paddle may do depends on the direction of the paddle before alone, and directions are
whole steps on a grid; so all strokes, weights and displacements are tables, and a step looks at the
few pixels that it could reach.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.lra.strokes import dilate, disk, displacement, marker, paddle

TRIES = 3  # of a seed, and of a paddle; `retrial` 2
DISTRACTOR_TRIES = 5  # of a short contour; `retrial` 4
LEAST_FREE = 0.01  # of the window: no short contour starts below
BLOCKED = 0.3  # a pixel with more of a region than this is not free for a seed
OVERLAP = 1.8  # two regions may not add up to this anywhere
DEAD_END = 1e-4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one resolution; lengths in pixels."""

    size: int
    padding: int
    margins: tuple[int, ...]  # one is drawn for each picture
    seed_distance: int
    marker_radius: float
    paddle_length: int
    paddle_thickness: float
    continuity: float  # larger: straighter; 1 allows turns up to 90 degrees
    distractors: int
    snake_contrast: float
    paddle_contrast: float
    antialias: int = 2
    contour_length: int = 14  # paddles
    distractor_length: int = 4


RECIPES = {
    32: Recipe(32, 1, (1,), 7, 1.5, 2, 0.5, 1.0, 5, 2.0, 0.75),
    64: Recipe(64, 1, (1,), 12, 2.5, 5, 1.0, 1.8, 5, 0.8, 1.0),
    128: Recipe(128, 1, (2, 3), 20, 3.0, 5, 1.5, 1.8, 8, 0.9, 1.0),
    256: Recipe(256, 22, (3,), 27, 5.0, 5, 2.0, 1.8, 7, 1.0, 1.0),
}


class Picture(NamedTuple):
    """A picture and what it was made of."""

    image: UInt8[np.ndarray, "R R"]
    label: int  # 1: the discs sit on one contour
    raw: Float32[np.ndarray, "R R"]  # before the scaling to 8 bits
    contours: Float32[np.ndarray, "2 R R"]  # the two long contours alone
    discs: tuple[tuple[int, int], tuple[int, int]]  # their middles
    on: tuple[int, int]  # the contour that each disc sits on


class _Stroke(NamedTuple):
    row: int
    column: int
    patch: np.ndarray


class _Snake(NamedTuple):
    """A contour on its way."""

    anchor: tuple[int, int]
    turn: int | float  # the last direction: an index of the tables, or radians at first
    region: _Stroke  # of the last paddle, which does not block the next one yet
    strokes: list[_Stroke]
    tip: tuple[int, int]  # the last head


def draw_picture(recipe: Recipe, draws: Draws) -> Picture:
    """One picture, a function of the recipe and of the draws."""
    label = draws.below(2)
    margin = recipe.margins[draws.below(len(recipe.margins))]
    grower = _Grower(_tables(recipe, margin), draws)
    origins, pair = grower.pair()
    contours = np.stack([grower.picture(snake.strokes) for snake in pair])
    contours *= np.float32(recipe.snake_contrast * recipe.paddle_contrast)
    first = draws.below(2)
    on = (first, first if label else 1 - first)
    discs = (origins[on[0]], pair[on[1]].tip)
    short = grower.picture(grower.distractors()) * np.float32(recipe.snake_contrast)
    patch = marker(recipe.marker_radius, recipe.antialias)
    marks = grower.picture([_Stroke(*disc, patch) for disc in discs])
    raw = np.maximum(np.maximum(*contours), np.maximum(short, marks))
    return Picture(to_bytes(raw), label, raw, contours, discs, on)


def to_bytes(raw: np.ndarray) -> UInt8[np.ndarray, "R R"]:
    """8 bits, the darkest pixel 0 and the brightest 255."""
    low, high = raw.min(), raw.max()
    return ((raw - low) * (255.0 / ((high - low) or 1.0)) + 0.5).astype(np.uint8)


class _Tables:
    """Everything about one recipe and margin that no picture changes.

    Arrays of the window carry a border of `pad` pixels, so that no index can leave them.
    """

    def __init__(self, recipe: Recipe, margin: int):
        self.recipe, self.margin = recipe, margin
        length = recipe.paddle_length
        self.pad = 2 * length + 5 * margin + math.ceil(recipe.paddle_thickness) + 2
        self.stride = recipe.size + 2 * self.pad
        self.reach = length + math.ceil(recipe.paddle_thickness) + margin  # half a patch
        radius = length + margin
        turns = np.arange(0, 2 * math.pi, 1 / radius)  # one a pixel of arc
        steps = np.stack([radius * np.sin(turns), radius * np.cos(turns)], 1).round(9)
        self.steps = np.unique(np.floor(steps).astype(int), axis=0)
        self.angles = np.arctan2(self.steps[:, 0], self.steps[:, 1])
        back = [self.stroke(angle + math.pi) for angle in self.angles]
        self.lines, self.regions = ([pair[i] for pair in back] for i in range(2))
        self.weights = [self.weight(angle) for angle in self.angles]
        self.onward = [displacement(angle, length + 2 * margin) for angle in self.angles]
        near = np.argwhere(disk(margin)) - margin
        flat = np.array([self.stride, 1])
        self.around = (self.steps @ flat)[:, None] + near @ flat  # of a pivot
        self.places = [tuple(step) for step in self.steps.tolist()]

    def stroke(self, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """Paddle and region along an angle."""
        r = self.recipe
        angle = math.remainder(round(angle, 9), 2 * math.pi)
        return paddle(angle, r.paddle_length, r.paddle_thickness, self.margin, r.antialias)

    def weight(self, angle: float) -> np.ndarray:
        """cos^2 of the continuity times the turn to each direction, 0 from a right angle on."""
        turn = np.abs(self.angles - angle)
        turn = np.minimum(turn, 2 * math.pi - turn)
        return np.cos(np.minimum(self.recipe.continuity * turn, math.pi / 2)) ** 2

    @functools.cached_property
    def empty_mask(self) -> Float32[np.ndarray, "P P"]:
        """The regions of an empty window: its padding and all beyond is taken."""
        inner = self.pad + self.recipe.padding
        mask = np.ones((self.stride, self.stride), np.float32)
        mask[inner:-inner, inner:-inner] = 0
        return mask

    @functools.cached_property
    def central(self) -> dict[int, np.ndarray]:
        """Direction in degrees -> where a first seed may start, in the middle of the window."""
        keep, size = 2 * self.recipe.seed_distance, self.recipe.size
        taken = np.ones((size, size), bool)
        taken[keep : size - keep, keep : size - keep] = False
        places = {degrees: self.free(taken, degrees) for degrees in range(-180, 180)}
        return {degrees: free for degrees, free in places.items() if len(free)}

    def free(self, taken: Bool[np.ndarray, "R R"], degrees: int) -> np.ndarray:
        """Where in the window a seed may start in a direction.

        The published generator asks for a maximum of the window under the footprint, which is
        undefined where all of that lies outside; it then finds no place at all. So directions whose
        footprint leaves the window at some corner give none, which is most of them where the margin
        is 1: contours begin towards the upper left.
        """
        footprint = self._footprint(degrees)
        half = footprint.shape[0] // 2
        low, high = slice(0, half + 1), slice(half, None)
        if not all(footprint[a, b].any() for a in (low, high) for b in (low, high)):
            return np.empty((0, 2), int)
        return np.argwhere(~dilate(taken, footprint))

    def _footprint(self, degrees: int) -> Bool[np.ndarray, "S S"]:
        """The full pixels of a paddle's region, one to the lower right of where it starts."""
        half = self.recipe.paddle_length + self.margin
        _, region = self.stroke(math.radians(degrees))
        first = self.reach - half - 1
        cut = region[first : first + 2 * half + 1, first : first + 2 * half + 1]
        return cut >= 1


@functools.cache
def _tables(recipe: Recipe, margin: int) -> _Tables:
    return _Tables(recipe, margin)


class _Grower:
    """Grows the contours of one picture; `mask` [P, P] holds the regions that are taken."""

    def __init__(self, tables: _Tables, draws: Draws):
        self.tables, self.draws = tables, draws
        self.mask = tables.empty_mask.copy()

    def pair(self) -> tuple[list[tuple[int, int]], list[_Snake]]:
        """The tails and the two whole contours; starts again as often as it must."""
        while True:
            pair = self._seed_pair()
            if pair is None:
                continue
            self.mask[:] = self.tables.empty_mask
            tails = [snake.tip for snake in pair]
            for _ in range(self.tables.recipe.contour_length - 1):
                for i in (0, 1):
                    pair[i] = pair[i] and self._extend(pair[i])
                if None in pair:
                    break
            else:
                self._take(pair[1].region)  # as published: the first one's last region is not
                return tails, pair

    def distractors(self) -> list[_Stroke]:
        """The paddles of all short contours; one that finds no place is left out."""
        strokes = []
        for _ in range(self.tables.recipe.distractors):
            for _ in range(DISTRACTOR_TRIES):
                before = self.mask.copy()
                snake = self._short()
                if snake is not None:
                    self._take(snake.region)
                    strokes += snake.strokes
                    break
                self.mask = before
        return strokes

    def picture(self, strokes: list[_Stroke]) -> Float32[np.ndarray, "R R"]:
        """The window with strokes, the brighter one where two meet."""
        pad, size = self.tables.pad, self.tables.recipe.size
        canvas = np.zeros_like(self.mask)
        for stroke in strokes:
            window = _window(canvas, stroke, pad)
            np.maximum(window, stroke.patch, out=window)
        return canvas[pad : pad + size, pad : pad + size]

    def _short(self) -> _Snake | None:
        snake = self._seed(self._free, range(-180, 180))
        for _ in range(self.tables.recipe.distractor_length - 1):
            snake = snake and self._extend(snake)
        return snake

    def _seed_pair(self) -> list[_Snake] | None:
        # A direction without a place restarts the pair, so only those with one need be drawn.
        central = self.tables.central
        first = self._seed(central.get, list(central))
        if first is None:
            return None
        second = self._seed(lambda _: self._beside(first.tip), range(-180, 180))
        return None if second is None else [first, second]

    def _beside(self, tail: tuple[int, int]) -> np.ndarray:
        turn = math.radians(self.draws.below(360))
        distance = self.tables.recipe.seed_distance
        row, column = tail
        place = row + distance * math.sin(turn), column + distance * math.cos(turn)
        return np.array([[round(x) for x in place]])

    def _free(self, degrees: int) -> np.ndarray:
        """Where a short contour may start in a direction."""
        pad, size = self.tables.pad, self.tables.recipe.size
        taken = self.mask[pad : pad + size, pad : pad + size] > BLOCKED
        if 1 - taken.mean() < LEAST_FREE:
            return np.empty((0, 2), int)
        taken[[0, -1]] = taken[:, [0, -1]] = True
        return self.tables.free(taken, degrees)

    def _seed(
        self, places: Callable[[int], np.ndarray], directions: Sequence[int]
    ) -> _Snake | None:
        """A contour's first paddle; `places` gives the tails that a direction allows."""
        t = self.tables
        for _ in range(TRIES):
            degrees = directions[self.draws.below(len(directions))]
            free = places(degrees)
            if not len(free):
                return None
            tail = tuple(free[self.draws.below(len(free))].tolist())
            angle = math.radians(degrees)
            head = _sum(tail, displacement(angle, t.recipe.paddle_length))
            anchor = _sum(head, displacement(angle + math.pi, t.recipe.paddle_length + t.margin))
            if all(0 <= x < t.recipe.size for x in (*head, *anchor)):
                patch, region = t.stroke(angle)
                return _Snake(anchor, angle, _Stroke(*tail, region), [_Stroke(*tail, patch)], tail)
        return None

    def _extend(self, snake: _Snake) -> _Snake | None:
        """One more paddle, or None where there is no room."""
        t = self.tables
        if isinstance(snake.turn, float):
            weight = t.weight(snake.turn)
            step = displacement(snake.turn, t.recipe.paddle_length + 2 * t.margin)
        else:
            weight, step = t.weights[snake.turn], t.onward[snake.turn]
        pivot = _sum(snake.anchor, step)
        origin = (pivot[0] + t.pad) * t.stride + pivot[1] + t.pad
        room = 1 - self.mask.ravel()[t.around + origin].max(axis=1)
        chances = np.cumsum(weight * room)
        if chances[-1] < DEAD_END:
            return None
        for _ in range(TRIES):
            drawn = chances[-1] * (self.draws.below(2**32) / 2**32)
            turn = int(np.searchsorted(chances, drawn, side="right"))
            head = _sum(pivot, t.places[turn])
            region = _Stroke(*head, t.regions[turn])
            if (_window(self.mask, region, t.pad) + region.patch).max() < OVERLAP:
                self._take(snake.region)
                strokes = [*snake.strokes, _Stroke(*head, t.lines[turn])]
                return _Snake(pivot, turn, region, strokes, head)
        return None

    def _take(self, region: _Stroke) -> None:
        window = _window(self.mask, region, self.tables.pad)
        np.maximum(window, region.patch, out=window)


def _window(canvas: np.ndarray, stroke: _Stroke, pad: int) -> np.ndarray:
    """The pixels of a padded canvas under a stroke."""
    half = stroke.patch.shape[0] // 2
    row, column = stroke.row + pad - half, stroke.column + pad - half
    return canvas[row : row + 2 * half + 1, column : column + 2 * half + 1]


def _sum(place: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    return place[0] + step[0], place[1] + step[1]
