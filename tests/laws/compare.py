"""Scale-free comparison of arrays."""

from __future__ import annotations

import numpy as np


def rms(x) -> float:
    """Root mean square of x, of any shape."""
    x = np.asarray(x)
    wide = np.complex128 if np.iscomplexobj(x) else np.float64
    return float(np.sqrt(np.mean(np.abs(x.astype(wide)) ** 2)))


def relative_error(actual, desired) -> float:
    """Root mean square of `actual` - `desired` over that of `desired`."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    expect(actual.shape == desired.shape, f"shape {actual.shape}, expected {desired.shape}")
    if desired.size == 0:
        return 0.0
    return rms(actual - desired) / max(rms(desired), np.finfo(np.float32).tiny)


def assert_close(actual, desired, *, ratio=1e-5, what="value"):
    """Fails if rms(actual - desired) > ratio * rms(desired): scale-free, unlike atol; NaN fails.

    The AssertionError calls it `what`.
    """
    error = relative_error(actual, desired)
    expect(error <= ratio, f"{what}: relative rms error {error:.3g}, allowed {ratio:.3g}")


def expect(truth, seen: str) -> None:
    """An assertion that python -O does not take out. Raises AssertionError with what was seen."""
    if not truth:
        raise AssertionError(seen)
