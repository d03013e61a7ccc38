"""Several models on one task with several seeds: trains, tabulates, reports.

Each model is an `Experiment`; all share task, length of the run and seeds. A comparison is a folder
of ordinary runs and an index, so one that was stopped or killed goes on where it was, another model
joins one that is there, and several processes share the work of one folder, model by model. Which
step's model is tested belongs to the task's protocol.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from seqzoo.tasks.describe import describe
from seqzoo.tasks.task import SPLITS, Source
from seqzoo.train.compare import results
from seqzoo.train.compare.alike import check_models, found_in, own_of, shared_by
from seqzoo.train.compare.axes import check_axes, measure
from seqzoo.train.compare.controls import controls_of
from seqzoo.train.compare.controls import lines as control_lines
from seqzoo.train.compare.page import write_report
from seqzoo.train.compare.pairs import told_apart
from seqzoo.train.compare.plans import Vectorise, check_paths, layout_of, plans_of, trials_of
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.sweep import Sweep
from seqzoo.train.compare.tables import broken_claims, failures, results_table
from seqzoo.train.compare.trials import edge_warning, tuned
from seqzoo.train.compare.tuning import tuning_note
from seqzoo.train.compare.work import Work
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost
from seqzoo.train.cost.matching import Matching
from seqzoo.train.devices.processes import from_first, is_first
from seqzoo.train.devices.sharding import SEEDS_AXIS, check_replicas
from seqzoo.train.evaluation.axes import Axis
from seqzoo.train.folder.files import run_path
from seqzoo.train.hybrids import Hybrid
from seqzoo.train.loop.claims import Verdict, as_claims
from seqzoo.train.loop.held import held_by
from seqzoo.train.loop.program import make_program, mesh_for
from seqzoo.train.loop.progress import SILENT, ComparisonProgress
from seqzoo.train.loop.signals import StopRequest

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
    out: Path | str,
    *,
    seeds: int = 3,
    sweep: Sweep | None = None,
    vectorise: Vectorise = "auto",
    command: str = "",
    progress: ComparisonProgress = SILENT,
    claims: Mapping[str, Sequence[Verdict]] | None = None,
    matching: Matching | None = None,
    axes: Sequence[Axis] = (),
    families: Mapping[str, Hybrid] | None = None,
) -> Comparison:
    """Trains every model that `out` does not hold yet; writes results.json and report.html there.

    What it returns lacks models (`Comparison.missing`) where SIGTERM or Ctrl-C came: all is saved
    then, and the same call goes on.

    Args:
        models: label -> experiment; `train.seed` is the first seed.
        out: the folder of the comparison.
        seeds: runs of each model.
        sweep: what is tried for each model before, on other seeds and on validation alone.
        vectorise: whether the seeds of a model, and its trials, share one compiled program.
        command: how to make these results again, for the report.
        progress: hears of the models.
        claims: label -> what was found of mixers from outside (`loop/claims.py`).
        matching: how the models were made to cost the same, which the folder keeps.
        axes: what the trained models are tested along, too.
        families: label -> the hybrid that it is of a family, drawn by its share of layers.

    Raises:
        ValueError: for models that do not share task and training, and where `out` holds results
            of another configuration; nothing is then written.
    """
    out = run_path(out)
    check_models(models, seeds)
    first = next(iter(models.values()))
    places = tuple(range(first.train.seed, first.train.seed + seeds))
    check_paths(models, out, places, sweep)
    trials = trials_of(models, sweep)
    # Asking for each cost and making each program finds what cannot be before anything is written.
    vectorise = _divided(first, seeds, vectorise)
    costs = _costs(models, claims or {}, matching, families or {})
    programs = {label: make_program(experiment) for label, experiment in models.items()}
    check_axes(models, axes)
    held = held_by(first, needed=not (out / results.FILE).exists())
    shared = shared_by(first, places, held, sweep)

    def look() -> dict[str, tuple[bool, int]]:
        found = _begun(models, out, _started(models, places, shared, sweep))
        if matching:
            matching.save(out)
        found = _save(out, list(models), command)
        missing = [label for label in models if found.model(label) is None]
        sizes = {label: costs[label]["parameters"] for label in missing}
        return {
            k: layout_of(out, k, sizes[k], places, trials[k], sweep, vectorise) for k in missing
        }

    layouts = from_first("what is missing", look)
    plans = plans_of(models, out, places, sweep, trials, layouts)
    done = len(models) - len(plans)
    progress = progress if is_first() else SILENT
    progress.models(len(models), done)
    with StopRequest(first.train.stop_seconds, lambda: work.release()) as stop:
        work = Work(plans, costs, programs, own_of, held, stop, progress)
        for _ in work.each():
            done += 1
            if is_first():
                _save(out, list(models), command)
            progress.models(len(models), done)
    if axes and not stop.requested:
        measure(models, out / results.RUNS, axes)
    if is_first():
        if axes:
            _save(out, list(models), command)
        write_report(out)
    return results.load(out / results.FILE)


def _divided(first: Experiment, seeds: int, vectorise: Vectorise) -> Vectorise:
    """How seeds are trained on the mesh: its axis `seeds` divides what is side by side."""
    mesh = mesh_for(first)
    check_replicas(mesh, seeds)
    if mesh.shape[SEEDS_AXIS] == 1:
        return vectorise
    if vectorise == "never":
        raise ValueError("the mesh's axis seeds needs seeds side by side: leave out vectorise")
    return "always"


def _costs(
    models: Mapping[str, Experiment],
    claims: Mapping[str, Sequence[Verdict]],
    matching: Matching | None,
    families: Mapping[str, Hybrid],
) -> dict[str, dict[str, Any]]:
    """What each model costs, and what else is known of it before it is trained."""
    costs = {label: cost(experiment) for label, experiment in models.items()}
    for label, found in claims.items():
        costs[label]["claims"] = as_claims(found)
    for label, words in matching.words().items() if matching else ():
        costs[label]["matched"] = words
    for label, one in families.items():
        costs[label]["hybrid"] = {"family": one.family, "mixer": one.mixer, "share": one.share}
    return costs


def _begun(models: Mapping[str, Experiment], out: Path, started: Comparison) -> Comparison | None:
    """What the folder holds, or what starts there; raises ValueError for another configuration."""
    found = found_in(models, out, started.config)
    if found is None and not results.create(started, out):
        return found_in(models, out, started.config)  # another process was faster
    return found


def _save(out: Path, labels: Sequence[str], command: str) -> Comparison:
    """Writes the index with all models that are through, whoever trained them."""
    while True:
        found = results.load(out / results.FILE)
        every = [*found.labels, *(m.name for m in found.models), *labels]
        commands = dict.fromkeys([*found.command.splitlines(), *command.splitlines()])
        now = dataclasses.replace(
            found,
            labels=tuple(dict.fromkeys(every)),
            command="\n".join(commands),
            created=results.now(),
            controls=controls_of(found),
        )
        results.save(now, out)
        # Of several who write at once each looks again, so the last one misses nothing.
        if len(results.load(out / results.FILE).models) == len(now.models):
            return now


def show(comparison: Comparison, console: Console) -> None:
    """The table and the failed runs on the terminal."""
    console.print(results_table(comparison))
    if sentence := told_apart(comparison):
        console.print(sentence, markup=False, highlight=False)
    for line in control_lines(comparison):
        console.print(f"control: {line}", markup=False, highlight=False)
    for line in tuned(comparison):
        console.print(f"tuned: {line}", markup=False, highlight=False)
    if warning := edge_warning(comparison):
        console.print(warning, style="yellow", markup=False, highlight=False)
    for line in failures(comparison):
        console.print(f"failed: {line}", style="red", markup=False, highlight=False)
    for line in broken_claims(comparison):
        console.print(line, style="red", markup=False, highlight=False)


def _started(
    models: Mapping[str, Experiment],
    seeds: tuple[int, ...],
    shared: Mapping[str, Any],
    sweep: Sweep | None,
) -> Comparison:
    """A comparison of which nothing is there yet."""
    experiment = next(iter(models.values()))
    task = experiment.task
    return Comparison(
        title=task.name,
        description=task.description,
        cite=task.cite,
        main_metric=task.main_metric,
        higher_is_better=task.higher_is_better,
        models=(),
        config=shared,
        versions=results.versions(),
        data=_about_data(experiment, seeds),
        baselines=task.baselines("test"),
        notes=(*_notes_of(sweep, models), *NOTES, *task.notes),
        selection=task.selection,
        solved_at=task.solved_at,
    )


def _notes_of(sweep: Sweep | None, models: Mapping[str, Experiment]) -> tuple[str, ...]:
    first = _selection_note(next(iter(models.values())))
    return (first, tuning_note(sweep, models)) if sweep else (first,)


def _selection_note(experiment: Experiment) -> str:
    task, train = experiment.task, experiment.train
    if task.selection == "last":
        return "Model selection: none; every number is that of the last training step."
    count = -(-train.steps // train.eval_every) if train.eval_every else 1
    return (
        f"Model selection: each seed is tested at its step of the best validation "
        f"{task.main_metric}, of {count} evaluation{'s' if count > 1 else ''}."
    )


def _about_data(experiment: Experiment, seeds: tuple[int, ...]) -> dict[str, Any]:
    """Sizes, and of the first examples sha256 and looks; of training those of the first seed."""
    task = experiment.task
    sources = {split: task.source(split, seeds[0]) for split in SPLITS}
    sizes = {split: len(source) for split, source in sources.items()}
    digests = {f"{split} sha256": digest_of(sources[split]) for split in ("train", "test")}
    test = describe(task, sources["test"], DIGESTED)
    rows = [sources["train"][i] for i in range(min(DIGESTED, sizes["train"]))]
    real = sum(map(task.real_tokens, rows)) / sum(map(task.positions, rows))
    looks = {"test length": test.length, "test classes": test.balance}
    padding = {"train padding": f"{1 - real:.1%} of the positions"} if real < 1 else {}
    return {**sizes, **digests, **looks, **padding}


def digest_of(source: Source, count: int = DIGESTED) -> str:
    """sha256 over the names, dtypes, shapes and bytes of the first `count` examples."""
    total = hashlib.sha256()
    for i in range(min(count, len(source))):
        for name, value in sorted(source[i].items()):
            value = np.ascontiguousarray(value)
            total.update(f"{name} {value.dtype.str} {value.shape}".encode())
            total.update(value.tobytes())
    return total.hexdigest()
