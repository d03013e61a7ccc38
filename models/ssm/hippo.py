"""HiPPO matrices: x' = A x + B u keeps the coefficients of u's past in orthogonal functions.

Sources: Gu et al. 2020 (arXiv:2008.07669): LegS, LegT, LagT; Voelker et al. 2019: LMU; Gu et al.
2022 (arXiv:2206.12037): Fourier, and the time scale of LegT; the normal form: Gu et al. 2022
(arXiv:2111.00396, theorem 1). Constants of an initialisation: NumPy in float64, never parameters.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Complex, Float

_unread = contextvars.ContextVar("unread", default=False)

Measure = Literal[
    "legs",
    "legsd",
    "legt",
    "lmu",
    "lagt",
    "tlagt",
    "glagt",
    "fourier",
    "fourier2",
    "fourier_decay",
    "fourier_diag",
]


def hippo(
    measure: Measure, n: int, *, alpha: float = 0.0, beta: float | None = None
) -> tuple[Float[np.ndarray, "N N"], Float[np.ndarray, "N"]]:
    """The pair (A, B) of a measure, float64.

    LegS weighs all of the past alike ("legsd": its normal part); LegT, LMU (LegT with other units)
    and Fourier see a window; LagT weighs the past exponentially.

    Args:
        measure: which orthogonal functions and weight.
        n: number of coefficients; even for the Fourier family.
        alpha: exponent of generalised Laguerre functions ("glagt"), below 1.
        beta: tilt of Laguerre's weight, positive: "tlagt" (default 1) and "glagt" (default 0.01).

    Raises:
        ValueError: for an unknown measure, n below 1, an odd n with the Fourier family, and an
            alpha or beta out of range or of another measure.
    """
    known = _MEASURES
    if measure not in known:
        raise ValueError(f"unknown measure {measure!r}; known: {', '.join(known)}")
    if n < 1 or (measure.startswith("fourier") and n % 2):
        raise ValueError(f"n must be positive, and even for fourier; got {n=}, {measure=}")
    if (alpha and measure != "glagt") or (beta is not None and measure not in ("tlagt", "glagt")):
        raise ValueError(f"alpha belongs to glagt, beta to tlagt and glagt; got {measure=}")
    if alpha >= 1 or (beta is not None and beta <= 0):
        raise ValueError(f"alpha must be below 1 and beta positive; got {alpha=}, {beta=}")
    if measure == "tlagt":
        return _tlagt(n, 1.0 if beta is None else beta)
    if measure == "glagt":
        return _glagt(n, alpha, 0.01 if beta is None else beta)
    return known[measure](n)


class Dplr(NamedTuple):
    """A HiPPO pair as diagonal minus low rank, one of each conjugate pair, M = n / 2.

    With every vector completed by its conjugate, A = v (diag(lam) - sum_r p_r p_r*) v*, B = v b.
    """

    lam: Complex[np.ndarray, "M"]  # negative imaginary parts, the largest first
    p: Complex[np.ndarray, "R M"]
    b: Complex[np.ndarray, "M"]
    v: Complex[np.ndarray, "N M"]  # eigenvectors of the normal part


@contextlib.contextmanager
def unread() -> Iterator[None]:
    """Within it `nplr` gives minus ones in the right shapes, for who asks what a model would cost.

    Eigenvectors of thousands of states take minutes. Not for what is traced and then run: JAX
    keeps traces.
    """
    token = _unread.set(True)
    try:
        yield
    finally:
        _unread.reset(token)


def nplr(measure: Measure, n: int) -> Dplr:
    """The normal plus low-rank form of a measure, in the eigenbasis of its normal part.

    The rank is 2 for LegT, 0 for "legsd" (a p of zeros), else 1.

    Raises:
        ValueError: for an n that is not even and positive, and a measure without such a form here.
    """
    check_even(n)
    if _unread.get():
        shapes = (n // 2,), (len(_low_rank(measure, 2)), n // 2), (n // 2,), (n, n // 2)
        return Dplr(*(np.broadcast_to(-1 + 0j, shape) for shape in shapes))
    A, B = hippo(measure, n)
    P = _low_rank(measure, n)
    normal = A + P.T @ P
    # A constant times the identity plus a skew-symmetric part, and i times that part is Hermitian.
    real = np.mean(np.diag(normal))
    frequencies, v = np.linalg.eigh(-1j * (normal - real * np.eye(n)))
    lam, v = real + 1j * frequencies[: n // 2], v[:, : n // 2]
    if measure.startswith("fourier"):
        # Frequency 0 is a double eigenvalue, whose real plane must become one conjugate pair.
        v[:, -1] = 0.5**0.5 * (np.eye(n)[0] + 1j * np.eye(n)[1])
    return Dplr(lam, P @ v.conj(), v.conj().T @ B, v)


def hippo_dplr(
    n: int,
) -> tuple[
    Complex[np.ndarray, "M"],
    Complex[np.ndarray, "M"],
    Complex[np.ndarray, "M"],
    Complex[np.ndarray, "N M"],
]:
    """HiPPO-LegS as diagonal minus rank one, (lam, p, b, v); see `Dplr`.

    Raises:
        ValueError: for an n that is not even and positive.
    """
    lam, p, b, v = nplr("legs", n)
    return lam, p[0], b, v


def check_even(n: int) -> None:
    """Raises ValueError unless n can be a number of conjugate pairs' members."""
    if n < 2 or n % 2:
        raise ValueError(
            f"a state of conjugate pairs has an even, positive size; got {n}: use {max(2, n + 1)}"
        )


def _low_rank(measure: str, n: int) -> Float[np.ndarray, "R N"]:
    """P such that A + P^T P is normal."""
    half = np.sqrt(np.arange(n) + 0.5)
    if measure == "legs":
        return half[None]
    if measure == "legsd":
        return np.zeros((1, n))
    if measure == "legt":
        odd = np.arange(n) % 2
        return np.stack([half * odd, half * (1 - odd)])
    if measure == "lagt":
        return np.full((1, n), 0.5**0.5)
    weights = {"fourier": 1.0, "fourier_decay": 0.5, "fourier2": 2.0}
    if measure in weights:
        return weights[measure] ** 0.5 * _fourier_weights(n)[None]
    raise ValueError(
        f"no normal plus low-rank form of {measure!r}; known: legs, legsd, legt, lagt, "
        f"{', '.join(weights)}"
    )


def _legs(n: int):
    q = np.sqrt(2 * np.arange(n) + 1.0)
    return -np.tril(np.outer(q, q), -1) - np.diag(np.arange(n) + 1.0), q


def _legsd(n: int):
    A, B = _legs(n)
    return A + 0.5 * np.outer(B, B), 0.5 * B


def _legt(n: int):
    q = np.sqrt(2 * np.arange(n) + 1.0)
    return -0.5 * np.outer(q, q) * _signs(n), 0.5 * q


def _lmu(n: int):
    q = 2 * np.arange(n) + 1.0
    return -q[:, None] * _signs(n).T, (-1.0) ** np.arange(n) * q


def _signs(n: int):
    """1 on and below the diagonal, (-1)^(n - k) above it."""
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    return np.where(lag >= 0, 1.0, (-1.0) ** lag)


def _lagt(n: int):
    return _tlagt(n, 1.0)[0] + 0.5 * np.eye(n), np.ones(n)


def _tlagt(n: int, beta: float):
    return 0.5 * (1 - beta) * np.eye(n) - np.tril(np.ones((n, n))), np.full(n, beta)


def _glagt(n: int, alpha: float, beta: float):
    # Norms of the generalised Laguerre polynomials, and their values at the present.
    norms = [math.sqrt(math.gamma(k + alpha + 1) / math.factorial(k)) for k in range(n)]
    ends = [math.gamma(alpha + k + 1) / math.gamma(alpha + 1) / math.factorial(k) for k in range(n)]
    A = -0.5 * (1 + beta) * np.eye(n) - np.tril(np.ones((n, n)), -1)
    norms = np.array(norms)
    scale = math.gamma(1 - alpha) ** -0.5 * beta ** (0.5 * (1 - alpha))
    return A * norms / norms[:, None], scale * np.array(ends) / norms


def _fourier_weights(n: int) -> Float[np.ndarray, "N"]:
    b = np.zeros(n)
    b[::2] = np.sqrt(2.0)
    b[0] = 1.0
    return b


def _fourier(n: int, decay: float = 1.0, base: float = np.pi, gain: float = 1.0):
    """S - decay b b^T and gain b; S rotates the pair (2 m, 2 m + 1) at `base` m radians."""
    b = _fourier_weights(n)
    turn = np.zeros(n - 1)
    turn[::2] = base * np.arange(n // 2)
    return np.diag(turn, -1) - np.diag(turn, 1) - decay * np.outer(b, b), gain * b


def _fourier_diag(n: int):
    A, B = _fourier(n, decay=0.0, base=2 * np.pi)
    return A - 0.5 * np.eye(n), B


_MEASURES: dict[str, Callable] = {
    "legs": _legs,
    "legsd": _legsd,
    "legt": _legt,
    "lmu": _lmu,
    "lagt": _lagt,
    "tlagt": _tlagt,
    "glagt": _glagt,
    "fourier": _fourier,
    "fourier2": lambda n: _fourier(n, 2.0, 2 * np.pi, 2.0),
    "fourier_decay": lambda n: _fourier(n, 0.5, gain=0.5),
    "fourier_diag": _fourier_diag,
}
