"""Laws of the parallel form."""

from __future__ import annotations

import jax
import numpy as np

from .cases import ONES, B, L, normal, runs
from .compare import expect, rms
from .subject import Subject, flat


def shapes_and_numbers(s: Subject) -> None:
    """[B, L, D] float32 in and out, and a row without segment ids is a row of one segment."""
    x = normal(0, B, L, s.d_model)
    y = s.rows(x, ONES).y
    expect(y.shape == x.shape, f"shape {y.shape}, expected {x.shape}")
    expect(y.dtype == np.float32, f"{y.dtype} out of float32")
    expect(rms(y) > 1e-3, f"outputs are nearly zero: rms {rms(y):.1e}")
    s.close(s.plain(x).y, y, what="outputs without segment ids")


def packed_equals_separate(s: Subject) -> None:
    """Segments that share a row give what each gives in a row of its own."""
    x = normal(1, B, L, s.d_model)
    packed = np.where(s.ids[..., None] > 0, s.rows(x, s.ids).y, 0)
    s.close(packed, alone(s, x, s.ids), what="outputs of packed segments")


def alone(s: Subject, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The outputs of every segment when it has a row to itself, put back where it came from."""
    segments = [(b, run) for b in range(len(x)) for run in runs(ids[b])]
    y = np.zeros_like(x)
    for start in range(0, len(segments), B):
        group = segments[start : start + B]
        rows, row_ids = np.zeros_like(x), np.zeros((B, L), np.int32)
        for i, (b, run) in enumerate(group):
            rows[i, : len(run)], row_ids[i, : len(run)] = x[b, run], 1
        out = s.rows(rows, row_ids).y
        for i, (b, run) in enumerate(group):
            y[b, run] = out[i, : len(run)]
    return y


def padding_is_invisible(s: Subject) -> None:
    """Garbage at padding, of x and within, changes no output and no gradient, and gets none."""
    x = normal(2, B, L, s.d_model)
    real = s.ids > 0
    dy = normal(3, *x.shape) * real[..., None]
    clean = s.rows(np.where(real[..., None], x, 0), s.ids, dy)
    dirty = s.rows(x, s.ids, dy, within=1e4 * normal(4, *x.shape))
    s.close(dirty.y[real], clean.y[real], what="outputs at real tokens")
    expect(np.all(dirty.dx == 0, where=~real[..., None]), "padding has a gradient")
    expect(np.all(dirty.dwithin == 0), "padding within has a gradient")
    for path, g in jax.tree_util.tree_leaves_with_path((dirty.dparams, dirty.dx)):
        expect(np.all(np.isfinite(g)), f"the gradient{jax.tree_util.keystr(path)} is not finite")
    s.close(dirty.dx, clean.dx, what="gradient of x")
    s.close(flat(dirty.dparams), flat(clean.dparams), what="gradient of the parameters")


def causal(s: Subject) -> None:
    """Neither a value nor a gradient comes from the future, and the past is felt."""
    t = 7
    x = normal(5, B, L, s.d_model)
    future = x.copy()
    future[:, t + 1 :] = 300.0 * normal(6, B, L - t - 1, s.d_model)
    before, after = s.rows(x, ONES).y[:, : t + 1], s.rows(future, ONES).y[:, : t + 1]
    s.close(after, before, what="outputs before the changed future")
    dx = _gradient_at(s, x, t)
    expect(np.all(dx[:, t + 1 :] == 0), "a gradient from the future")
    expect(rms(dx[:, t]) > 1e-4, "the current token is not felt")
    expect(rms(dx[:, t - 1]) > 1e-6, "the token before is not felt")
    expect(rms(dx[:, : t - 1]) > 1e-6, "the past is not felt")


def both_ways(s: Subject) -> None:
    """The past and the future are felt."""
    t = 6
    dx = _gradient_at(s, normal(5, B, L, s.d_model), t)
    expect(rms(dx[:, :t]) > 1e-6, "the past is not felt")
    expect(rms(dx[:, t + 1 :]) > 1e-6, "the future is not felt")


def _gradient_at(s: Subject, x: np.ndarray, t: int) -> np.ndarray:
    dy = np.zeros_like(x)
    dy[:, t] = normal(8, B, s.d_model)
    return s.rows(x, ONES, dy).dx


def rows_are_independent(s: Subject) -> None:
    """What the other rows of a batch hold is not felt."""
    x = normal(9, B, L, s.d_model)
    other = x.copy()
    other[1:] = 50 * normal(10, B - 1, L, s.d_model)
    real = s.ids[0] > 0
    dy = normal(19, *x.shape) * (s.ids[..., None] > 0)
    one, same = s.rows(x, s.ids, dy), s.rows(other, s.ids, dy)
    s.close(same.y[0][real], one.y[0][real], what="outputs of the row that stayed")
    s.close(same.dx[0], one.dx[0], what="gradient of the row that stayed")


def every_parameter_matters(s: Subject) -> None:
    """No parameter has a gradient of exactly zero, and all are finite."""
    x, dy = normal(18, B, L, s.d_model), normal(19, B, L, s.d_model)
    dparams = s.rows(x, s.ids, dy).dparams
    for path, g in jax.tree_util.tree_leaves_with_path(dparams):
        name = jax.tree_util.keystr(path)
        expect(np.all(np.isfinite(g)), f"the gradient of {name} is not finite")
        expect(np.any(g != 0), f"{name} is not used")
