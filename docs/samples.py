"""One example, statistics and baselines of every task that needs no files: docs/samples.json.

    python docs/samples.py                    # of all; a quarter of an hour on two cores
    python docs/samples.py --names parity     # of some; the others stay as they are

The pages of the tasks show them (`docs/pages/tasks.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from seqzoo import tasks
from seqzoo.tasks.describe import describe
from seqzoo.tasks.task import SPLITS, Task

PLACE = Path(__file__).parent / "samples.json"
LOOKED = 200  # examples of a split
DRAWN = 64  # of pictures, which take long; no baselines of these
LETTERS = 700  # of an example


def main() -> None:
    """Reads the command line and writes what it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", default=",".join(tasks.TASKS), help="of tasks, commas between")
    kept = json.loads(PLACE.read_text()) if PLACE.exists() else {}
    for name in parser.parse_args().names.split(","):
        try:
            kept[name] = sampled(name)
        except FileNotFoundError:
            continue  # its files are not here
        print(name, flush=True)
        PLACE.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def sampled(name: str, *, baselines: bool = True) -> dict[str, Any]:
    """What is kept of one task. Raises FileNotFoundError where it needs files."""
    task, sizes = tasks.build(name), {}
    if name.startswith("path"):
        sizes = {f"{split}_size": getattr(task, f"{split}_size", 0) for split in SPLITS}
        task = tasks.build(name, **dict.fromkeys(sizes, DRAWN)) if all(sizes.values()) else task
    found = {"splits": {split: _split(task, split, sizes) for split in SPLITS}}
    example = task.decode(task.source("train", 0)[0])
    found["example"] = example if len(example) <= LETTERS else example[:LETTERS] + " …"
    if baselines and not sizes:
        found["baselines"] = {rule: float(f"{x:.4g}") for rule, x in task.baselines("test").items()}
    return found


def _split(task: Task, split: str, sizes: dict[str, int]) -> dict[str, Any]:
    about = describe(task, task.source(split, 0), LOOKED)
    about = dataclasses.replace(about, size=sizes.get(f"{split}_size", about.size))
    return {"examples": about.size, "length": about.length, "classes": about.balance}


if __name__ == "__main__":
    main()
