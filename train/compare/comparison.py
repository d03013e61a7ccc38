"""Several models on one task with several seeds: trains, tabulates, reports.

Each model is an `Experiment`; all share task, length of the run and seeds. Results are written
after every model, so that a comparison that was stopped continues where it was, and another model
joins one that is there. Which step's model is tested belongs to the task's protocol.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from seqzoo.tasks.describe import describe
from seqzoo.tasks.task import Source
from seqzoo.train.compare import results
from seqzoo.train.compare.cost import cost
from seqzoo.train.compare.page import write_report
from seqzoo.train.compare.results import Comparison, ModelResult
from seqzoo.train.compare.seeds import SeedData, Trained, seed_data, train_seeds
from seqzoo.train.compare.tables import failures, results_table
from seqzoo.train.config import Experiment, comparable, differences
from seqzoo.train.loop.progress import SILENT, ComparisonProgress

Vectorise = Literal["auto", "always", "never"]
Match = Literal["none", "parameters"]
SMALL = 4_000_000  # parameters of all seeds together that "auto" trains in one program
SHARED = ("task", "train")  # parts of a configuration that all models must have alike
DIGESTED = 1000  # examples of a split that enter its digest
NOTES = (
    "Backbone options, a short convolution among them, are the same for all models but for what a "
    "preset brings with it.",
    "A seed means initialisation, data order and dropout; the evaluation sets are fixed and are "
    "evaluated whole.",
)


def compare(
    models: Mapping[str, Experiment],
    out: Path,
    *,
    seeds: int = 3,
    vectorise: Vectorise = "auto",
    command: str = "",
    progress: ComparisonProgress = SILENT,
) -> Comparison:
    """Trains every model that `out` does not hold yet; writes results.json and report.html there.

    Args:
        models: label -> experiment; `train.seed` is the first seed.
        out: the folder of the comparison.
        seeds: runs of each model.
        vectorise: whether the seeds of a model share one compiled program.
        command: how to make these results again, for the report.
        progress: hears of the models.

    Raises:
        ValueError: for models that do not share task and training, and where `out` holds results
            of another configuration; nothing is then written.
    """
    out = Path(out)
    check_models(models, seeds)
    first = next(iter(models.values()))
    places = tuple(range(first.train.seed, first.train.seed + seeds))
    found = _found(models, out, places)
    # Building each model and asking for each cost finds what cannot be before anything is written.
    costs = {label: cost(experiment) for label, experiment in models.items()}
    data = seed_data(first, places)
    comparison = _started(found, first, places, data, command)
    missing = {k: v for k, v in models.items() if comparison.model(k) is None}
    progress.models(len(models), len(models) - len(missing))
    if missing:
        # The first model would otherwise be timed with the making of everybody's data.
        data.train.fill(first.train.steps)
    for label, experiment in missing.items():
        together = _together(vectorise, seeds * costs[label]["parameters"])
        trained = _train(label, experiment, places, data, together, progress)
        done = _model_result(label, experiment, trained, costs[label])
        comparison = dataclasses.replace(comparison, models=(*comparison.models, done))
        results.save(comparison, out)
        progress.models(len(models), sum(comparison.model(k) is not None for k in models))
    results.save(comparison, out)
    write_report(out)
    return comparison


def show(comparison: Comparison, console: Console) -> None:
    """The table and the failed runs on the terminal."""
    console.print(results_table(comparison))
    for line in failures(comparison):
        console.print(f"failed: {line}", style="red", markup=False, highlight=False)


def check_models(models: Mapping[str, Experiment], seeds: int) -> None:
    """Raises ValueError where the models cannot be compared."""
    if not models:
        raise ValueError("a comparison needs at least one model")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1; got {seeds}")
    (label, first), *rest = models.items()
    if first.task.pretrained:
        raise ValueError(
            f"protocol {first.task.protocol} fine-tunes, and a comparison trains from scratch: "
            "pretrain and fine-tune with `seqzoo train --init-from RUN`, or choose another protocol"
        )
    for other, experiment in rest:
        protocols = [getattr(e.task, "protocol", None) for e in (first, experiment)]
        if protocols[0] != protocols[1]:
            raise ValueError(
                f"{label} is measured by protocol {protocols[0]}, {other} by {protocols[1]}: "
                "numbers of two protocols do not belong in one table"
            )
        for part in SHARED:
            one, two = (comparable(e.to_dict())[part] for e in (first, experiment))
            if one != two:
                raise ValueError(f"{label} and {other} differ in {part}: {one} against {two}")


def _found(
    models: Mapping[str, Experiment], out: Path, seeds: tuple[int, ...]
) -> Comparison | None:
    """What `out` holds already. Raises ValueError if that is of another configuration."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the comparison")
    if not (out / results.FILE).is_file():
        return None
    found = results.load(out / results.FILE)
    first = next(iter(models.values()))
    changed = _changes(found.config, _shared(first, seeds))
    if found.selection != first.task.selection:
        changed.append(f"model selection: {found.selection!r} there, {first.task.selection!r} here")
    for label, experiment in models.items():
        old = found.model(label)
        if old is not None:
            changed += _changes(old.config, _own(experiment), f"{label}: ")
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ValueError(
            f"{out} holds a comparison of another configuration:\n{lines}\n"
            "name another --out, or remove that folder"
        )
    return found


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    # `differences` reads the forms of whole experiments.
    old, new = ({"train": {}, **results.plain(x)} for x in (old, new))
    return [f"{prefix}{d.key}: {d.old!r} there, {d.new!r} here" for d in differences(old, new)]


def _shared(experiment: Experiment, seeds: tuple[int, ...]) -> dict[str, Any]:
    whole = comparable(experiment.to_dict())
    return {**{part: whole[part] for part in SHARED}, "seeds": list(seeds)}


def _own(experiment: Experiment) -> dict[str, Any]:
    return {k: v for k, v in comparable(experiment.to_dict()).items() if k not in SHARED}


def _started(
    found: Comparison | None,
    experiment: Experiment,
    seeds: tuple[int, ...],
    data: SeedData,
    command: str,
) -> Comparison:
    """The comparison before the missing models."""
    if found is not None:
        commands = dict.fromkeys([*found.command.splitlines(), *command.splitlines()])
        return dataclasses.replace(found, command="\n".join(commands), created=results.now())
    task = experiment.task
    return Comparison(
        title=task.name,
        description=task.description,
        cite=task.cite,
        main_metric=task.main_metric,
        higher_is_better=task.higher_is_better,
        models=(),
        command=command,
        created=results.now(),
        config=_shared(experiment, seeds),
        versions=results.versions(),
        data={**data.sizes, **_digests(experiment, seeds)},
        baselines=task.baselines("test"),
        notes=(_selection_note(experiment), *NOTES, *task.notes),
        selection=task.selection,
    )


def _selection_note(experiment: Experiment) -> str:
    task, train = experiment.task, experiment.train
    if task.selection == "last":
        return "Model selection: none; every number is that of the last training step."
    count = -(-train.steps // train.eval_every) if train.eval_every else 1
    return (
        f"Model selection: each seed is tested at its step of the best validation "
        f"{task.main_metric}, of {count} evaluation{'s' if count > 1 else ''}."
    )


def _digests(experiment: Experiment, seeds: tuple[int, ...]) -> dict[str, str]:
    """sha256 of the first examples of every split, that of training for the first seed."""
    task = experiment.task
    sources = {"train": task.source("train", seeds[0]), "test": task.source("test")}
    found = {f"{name} sha256": digest_of(source) for name, source in sources.items()}
    test = describe(task, sources["test"], DIGESTED)
    return {**found, "test length": test.length, "test classes": test.balance}


def digest_of(source: Source, count: int = DIGESTED) -> str:
    """sha256 over the names, dtypes, shapes and bytes of the first `count` examples."""
    total = hashlib.sha256()
    for i in range(min(count, len(source))):
        for name, value in sorted(source[i].items()):
            value = np.ascontiguousarray(value)
            total.update(f"{name} {value.dtype.str} {value.shape}".encode())
            total.update(value.tobytes())
    return total.hexdigest()


def _together(vectorise: Vectorise, parameters: int) -> bool:
    return vectorise == "always" or (vectorise == "auto" and parameters <= SMALL)


def _train(
    label: str,
    experiment: Experiment,
    seeds: tuple[int, ...],
    data: SeedData,
    together: bool,
    progress: ComparisonProgress,
) -> list[Trained]:
    """All seeds in one program, or one after another."""
    if together:
        return [train_seeds(experiment, seeds, data, progress, title=label)]
    return [
        train_seeds(experiment, (seed,), None, progress, title=f"{label} seed {seed}")
        for seed in seeds
    ]


def _model_result(
    label: str, experiment: Experiment, trained: list[Trained], costs: Mapping[str, Any]
) -> ModelResult:
    timings = [t.timing for t in trained]
    return ModelResult(
        name=label,
        seeds=tuple(itertools.chain.from_iterable(t.seeds for t in trained)),
        steps=experiment.train.steps,
        config=_own(experiment),
        tokens_per_second=float(np.median([t.tokens_per_second for t in timings])),
        train_seconds=sum(t.train_seconds for t in timings),
        compile_seconds=sum(t.compile_seconds for t in timings),
        **costs,
    )
