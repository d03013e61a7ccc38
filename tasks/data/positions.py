"""Where in a row its labels are met: by position, and at each row's last label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seqzoo.tasks.task import IGNORED, Metrics, example_weight

POSITIONS, LAST = "accuracy_by_position", "last_accuracy"
MOST = 64  # positions that are told apart; more are joined


def by_position(outputs: Array, batch: Mapping[str, Array]) -> Metrics:
    """Labels met and labels there, at every position and at the last of each row.

    Nothing where labels do not stand at positions. Runs inside jit.
    """
    targets = batch.get("targets")
    if targets is None or jnp.ndim(targets) != 2 or jnp.shape(outputs)[:2] != targets.shape:
        return {}
    if jnp.ndim(outputs) != 3 or not jnp.issubdtype(targets.dtype, jnp.integer):
        return {}
    labelled = (targets != IGNORED) & (example_weight(batch) > 0)[:, None]
    right = labelled & (jnp.argmax(outputs, axis=-1) == targets)
    last = targets.shape[1] - 1 - jnp.argmax(labelled[:, ::-1], axis=1)
    at_last = jnp.take_along_axis(right, last[:, None], axis=1)[:, 0]
    return {
        POSITIONS: (right.sum(0).astype(jnp.float32), labelled.sum(0).astype(jnp.float32)),
        LAST: (at_last.sum().astype(jnp.float32), labelled.any(1).sum().astype(jnp.float32)),
    }


def curve(right: np.ndarray, labelled: np.ndarray) -> dict[str, Any]:
    """Accuracy at positions that have labels, neighbours joined where they are many.

    The arrays have positions last; the lists are for each replica where they have more axes.
    """
    places = np.flatnonzero(labelled.reshape(-1, labelled.shape[-1]).sum(0))
    groups = np.array_split(places, min(MOST, max(1, len(places)))) if len(places) else []
    met = np.stack([right[..., g].sum(-1) for g in groups], -1) if groups else np.zeros(0)
    there = np.stack([labelled[..., g].sum(-1) for g in groups], -1) if groups else np.ones(0)
    return {"at": [int(g[-1]) for g in groups], "accuracy": (met / there).tolist()}
