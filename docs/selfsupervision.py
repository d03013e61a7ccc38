"""Writes the table of docs/selfsupervision.md: encoders that saw no label, probed with labels.

    python docs/selfsupervision.py RUNS

Trains every objective on two tasks, three seeds side by side, a minute or two of a core each, and
probes the encoders and their random beginnings. Runs in the folder RUNS are gone on with.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np

from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks import build
from seqzoo.train.compare.statistics import interval
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.devices.backend import reuse_memory
from seqzoo.train.evaluation.probe import probe_run
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.runner import run

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- probes -->\n", "<!-- end of probes -->\n"
OBJECTIVES = ("simclr", "moco", "byol", "simsiam", "swav", "dino")
TASKS = {  # the wrapped task's options, the views', steps, rows of a batch, rate
    "sdigits": ({}, {"crop": 0.6, "brightness": 0.2}, 400, 64, 1e-2),
    "uea": ({"dataset": "JapaneseVowels", "protocol": "archive"}, {}, 150, 32, 1e-2),
}
SMALL, FAST = {"small": 1}, {"momentum": 0.9}  # a target that follows in so few steps
OPTIONS = {
    "sdigits": {"moco": FAST, "byol": FAST, "swav": SMALL, "dino": {**SMALL, **FAST}},
    "uea": {"swav": SMALL, "dino": SMALL},
}
TRAIN = TrainConfig(replicas=3, eval_every=0, save_every=0, keep_best=False, trackers="")


def experiment(objective: str, task: str) -> Experiment:
    """An LRU of one block and width 32."""
    of, views, steps, batch, rate = TASKS[task]
    options = OPTIONS[task].get(objective, {})
    return Experiment(
        task=build(f"{objective}:{task}", of=of, **views, **options),
        model="lru",
        backbone=BackboneConfig(d_model=32, depth=1, scan=False),
        optim=OptimConfig(peak_lr=rate),
        train=dataclasses.replace(TRAIN, steps=steps, batch_size=batch),
    )


def row(objective: str, task: str, folder: Path) -> tuple[str, str]:
    """The lines of an encoder and of its random beginning."""
    if not (RunFolder(folder).result() or {}).get("complete"):
        run(experiment(objective, task), folder)
    found = probe_run(folder)
    validation = RunFolder(folder).result()["validation"]
    collapse = [np.mean(validation[f"validation/{n}"]) for n in ("spread", "effective_rank")]
    said = " | ".join(f"{value:.2f}" for value in collapse)
    lines = [
        " | ".join(_percent(found[f"{kind}{probe}"]) for probe in ("linear", "neighbours"))
        for kind in ("", "random_")
    ]
    gains = " | ".join(
        _gain(found[probe], found[f"random_{probe}"]) for probe in ("linear", "neighbours")
    )
    name = TASKS[task][0].get("dataset", task)
    return f"| {name} | `{objective}` | {lines[0]} | {gains} | {said} |", (
        f"| {name} | random weights | {lines[1]} | | | | |"
    )


def _percent(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def _gain(values: list[float], before: list[float]) -> str:
    """Mean and 95% interval of the seeds' own gains, in points."""
    gap = interval([100 * (a - b) for a, b in zip(values, before, strict=True)])
    low, high = gap.mean - gap.half_width, gap.mean + gap.half_width
    words = f"{gap.mean:+.1f} ({low:+.1f} to {high:+.1f})"
    return f"**{words}**" if low > 0 else words


def main(runs: Path) -> None:
    """The table, into the page after every run."""
    reuse_memory()
    lines = [
        "| task | objective | linear probe | nearest neighbours | gain, linear | gain, neighbours "
        "| spread | effective rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for task in TASKS:
        for objective in OBJECTIVES:
            own, random = row(objective, task, runs / f"{objective}_{task}")
            lines += [own] if objective != OBJECTIVES[0] else [random, own]
            print(own, flush=True)
            page = PAGE.read_text()
            head, rest = page.split(BEGIN)
            PAGE.write_text(head + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
