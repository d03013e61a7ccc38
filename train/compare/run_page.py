"""The folder of one training run, read as a comparison of one model, for the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqzoo.tasks.data.identity import Identity, changes, identity
from seqzoo.tasks.describe import describe
from seqzoo.train import code
from seqzoo.train.checked import checked, read_json
from seqzoo.train.compare.curves import VALIDATION, read_curves
from seqzoo.train.compare.results import Comparison, ModelResult, SeedResult
from seqzoo.train.config import TrainConfig, task_of
from seqzoo.train.differences import DATA
from seqzoo.train.folder.files import run_path
from seqzoo.train.folder.run_folder import CONFIG
from seqzoo.train.shapes import checked_config

CLAIMS = "claims.json"  # what was found of mixers from outside
LOOKED_AT = 1000  # examples that statistics are of
POINTS = 400  # of a training curve, more than a screen shows apart


def comparison_of_run(folder: Path) -> Comparison:
    """One model, one seed or several, from `folder`/metrics.jsonl and config.json if there is one.

    Final values are those of the last validation, or of training where there was none. Statistics
    and trivial baselines of the validation split stand beside them where its data is at hand.
    """
    folder = run_path(folder)
    config = checked_config(_read(folder / CONFIG, dict[str, Any]), str(folder / CONFIG))
    train, task = config.get("train", {}), config.get("task", {})
    read = {name: train[name] for name in ("replicas", "seed", "steps") if name in train}
    chosen = TrainConfig(**checked(read, TrainConfig, f"{folder / CONFIG}, train"))
    replicas, seed = chosen.replicas, chosen.seed
    curves = read_curves(folder, train.get("steps", 1), replicas, POINTS)
    steps = max((c["step"][-1] for c in curves[0].values()), default=0)
    # A run does not look at the test split; `seqzoo evaluate` does.
    split = VALIDATION if VALIDATION in curves[0] else "train"
    runs = tuple(
        SeedResult(
            seed=seed + i,
            final={k: v[-1] for k, v in own.get(split, {}).items() if k != "step"},
            curves=own,
        )
        for i, own in enumerate(curves)
    )
    metrics = {k for c in curves[0].values() for k in c}
    claims = _read(folder / CLAIMS, dict[str, str])
    held = config.get(DATA, {})
    about = _about(task, held, seed, metrics, split) if split == VALIDATION else {}
    notes = ("One training run, read from its folder.", *about.pop("notes", ()))
    metric = about.pop("main_metric", "accuracy" if "accuracy" in metrics else "loss")
    return Comparison(
        title=task.get("name", folder.resolve().name),
        main_metric=metric,
        higher_is_better=about.pop("higher_is_better", metric == "accuracy"),
        models=(
            ModelResult(name=config.get("model", "model"), seeds=runs, steps=steps, claims=claims),
        ),
        config=config,
        final_split=split,
        notes=notes,
        **about,
    )


def _about(
    config: dict[str, Any], held: Identity, seed: int, metrics: set[str], split: str
) -> dict[str, Any]:
    """What the task says of itself and of a split, as far as it can be asked.

    `held` is what the data held when the run read them.
    """
    if code.foreign("", config.get("name", "")):  # a report runs nobody's code
        return {}
    try:
        task = task_of(config)
    except ValueError:
        return {}
    about = {"description": task.description, "cite": task.cite, "notes": task.notes}
    if task.main_metric in metrics:
        better = task.higher_is_better
        about |= {"main_metric": task.main_metric, "higher_is_better": better}
    try:
        known = {split: held[split]} if split in held else {}
        changed = changes(known, identity(task, [*known]))
        if changed:
            note = f"The data is not what the run has read ({'; '.join(changed)}): no statistics."
            return {**about, "notes": (*task.notes, note)}
        source = task.source(split)
        found = describe(task, source, LOOKED_AT)
        baselines = task.baselines(split)
        sizes = {"train": len(task.source("train", seed)), split: len(source)}
    except FileNotFoundError:
        note = "The data is not on this machine, so that its statistics are not shown."
        return {**about, "notes": (*task.notes, note)}
    looks = {f"{split} length": found.length, f"{split} classes": found.balance}
    return {**about, "data": {**sizes, **looks}, "baselines": baselines}


def _read(path: Path, kind: Any) -> dict[str, Any]:
    return checked(read_json(path), kind, str(path)) if path.is_file() else {}
