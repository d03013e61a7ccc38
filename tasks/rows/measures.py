"""How rows are measured where no other task is: numbers for each step, and a trivial rule of lm."""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seqzoo.tasks.task import IGNORED, Metrics, Source, example_weight


def measure_steps(outputs: Array, batch: Mapping[str, Array]) -> Metrics:
    """Mean squared error over the numbers of all real steps."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    square = jnp.square(outputs - batch["targets"]).mean(-1)
    weight = jnp.broadcast_to(example_weight(batch)[:, None], square.shape)
    if "segment_ids" in batch:
        weight = weight * (batch["segment_ids"] > 0)
    pair = jnp.sum(jnp.where(weight > 0, square, 0) * weight), weight.sum()
    return {"loss": pair, "mse": pair}


def unigram(train: Source, own: Source, vocab_size: int) -> float:
    """Cost of `own` for a model that knows how often each token comes in training.

    Bits a byte where examples say how many bytes they are, else nats a token.
    """
    often, _ = _counted(train, vocab_size)
    counts, size = _counted(own, vocab_size)
    chance = (often + 1) / (often.sum() + vocab_size)
    nats = -float((counts * np.log(chance)).sum())
    return nats / math.log(2) / size if size else nats / max(counts.sum(), 1)


def _counted(source: Source, vocab_size: int) -> tuple[np.ndarray, float]:
    """How often each token comes, and how many bytes there are."""
    counts, size = np.zeros(vocab_size), 0.0
    for i in range(len(source)):
        example = source[i]
        found = example["targets"]
        counts += np.bincount(found[found != IGNORED], minlength=vocab_size)
        size += float(example.get("bytes", 0))
    return counts, size
