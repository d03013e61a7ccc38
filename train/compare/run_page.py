"""The folder of one training run, read as a comparison of one model, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqzoo.tasks.describe import describe
from seqzoo.train import code
from seqzoo.train.compare.curves import VALIDATION, read_curves
from seqzoo.train.compare.results import Comparison, ModelResult, SeedResult
from seqzoo.train.config import TrainConfig, task_of
from seqzoo.train.folder.files import run_path

CLAIMS = "claims.json"  # what was found of mixers from outside
LOOKED_AT = 1000  # examples that statistics are of
POINTS = 400  # of a training curve, more than a screen shows apart


def comparison_of_run(folder: Path) -> Comparison:
    """One model, one seed or several, from `folder`/metrics.jsonl and config.json if there is one.

    Final values are those of the last validation, or of training where there was none. Statistics
    and trivial baselines of the validation split stand beside them where its data is at hand.
    """
    folder = run_path(folder)
    config = _config(folder / "config.json")
    train, task = config.get("train", {}), config.get("task", {})
    replicas, seed = train.get("replicas", 1), train.get("seed", TrainConfig.seed)
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
    claims = _config(folder / CLAIMS)
    about = _about(task, seed, metrics, split) if split == VALIDATION else {}
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


def _about(config: dict[str, Any], seed: int, metrics: set[str], split: str) -> dict[str, Any]:
    """What the task says of itself and of a split, as far as it can be asked."""
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
        source = task.source(split)
        found = describe(task, source, LOOKED_AT)
        baselines = task.baselines(split)
        sizes = {"train": len(task.source("train", seed)), split: len(source)}
    except FileNotFoundError:
        note = "The data is not on this machine, so that its statistics are not shown."
        return {**about, "notes": (*task.notes, note)}
    looks = {f"{split} length": found.length, f"{split} classes": found.balance}
    return {**about, "data": {**sizes, **looks}, "baselines": baselines}


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
