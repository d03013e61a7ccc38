"""Several models on one task with several seeds: trains, tabulates, reports.

Each model is an `Experiment`; all share task, length of the run and seeds. A comparison is a folder
of ordinary runs and an index, so one that was stopped or killed goes on where it was, another model
joins one that is there, and several processes share the work of one folder, model by model. Which
step's model is tested belongs to the task's protocol.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from seqzoo.tasks.describe import describe
from seqzoo.tasks.task import SPLITS, Source
from seqzoo.train.compare import results
from seqzoo.train.compare.axes import check_axes, measure
from seqzoo.train.compare.page import write_report
from seqzoo.train.compare.pairs import told_apart
from seqzoo.train.compare.plans import Vectorise, layout_of, plans_of, trials_of
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.sweep import Sweep, fields_of, with_values
from seqzoo.train.compare.tables import broken_claims, failures, results_table
from seqzoo.train.compare.trials import edge_warning, tuned
from seqzoo.train.compare.tuning import tuning_note
from seqzoo.train.compare.work import Work
from seqzoo.train.config import DATA, MOST_SEEDS, Experiment, comparable, differences
from seqzoo.train.cost.cost import cost
from seqzoo.train.cost.matching import Matching
from seqzoo.train.devices.processes import from_first, is_first
from seqzoo.train.devices.sharding import SEEDS_AXIS, check_replicas
from seqzoo.train.evaluation.axes import Axis
from seqzoo.train.folder.files import plain, run_path
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.hybrids import Hybrid
from seqzoo.train.loop.claims import Verdict, as_claims
from seqzoo.train.loop.held import Held, held_by
from seqzoo.train.loop.program import mesh_for
from seqzoo.train.loop.progress import SILENT, ComparisonProgress
from seqzoo.train.loop.selection import check_kept
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
    trials = trials_of(models, sweep)
    # Building each model and asking for each cost finds what cannot be before anything is written.
    mesh = mesh_for(first)
    check_replicas(mesh, seeds)
    if mesh.shape[SEEDS_AXIS] > 1:  # it divides what is side by side
        if vectorise == "never":
            raise ValueError("the mesh's axis seeds needs seeds side by side: leave out vectorise")
        vectorise = "always"
    costs = {label: cost(experiment) for label, experiment in models.items()}
    for label, found in (claims or {}).items():
        costs[label]["claims"] = as_claims(found)
    for label, words in matching.words().items() if matching else ():
        costs[label]["matched"] = words

    for label, one in (families or {}).items():
        costs[label]["hybrid"] = {"family": one.family, "mixer": one.mixer, "share": one.share}
    check_axes(models, axes)
    labels = list(models)
    held = held_by(first, needed=not (out / results.FILE).exists())
    shared = _shared(first, places, held, sweep)

    def look() -> dict[str, tuple[bool, int]]:
        found = _found(models, out, shared)
        if found is None and not results.create(_started(first, places, shared, sweep), out):
            found = _found(models, out, shared)  # another process was faster
        if matching:
            matching.save(out)
        found = _save(out, labels, command)
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
        work = Work(plans, costs, _own, held, stop, progress)
        for _ in work.each():
            done += 1
            if is_first():
                _save(out, labels, command)
            progress.models(len(models), done)
    if axes and not stop.requested:
        measure(models, out / results.RUNS, axes)
    if is_first():
        if axes:
            _save(out, labels, command)
        write_report(out)
    return results.load(out / results.FILE)


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
    for line in tuned(comparison):
        console.print(f"tuned: {line}", markup=False, highlight=False)
    if warning := edge_warning(comparison):
        console.print(warning, style="yellow", markup=False, highlight=False)
    for line in failures(comparison):
        console.print(f"failed: {line}", style="red", markup=False, highlight=False)
    for line in broken_claims(comparison):
        console.print(line, style="red", markup=False, highlight=False)


def check_models(models: Mapping[str, Experiment], seeds: int) -> None:
    """Raises ValueError where the models cannot be compared."""
    if not models:
        raise ValueError("a comparison needs at least one model")
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds must be at least 1 and at most {MOST_SEEDS}; got {seeds}")
    (label, first), *rest = models.items()
    check_kept(first)
    for name in models:
        if not re.fullmatch(r"[^\W_][\w+.-]*", name):
            raise ValueError(
                f"{name!r} cannot name a model: give letters, digits and _ + . -, a letter first"
            )
    if first.train.replicas != 1:
        raise ValueError("a comparison has --seeds, so leave out --replicas")
    if first.train.init_from:
        raise ValueError(
            "a comparison trains every model from scratch, so init_from cannot be set; "
            "fine-tune with `seqzoo train`"
        )
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
    models: Mapping[str, Experiment], out: Path, shared: Mapping[str, Any]
) -> Comparison | None:
    """What `out` holds already. Raises ValueError if that is of another configuration."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the comparison")
    if RunFolder(out).exists():
        raise ValueError(f"{out} holds a training run; name another folder for the comparison")
    if not (out / results.FILE).is_file():
        return None
    found = results.load(out / results.FILE)
    first = next(iter(models.values()))
    changed = _changes(found.config, shared)
    if found.selection != first.task.selection:
        changed.append(f"model selection: {found.selection!r} there, {first.task.selection!r} here")
    for label, experiment in models.items():
        old = found.model(label)
        if old is not None:
            changed += _changes(old.config, _tuned(experiment, old.tuned_values), f"{label}: ")
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ValueError(
            f"{out} holds a comparison of another configuration:\n{lines}\n"
            "name another --out, or remove that folder"
        )
    return found


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    # `differences` reads the forms of whole experiments.
    old, new = ({"train": {}, **plain(x)} for x in (old, new))
    return [f"{prefix}{d}" for d in differences(old, new)]


def _tuned(experiment: Experiment, values: Mapping[str, Any]) -> dict[str, Any]:
    """`_own` with what was chosen, as far as this model has it."""
    known = {name: value for name, value in values.items() if name in fields_of(experiment)}
    return _own(with_values(experiment, known))


def _shared(
    experiment: Experiment, seeds: tuple[int, ...], held: Held, sweep: Sweep | None
) -> dict[str, Any]:
    whole = comparable(experiment.to_dict())
    whole["train"].pop("replicas")  # `seeds` says it, however they are trained
    data = {DATA: held} if held else {}
    tried = {"sweep": sweep.to_dict()} if sweep else {}
    return {**{part: whole[part] for part in SHARED}, "seeds": list(seeds), **tried, **data}


def _own(experiment: Experiment) -> dict[str, Any]:
    return {k: v for k, v in comparable(experiment.to_dict()).items() if k not in SHARED}


def _started(
    experiment: Experiment,
    seeds: tuple[int, ...],
    shared: Mapping[str, Any],
    sweep: Sweep | None,
) -> Comparison:
    """A comparison without models."""
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
        notes=(*_notes_of(sweep, experiment), *NOTES, *task.notes),
        selection=task.selection,
        solved_at=task.solved_at,
    )


def _notes_of(sweep: Sweep | None, experiment: Experiment) -> tuple[str, ...]:
    first = _selection_note(experiment)
    return (first, tuning_note(sweep, experiment.task)) if sweep else (first,)


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
