"""The folder of one training run, read as a comparison of one model, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqzoo.tasks.describe import describe
from seqzoo.train.compare.results import Comparison, ModelResult, SeedResult
from seqzoo.train.config import task_of
from seqzoo.train.folder.files import run_path

LOOKED_AT = 1000  # examples that statistics are of
NOT_CURVES = ("examples", "lr", "weight", "grad_norm", "epoch")


def comparison_of_run(folder: Path) -> Comparison:
    """One model, one seed, from `folder`/metrics.jsonl and config.json where there is one.

    Final values are those of the last validation, or of training where there was none. Statistics
    and trivial baselines of the validation split stand beside them where its data is at hand.
    """
    folder = run_path(folder)
    config = _config(folder / "config.json")
    curves = _curves(folder)
    steps = max((c["step"][-1] for c in curves.values()), default=0)
    task = config.get("task", {})
    # A run does not look at the test split; `seqzoo evaluate` does.
    split = "validation" if "validation" in curves else "train"
    last = {k: v[-1] for k, v in curves.get(split, {}).items() if k != "step"}
    seed = config.get("train", {}).get("seed", 0)
    run = SeedResult(seed=seed, final=last, curves=curves)
    metrics = {k for c in curves.values() for k in c}
    about = _about(task, seed, metrics, split) if split == "validation" else {}
    notes = ("One training run, read from its folder.", *about.pop("notes", ()))
    metric = about.pop("main_metric", "accuracy" if "accuracy" in metrics else "loss")
    return Comparison(
        title=task.get("name", folder.resolve().name),
        main_metric=metric,
        higher_is_better=about.pop("higher_is_better", metric == "accuracy"),
        models=(ModelResult(name=config.get("model", "model"), seeds=(run,), steps=steps),),
        config=config,
        final_split=split,
        notes=notes,
        **about,
    )


def _about(config: dict[str, Any], seed: int, metrics: set[str], split: str) -> dict[str, Any]:
    """What the task says of itself and of a split, as far as it can be asked."""
    try:
        task = task_of(config)
    except ValueError:  # a task of the user's own
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


def _curves(folder: Path) -> dict[str, dict[str, list]]:
    """split -> {"step": [...], metric: [...]}; a metric without a split is of training."""
    from seqzoo.train.folder.metrics import read_lines  # late: it brings the checkpoint library

    points: dict[str, dict[int, dict[str, float]]] = {}
    for step, values in read_lines(folder):
        for name, value in values.items():
            split, _, metric = name.rpartition("/")
            if metric not in NOT_CURVES:
                points.setdefault(split or "train", {}).setdefault(step, {})[metric] = value
    curves = {}
    for split, by_step in points.items():
        steps = sorted(by_step)
        names = sorted({name for values in by_step.values() for name in values})
        curves[split] = {"step": steps} | {n: [by_step[s].get(n) for s in steps] for n in names}
    return curves
