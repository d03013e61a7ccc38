"""The folder of one training run, read as a comparison of one model, for the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqzoo.train.results import Comparison, ModelResult, SeedResult


def comparison_of_run(folder: Path) -> Comparison:
    """One model, one seed, from `folder`/metrics.jsonl and config.json where there is one.

    Raises:
        ValueError: for a line that is not a JSON object with a step; a torn last line is left out.
    """
    config = _config(folder / "config.json")
    curves = _curves(folder / "metrics.jsonl")
    steps = max((c["step"][-1] for c in curves.values()), default=0)
    task = config.get("task", {})
    last = {k: v[-1] for k, v in curves.get("test", {}).items() if k != "step"}
    seed = config.get("train", {}).get("seed", 0)
    run = SeedResult(seed=seed, final=last, curves=curves)
    metrics = {k for c in curves.values() for k in c}
    return Comparison(
        title=task.get("name", folder.resolve().name),
        main_metric="accuracy" if "accuracy" in metrics else "loss",
        higher_is_better="accuracy" in metrics,
        models=(ModelResult(name=config.get("model", "model"), seeds=(run,), steps=steps),),
        config=config,
        notes=("One training run, read from its folder.",),
    )


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


def _curves(path: Path) -> dict[str, dict[str, list]]:
    """split -> {"step": [...], metric: [...]}; a later line for a step replaces an earlier one."""
    by_split: dict[str, dict[int, dict[str, float]]] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            step = int(entry.pop("step"))
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a JSON object with a step") from error
        split = str(entry.pop("split", "train"))
        numbers = {k: v for k, v in entry.items() if isinstance(v, int | float)}
        by_split.setdefault(split, {}).setdefault(step, {}).update(numbers)
    curves = {}
    for split, points in by_split.items():
        steps = sorted(points)
        names = sorted({k for p in points.values() for k in p})
        curves[split] = {"step": steps} | {k: [points[s].get(k) for s in steps] for k in names}
    return curves
