"""A comparison or a run while it works: curves, rows as they come, time left.

Only files are read, so it may run anywhere that sees the folder, and as often as one likes.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from seqzoo.train.checked import checked, read_json
from seqzoo.train.compare import results
from seqzoo.train.compare.tables import failures, results_table
from seqzoo.train.compare.units import TRIALS
from seqzoo.train.config import train_of
from seqzoo.train.folder.metrics import FILE, read_lines
from seqzoo.train.folder.run_folder import CONFIG, RunFolder

BLOCKS = "▁▂▃▄▅▆▇█"
POINTS = 24  # of a curve


class Run(NamedTuple):
    """A run that is not through."""

    name: str
    label: str  # of its model
    step: int
    steps: int
    loss: float | None
    curve: list[float]  # of the loss
    seconds_left: float | None


class Look(NamedTuple):
    """What is there at one moment."""

    comparison: results.Comparison | None
    runs: list[Run]
    through: bool
    seconds_left: float | None  # of everything


def look(folder: Path) -> Look:
    """Reads a comparison's folder or a run's. Raises ValueError where there is none."""
    if (folder / results.FILE).is_file():
        found = results.load(folder / results.FILE)
        runs = [r for path in _run_folders(folder) if (r := _run(path, folder)) is not None]
        through = bool(found.labels) and not found.missing
        return Look(found, [] if through else runs, through, _left(found, runs))
    if (folder / CONFIG).is_file():
        run = _run(folder, folder.parent)
        return Look(None, [run] if run else [], run is None, run.seconds_left if run else None)
    raise ValueError(
        f"{folder} holds no comparison and no run yet: neither {results.FILE} nor {CONFIG}; name "
        "the --out folder of `seqzoo compare` or `seqzoo train`"
    )


def shown(found: Look) -> RenderableType:
    """Runs at work, then the table as far as it goes."""
    parts: list[RenderableType] = []
    if found.runs:
        parts.append(_table(found.runs))
    if found.comparison is not None:
        done, all_ = len(found.comparison.models), len(found.comparison.labels)
        left = "" if found.seconds_left is None else f", about {_words(found.seconds_left)} left"
        state = "all models are through" if found.through else f"{done} of {all_} models{left}"
        parts.append(Text(state))
        if found.comparison.models:
            parts.append(results_table(found.comparison))
        parts += [Text(f"failed: {line}", style="red") for line in failures(found.comparison)]
    elif found.through:
        parts.append(Text("the run is through; `seqzoo show` has its result"))
    return Group(*parts)


def sparkline(values: list[float]) -> str:
    """A curve as blocks, the least at the bottom."""
    if not values:
        return ""
    low, high = min(values), max(values)
    top = len(BLOCKS) - 1
    scale = top / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((v - low) * scale)] for v in values)


def _run_folders(folder: Path) -> Iterator[Path]:
    """Of trials and of final runs."""
    for part in (TRIALS, results.RUNS):
        for path in sorted((folder / part).glob("**/" + CONFIG)):
            yield path.parent


def _run(path: Path, root: Path) -> Run | None:
    """A run at work; None where it is through."""
    if RunFolder(path).result() is not None:
        return None
    where = str(path / CONFIG)
    config = checked(read_json(path / CONFIG), dict[str, Any], where)
    steps, lines = train_of({"train": config.get("train", {})}, where).steps, read_lines(path)
    name = str(path.relative_to(root)).removeprefix(f"{results.RUNS}/")
    label = name.removeprefix(f"{TRIALS}/").partition("/")[0]
    losses = [np.nanmean(np.array(v, np.float64)) for line in lines for v in _loss(line.values)]
    losses = [float(v) for v in losses if np.isfinite(v)]
    parts = np.array_split(losses, min(POINTS, len(losses))) if losses else []
    step = lines[-1].step if lines else 0
    left = None
    if step:
        passed = (path / FILE).stat().st_mtime - (path / CONFIG).stat().st_mtime
        left = max(0.0, passed) / step * (steps - step)
    last = losses[-1] if losses else None
    return Run(name, label, step, steps, last, [float(p.mean()) for p in parts], left)


def _loss(values: Mapping[str, Any]) -> Iterator[Any]:
    if values.get("loss") is not None:
        value = values["loss"]
        yield [np.nan if v is None else v for v in (value if isinstance(value, list) else [value])]


def _left(found: results.Comparison, runs: list[Run]) -> float | None:
    """Seconds, if models still to come take as long as those that are through, one by one."""
    known = [m.train_seconds + (m.compile_seconds or 0) for m in found.models if m.train_seconds]
    waiting = len(found.missing) - len({run.label for run in runs})
    if not known:
        return None
    return sum(known) / len(known) * max(0, waiting) + sum(r.seconds_left or 0 for r in runs)


def _table(runs: list[Run]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("run", "step", "loss", "", "left"):
        table.add_column(title, justify="right" if title in ("step", "loss", "left") else "left")
    for run in runs:
        loss = "–" if run.loss is None else f"{run.loss:.4f}"
        left = "–" if run.seconds_left is None else _words(run.seconds_left)
        cells = (run.name, f"{run.step} of {run.steps}", loss, sparkline(run.curve), left)
        table.add_row(*map(Text, cells))
    return table


def _words(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
