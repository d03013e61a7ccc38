"""`seqzoo demo`: five architectures on three tasks, in a few minutes: who wins what, and why.

The sizes are small on purpose, for two CPU cores, and chosen so that the published differences
show. Softmax attention and the delta rule solve associative recall, where a recurrence with a small
state does not (Arora et al. 2023, arXiv:2312.04927). Gated RNNs and a delta rule whose transitions
may have negative eigenvalues track a state, and go on to longer rows; attention and a state space
with positive ones do not (Grazzi et al. 2024, arXiv:2411.12537). Digits, pixel by pixel, are real
data of a package. Every model has the same short causal convolution in front of its mixers; without
one the ranking on recall inverts, as attention then needs far longer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
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
from seqzoo.train.compare.overview import sentence
from seqzoo.train.compare.page import comparisons_in, write_report
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.evaluation.axes import axes_of
from seqzoo.train.out.console import ProgressBars

# Mixer -> its options: softmax attention, the delta rule, a state space, two gated RNNs.
MODELS: Mapping[str, Mapping[str, Any]] = {
    "attention": {"num_heads": 2},  # rotary positions are its default
    "deltanet": {"num_heads": 2, "allow_negative_eigenvalues": True},
    "mamba": {"expand": 1},
    "lstm": {},
    "gru": {},
}


DIGITS = "sklearn"  # the package that has the data of `sdigits`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """One task with what all models share on it."""

    task: Task
    backbone: BackboneConfig
    optim: OptimConfig
    train: TrainConfig
    axes: tuple[str, ...] = ()  # along which what is trained is tested too

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
        }


def sections(steps_scale: float = 1.0) -> dict[str, Section]:
    """The study; `steps_scale` shortens or lengthens every run."""

    def train(steps: int, batch_size: int) -> TrainConfig:
        steps = max(1, round(steps * steps_scale))
        return TrainConfig(
            steps=steps,
            batch_size=batch_size,
            eval_every=max(1, steps // 2),
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
        train=train(320, 32),
    )
    state = Section(
        task=tasks.build("parity", length=40, validation_size=250, test_size=500),
        backbone=BackboneConfig(d_model=32, depth=1, short_conv=4, feedforward="none"),
        optim=OptimConfig(peak_lr=5e-3, dynamics_lr=5e-3, weight_decay=0.01),
        train=train(300, 32),
        axes=("length=160",),
    )
    digits = Section(
        task=tasks.build("sdigits"),
        backbone=BackboneConfig(d_model=32, depth=1, short_conv=4, feedforward="none"),
        optim=OptimConfig(peak_lr=5e-3, dynamics_lr=5e-3, weight_decay=0.01),
        train=train(180, 32),
    )
    return {"mqar": recall, "parity": state, "sdigits": digits}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo may be told."""

    out: Run  # folder of the results; a demo that was stopped continues there
    seeds: int = 3  # runs of each model on each task
    steps_scale: float = 1.0  # factor on the length of every run


def main(argv: Sequence[str]) -> int:
    """`seqzoo demo --out DIR`."""
    demo, console = parse(Demo, read(argv), "seqzoo demo"), Console()
    started = time.perf_counter()
    command = shlex.join(["seqzoo", "demo", *argv])
    studied = sections(demo.steps_scale)
    if importlib.util.find_spec(DIGITS) is None:
        studied.pop("sdigits")
        words = "without digits, whose data `pip install 'seqzoo[digits]'` brings"
        console.print(words, markup=False, highlight=False)
    for name, section in studied.items():
        experiments = section.experiments(MODELS)
        console.print(f"\n{name}: {section.task.description}", markup=False, highlight=False)
        out = demo.out / name
        with contextlib.closing(ProgressBars(console)) as bars:
            compared = compare(
                experiments,
                out,
                seeds=demo.seeds,
                command=command,
                progress=bars,
                axes=axes_of(section.axes),
            )
        if compared.models:
            show(compared, console)
        if any(compared.model(label) is None for label in experiments):
            console.print("stopped and saved; the same command continues", markup=False)
            return INCOMPLETE
    report = write_report(demo.out)
    console.print(f"\n{sentence(comparisons_in(demo.out))}", markup=False, highlight=False)
    console.print(
        f"{time.perf_counter() - started:.0f} s; report: {report}", highlight=False, soft_wrap=True
    )
    return 0
