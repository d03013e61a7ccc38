"""What an encoder's vectors tell of a task's classes, while the encoder stays as it is.

linear      ridge regression of the classes, 1 or 0 each, on standardised vectors; its strength is
            the best on validation
neighbours  the nearest training rows by cosine vote with exp(cosine / 0.07) (Wu et al. 2018,
            arXiv 1805.01978; as in DINO, 20 of them)

Beside both the same of the encoder as it was initialised. Vectors are pooled rows [N, D]; those of
all splits are held in memory, in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from seqzoo.models.whole.readout import pool
from seqzoo.tasks.pretraining import Pretraining
from seqzoo.tasks.task import Source, Task
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.data import eval_batches
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.program import Program, replica_keys
from seqzoo.train.loop.state import Arrays

STRENGTHS = 10.0 ** np.arange(-6, 3)  # of the ridge, in units of rows
NEIGHBOURS, TEMPERATURE = 20, 0.07
BLOCK = 1024  # rows whose neighbours are looked for at once


class Labelled(NamedTuple):
    """Vectors of a split and their classes."""

    vectors: Float[np.ndarray, "N D"]
    classes: Int[np.ndarray, " N"]


def probe_run(run: Path, *, which: str = "selected", split: str = "test") -> dict[str, Any]:
    """Accuracy of both probes on a run's encoder and on random weights, a list of several seeds.

    A pretraining run is probed with the classes of the task that it wraps. `which` is as for
    `evaluate_run`. Raises ValueError for a task that has not one class a row.
    """
    own = RunFolder(run).experiment()
    task = own.task.of if isinstance(own.task, Pretraining) else own.task
    _check(task)
    which = own.task.selection if which == "selected" else which
    found = [_probed(run, task, which, seed, split) for seed in own.train.seeds]
    about = {"task": own.task.name, "model": own.model, "split": split}
    joined = {name: [each[name] for each in found] for name in found[0]}
    if own.train.replicas == 1:
        return {**about, **{name: values[0] for name, values in joined.items()}}
    return {**about, "seeds": list(own.train.seeds), **joined}


def _check(task: Task) -> None:
    target = np.asarray(task.source("test")[0]["targets"])
    one = target.ndim == 0 and np.issubdtype(target.dtype, np.integer)
    if task.spec.head != "classify" or not one:
        raise ValueError(
            f"a probe tells one class of each row, and task {task.name} has other answers; "
            "fine-tune with --init-from, or choose a task with classes"
        )


def _probed(run: Path, task: Task, which: str, seed: int, split: str) -> dict[str, float]:
    program, state, meta = load_run(run, which=which, seed=seed)
    fresh = program.init(replica_keys(program.experiment)[0])
    sources = {name: task.source(name, seed) for name in ("train", "validation", split)}
    embed = _embedding(program)
    found: dict[str, float] = {"step": meta["step"]}
    for kind, weights in (("", state), ("random_", fresh)):
        variables = weights.params, weights.rest
        parts = {name: embed(*variables, source) for name, source in sources.items()}
        train, test = parts["train"], parts[split]
        found[f"{kind}linear"] = linear_probe(train, parts["validation"], test)
        found[f"{kind}neighbours"] = neighbours(train, test)
    return found


def _embedding(program: Program) -> Callable[[Arrays, Arrays, Source], Labelled]:
    """Parameters, other variables and a split to what the encoder makes of it."""

    @jax.jit
    def embed(params: Arrays, rest: Arrays, inputs: jax.Array, ids: jax.Array | None) -> jax.Array:
        model = program.plan.merge(params, rest)
        return pool(model.encoder(inputs, ids), ids, model.pooling)

    def call(params: Arrays, rest: Arrays, source: Source) -> Labelled:
        size = program.experiment.train.eval_batch_size or program.experiment.train.batch_size
        vectors, classes = [], []
        for batch in eval_batches(source, size, threads=0):
            made = embed(params, rest, batch["inputs"], batch.get("segment_ids"))
            real = batch["weight"] > 0
            vectors.append(np.asarray(made, np.float64)[real])
            classes.append(np.asarray(batch["targets"])[real])
        return Labelled(np.concatenate(vectors), np.concatenate(classes))

    return call


def linear_probe(train: Labelled, validation: Labelled, test: Labelled) -> float:
    """Accuracy on `test` of the ridge that is best on `validation`, the strongest of equal ones."""
    mean, scale = train.vectors.mean(0), train.vectors.std(0)
    scale = np.where(scale > 0, scale, 1)
    x, held, asked = ((part.vectors - mean) / scale for part in (train, validation, test))
    count = 1 + max(part.classes.max() for part in (train, validation, test))
    wanted = np.eye(count)[train.classes]
    share = wanted.mean(0)
    values, directions = np.linalg.eigh(x.T @ x)
    along = directions.T @ (x.T @ (wanted - share))

    def accuracy(rows: np.ndarray, classes: np.ndarray, strength: float) -> float:
        weights = directions @ (along / (np.maximum(values, 0) + strength * len(x))[:, None])
        return float(np.mean((rows @ weights + share).argmax(1) == classes))

    best = max(STRENGTHS, key=lambda s: (accuracy(held, validation.classes, s), s))
    return accuracy(asked, test.classes, best)


def neighbours(train: Labelled, test: Labelled, count: int = NEIGHBOURS) -> float:
    """Accuracy on `test` of the vote of the nearest rows of `train`."""
    near, asked = (_unit(part.vectors) for part in (train, test))
    count, right = min(count, len(near)), 0
    votes_of = np.eye(1 + max(train.classes.max(), test.classes.max()))[train.classes]
    for start in range(0, len(asked), BLOCK):
        cosines = asked[start : start + BLOCK] @ near.T
        chosen = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        weights = np.exp(np.take_along_axis(cosines, chosen, axis=1) / TEMPERATURE)
        votes = (weights[..., None] * votes_of[chosen]).sum(1)
        right += int((votes.argmax(1) == test.classes[start : start + BLOCK]).sum())
    return right / len(asked)


def _unit(x: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N D"]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)
