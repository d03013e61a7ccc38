"""HiPPO matrices: x' = A x + B u keeps the coefficients of u's past in orthogonal polynomials.

Sources: Gu et al. 2020 (arXiv:2008.07669): LegS, LegT, LagT; Gu et al. 2022 (arXiv:2206.12037):
Fourier, and the time scale of LegT; the normal form: Gu et al. 2022 (arXiv:2111.00396, theorem 1).
Constants of an initialisation: NumPy in float64, never parameters.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Complex, Float

Measure = Literal["legs", "legt", "lagt", "fourier"]


def hippo(measure: Measure, n: int) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, "N"]]:
    """The pair (A, B) of a measure, float64.

    Raises:
        ValueError: for an unknown measure, n below 1, and an odd n with "fourier".
    """
    known = {"legs": _legs, "legt": _legt, "lagt": _lagt, "fourier": _fourier}
    if measure not in known:
        raise ValueError(f"unknown measure {measure!r}; known: {', '.join(known)}")
    if n < 1 or (measure == "fourier" and n % 2):
        raise ValueError(f"n must be positive, and even for fourier; got {n=}, {measure=}")
    return known[measure](n)


def hippo_dplr(
    n: int,
) -> tuple[
    Complex[np.ndarray, "M"],
    Complex[np.ndarray, "M"],
    Complex[np.ndarray, "M"],
    Complex[np.ndarray, "N M"],
]:
    """HiPPO-LegS as diagonal minus rank one, (lam, p, b, v), M = n/2 of each conjugate pair.

    With every vector completed by its conjugate, A = v (diag(lam) - p p*) v* and B = v b. The
    eigenvalues have negative imaginary parts, the largest first; v are the eigenvectors.

    Raises:
        ValueError: for an n that is not even and positive.
    """
    check_even(n)
    A, B = hippo("legs", n)
    P = np.sqrt(np.arange(n) + 0.5)
    # A + P P^T = -1/2 + (skew-symmetric), and i times that part is Hermitian.
    skew = A + np.outer(P, P) + 0.5 * np.eye(n)
    frequencies, v = np.linalg.eigh(-1j * skew)
    lam, v = -0.5 + 1j * frequencies[: n // 2], v[:, : n // 2]
    return lam, v.conj().T @ P, v.conj().T @ B, v


def check_even(n: int) -> None:
    """Raises ValueError unless n can be a number of conjugate pairs' members."""
    if n < 2 or n % 2:
        raise ValueError(
            f"a state of conjugate pairs has an even, positive size; got {n}: use {max(2, n + 1)}"
        )


def _legs(n: int):
    q = np.sqrt(2 * np.arange(n) + 1.0)
    return -np.tril(np.outer(q, q), -1) - np.diag(np.arange(n) + 1.0), q


def _legt(n: int):
    q = np.sqrt(2 * np.arange(n) + 1.0)
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    sign = np.where(lag >= 0, 1.0, (-1.0) ** lag)
    return -0.5 * np.outer(q, q) * sign, 0.5 * q


def _lagt(n: int):
    return 0.5 * np.eye(n) - np.tril(np.ones((n, n))), np.ones(n)


def _fourier(n: int):
    b = np.zeros(n)
    b[::2] = np.sqrt(2.0)
    b[0] = 1.0
    turn = np.zeros(n - 1)
    turn[::2] = np.pi * np.arange(n // 2)  # rotates the pair (2 m, 2 m + 1) at frequency m / 2
    return np.diag(turn, -1) - np.diag(turn, 1) - np.outer(b, b), b
