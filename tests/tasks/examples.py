"""Examples of a source as arrays, and metrics of outputs that are made up."""

import jax
import numpy as np


def stack(task, split="train", count=200, seed=0):
    """Name -> array of the first `count` examples."""
    source = task.source(split, seed)
    examples = [source[i] for i in range(count)]
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def one_hot(answers, size):
    """Logits that say `answers`; ids outside [0, size) say nothing."""
    return (np.asarray(answers)[..., None] == np.arange(size)).astype(np.float32)


def value(task, outputs, batch, name):
    """One metric of a batch."""
    total, weight = jax.jit(task.measure)(outputs, batch)[name]
    counts = np.asarray(weight) > 0
    return float(np.mean(np.asarray(total)[counts] / np.asarray(weight)[counts]))


def texts(batch):
    """Text up to the answer, and the answer, of rows of bytes."""
    for row, labels in zip(batch["inputs"], batch["targets"], strict=True):
        asked = np.flatnonzero(labels >= 0)
        answer = bytes(labels[asked].astype(np.uint8)).decode("latin-1")
        yield bytes(row[: asked[0] + 1].astype(np.uint8)).decode("latin-1"), answer
