"""`seqzoo demo`: six architectures of four families on two generated tasks, in a few minutes.

The sizes are small on purpose, for two CPU cores, and chosen so that the published differences
show: softmax attention solves associative recall where a recurrence with a small state does not
(Arora et al. 2023, arXiv:2312.04927); on nested lists a gated recurrence learns most from as few
examples. Every model has the same short causal convolution in front of its mixers; without one the
ranking on recall inverts, as attention then needs far longer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks.task import Task
from seqzoo.train.cli.errors import INCOMPLETE
from seqzoo.train.cli.flags import Run, parse, read
from seqzoo.train.compare.comparison import compare, show
from seqzoo.train.compare.page import write_report
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.out.console import ProgressBars

# Mixer -> its options: softmax attention, linear attention, two state spaces, two gated RNNs.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "attention": {"num_heads": 2},  # rotary positions are its default
    "linear_attention": {"num_heads": 2},
    "s4d": {"d_state": 16},
    "lru": {"d_state": 32},
    "lstm": {},
    "gru": {},
}
SLOW_ON_LISTS = ("gru",)  # left out there: the LSTM stands for gated recurrences


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One task with what all models share on it."""

    task: Task
    backbone: BackboneConfig
    optim: OptimConfig
    train: TrainConfig
    without: tuple[str, ...] = ()  # models that are left out

    def experiments(self, models: Mapping[str, Mapping[str, Any]]) -> dict[str, Experiment]:
        """One experiment a model."""
        return {
            name: Experiment(
                task=self.task,
                model=name,
                mixer=options,
                backbone=self.backbone,
                optim=self.optim,
                train=self.train,
            )
            for name, options in models.items()
            if name not in self.without
        }


def sections(steps_scale: float = 1.0) -> dict[str, Section]:
    """The study; `steps_scale` shortens or lengthens every run."""

    def train(steps: int, batch_size: int) -> TrainConfig:
        steps = max(1, round(steps * steps_scale))
        return TrainConfig(
            steps=steps,
            batch_size=batch_size,
            eval_every=max(1, steps // 4),
            eval_batch_size=250,
            save_every=0,
            save_seconds=60,
        )

    recall = Section(
        task=tasks.build(
            "mqar",
            length=32,
            num_pairs=8,
            vocab_size=34,
            validation_size=250,
            test_size=1000,
        ),
        backbone=BackboneConfig(d_model=32, depth=2, short_conv=4, feedforward="none"),
        optim=OptimConfig(peak_lr=5e-3, dynamics_lr=5e-3, weight_decay=0.01),
        train=train(400, 32),
    )
    listops = Section(
        task=tasks.build("listops_short", validation_size=250, test_size=1000),
        backbone=BackboneConfig(d_model=32, depth=2, short_conv=4),
        optim=OptimConfig(peak_lr=5e-3, dynamics_lr=5e-3, weight_decay=0.01),
        train=train(500, 16),
        without=SLOW_ON_LISTS,
    )
    return {"mqar": recall, "listops_short": listops}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo may be told."""

    out: Run  # folder of the results; a demo that was stopped continues there
    seeds: int = 3
    steps_scale: float = 1.0  # factor on the length of every run


def main(argv: Sequence[str]) -> int:
    """`seqzoo demo --out DIR`."""
    demo, console = parse(Demo, read(argv), "seqzoo demo"), Console()
    started = time.perf_counter()
    command = shlex.join(["seqzoo", "demo", *argv])
    for name, section in sections(demo.steps_scale).items():
        experiments = section.experiments(MODELS)
        console.print(f"\n{name}: {section.task.description}", markup=False, highlight=False)
        out = demo.out / name
        with contextlib.closing(ProgressBars(console)) as bars:
            compared = compare(experiments, out, seeds=demo.seeds, command=command, progress=bars)
        if compared.models:
            show(compared, console)
        if any(compared.model(label) is None for label in experiments):
            console.print("stopped and saved; the same command continues", markup=False)
            return INCOMPLETE
    report = write_report(demo.out)
    console.print(
        f"{time.perf_counter() - started:.0f} s; report: {report}", highlight=False, soft_wrap=True
    )
    return 0
