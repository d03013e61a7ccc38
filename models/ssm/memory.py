"""Online function approximation by HiPPO (Gu et al. 2020, arXiv:2008.07669), in NumPy float64.

    coefficients = remember(signal, "legs", 32)            # after every sample, from the last alone
    past = reconstruct(coefficients[-1], "legs", ages)     # the whole past, from 32 numbers

LegS follows x' = (A x + B u) / t: no time scale, all of the past equally. The others follow
x' = A x + B u in units of a window (or, LagT, of an exponentially decaying weight).
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from jaxtyping import Float
from numpy.polynomial import Laguerre, Legendre

from seqzoo.models.ssm.discretize import Method
from seqzoo.models.ssm.hippo import Measure, hippo

# Time units of the matrices that one window lasts (LagT: one time constant of its weight).
WINDOW = {"legt": 2.0, "fourier": 2.0, "lmu": 1.0, "fourier2": 1.0, "lagt": 1.0}


def discretize_dense(
    A: Float[np.ndarray, "N N"], B: Float[np.ndarray, "N"], dt: float, method: Method
) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, "N"]]:
    """The discrete pair of a dense system; `discretize` is for diagonal ones.

    Raises:
        ValueError: for an unknown method.
    """
    one = np.eye(len(B))
    if method == "zoh":
        from scipy.linalg import expm  # late: it is imported slowly, and few need it

        both = np.zeros((len(B) + 1,) * 2)
        both[:-1, :-1], both[:-1, -1] = A, B
        both = expm(dt * both)
        return both[:-1, :-1], both[:-1, -1]
    weights = {"forward": 0.0, "bilinear": 0.5, "backward": 1.0}  # of the step's end
    if method not in weights:
        raise ValueError(f"unknown discretisation {method!r}; known: {', '.join(get_args(Method))}")
    below = one - weights[method] * dt * A
    above = one + (1 - weights[method]) * dt * A
    return np.linalg.solve(below, above), np.linalg.solve(below, dt * B)


def remember(
    signal: Float[np.ndarray, "L"],
    measure: Measure,
    n: int,
    *,
    window: float | None = None,
    method: Method = "bilinear",
) -> Float[np.ndarray, "L N"]:
    """The n coefficients after every sample, each from those before and the sample alone.

    Args:
        signal: samples.
        measure: legs, or legt, lmu, fourier, fourier2, lagt with a window.
        n: number of coefficients.
        window: samples that the memory spans; legs has none.
        method: of discretisation; with legs "zoh" is in logarithmic time.

    Raises:
        ValueError: for a measure without a known reconstruction, and a window that is missing,
            not positive, or given to legs.
    """
    _check(measure)
    A, B = hippo(measure, n)
    if (window is None) != (measure == "legs") or (window is not None and window <= 0):
        raise ValueError(f"a positive window belongs to all measures but legs; got {window=}")
    if window is not None:
        step = discretize_dense(A, B, WINDOW[measure] / window, method)
    x, out = np.zeros(n), np.zeros((len(signal), n))
    for t, u in enumerate(signal, 1):
        dA, dB = _legs_step(A, B, t, method) if window is None else step
        x = dA @ x + dB * u
        out[t - 1] = x
    return out


def _legs_step(A: np.ndarray, B: np.ndarray, t: int, method: Method):
    """From t - 1 to t samples. The first makes the past constant, whatever the method."""
    if t == 1:
        return np.zeros_like(A), -np.linalg.solve(A, B)
    return discretize_dense(A, B, np.log(t / (t - 1)) if method == "zoh" else 1 / t, method)


def basis(measure: Measure, n: int, ages: Float[np.ndarray, "K"]) -> Float[np.ndarray, "N K"]:
    """The functions that the coefficients belong to, at `ages` in [0, 1] of the window.

    For legs the whole past is the window; for lagt ages are in time constants and have no bound.

    Raises:
        ValueError: for a measure without a known reconstruction.
    """
    _check(measure)
    if measure in ("legs", "legt"):
        return np.stack([(2 * k + 1) ** 0.5 * Legendre.basis(k)(1 - 2 * ages) for k in range(n)])
    if measure == "lmu":
        return np.stack([Legendre.basis(k)(2 * ages - 1) for k in range(n)])
    if measure == "lagt":
        return np.stack([Laguerre.basis(k)(ages) * np.exp(-ages / 2) for k in range(n)])
    phases = 2 * np.pi * np.arange(n // 2)[:, None] * ages
    waves = 2**0.5 * np.stack([np.cos(phases), np.sin(phases)], 1).reshape(n, -1)
    waves[0] = 1
    return waves


def reconstruct(
    coefficients: Float[np.ndarray, "... N"], measure: Measure, ages: Float[np.ndarray, "K"]
) -> Float[np.ndarray, "... K"]:
    """The signal as it was at `ages` before now; see `basis`."""
    return coefficients @ basis(measure, coefficients.shape[-1], np.asarray(ages))


def _check(measure: str) -> None:
    if measure != "legs" and measure not in WINDOW:
        raise ValueError(f"no reconstruction from {measure!r}; known: legs, {', '.join(WINDOW)}")
