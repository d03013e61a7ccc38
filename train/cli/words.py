"""Numbers of a run as a line for the reader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def words(values: Mapping[str, Any]) -> str:
    """`name value, name value`, numbers with six digits."""
    return ", ".join(f"{name} {_word(value)}" for name, value in values.items())


def bare(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics without their split."""
    return {name.rpartition("/")[2]: value for name, value in metrics.items()}


def _word(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
