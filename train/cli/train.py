"""`seqzoo train`: starts a run, or continues it; on several processes, all do so together."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from seqzoo import tasks
from seqzoo.train.cli.errors import INCOMPLETE, exit_code
from seqzoo.train.cli.experiment import (
    DEPENDS,
    chosen,
    examined,
    experiment_fields,
    experiment_of,
    named_task,
    say_notes,
)
from seqzoo.train.cli.flags import CommandLine, Run, bare_field, parse, read
from seqzoo.train.compare.run_page import CLAIMS
from seqzoo.train.config import Experiment
from seqzoo.train.devices.backend import prepare
from seqzoo.train.devices.processes import Processes, is_first, joined
from seqzoo.train.folder.files import run_path, write_atomically
from seqzoo.train.loop import runner
from seqzoo.train.loop.claims import as_claims
from seqzoo.train.loop.learned import fine_tuning, settled, tokenized
from seqzoo.train.out.console import ProgressBars, bare, words
from seqzoo.train.published import published


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, and where."""

    task: str = ""  # what to learn, or OBJECTIVE:TASK to pretrain; see seqzoo list
    model: str = ""  # a mixer, a preset, or mixers separated by commas; see seqzoo list
    init: str = ""  # published weights to fine-tune, a folder in place of --model
    published: str = ""  # a published configuration in place of task and model; see seqzoo list
    out: Run  # the run's folder; the same command again continues what is there
    change_steps: bool = False  # continue a run under another number of steps
    deterministic: bool = False  # bitwise repeatable on a GPU too, at some cost
    allow_broken: bool = False  # train a mixer of your own that breaks a law, and say so


def main(argv: Sequence[str]) -> int:
    """`seqzoo train`."""
    line = read(argv)
    base = _published(line) or _initial(line)
    task, model = (tasks.name_of(base.task), base.model) if base else chosen(line)
    fields = [
        bare_field("own", TrainOptions),
        *experiment_fields(task, model, base),
        bare_field("processes", Processes()),
    ]
    kind = dataclasses.make_dataclass("Train", fields, kw_only=True)
    parsed = parse(kind, line, "seqzoo train", f"Trains {model} on {task}. {DEPENDS}")
    prepare(parsed.own.deterministic)
    experiment = settled(experiment_of(parsed, model))
    with joined(parsed.processes, exit_code):
        if is_first():
            say_notes(experiment)
        return _train(experiment, parsed.own)


def _published(line: CommandLine) -> Experiment | None:
    """The experiment that --published names, in place of --task and --model; None without it."""
    name = line.text("--published")
    if name is None:
        return None
    for flag in ("--task", "--model"):
        if line.text(flag) is not None:
            raise ValueError(
                f"--published {name} has a task and a model of its own; leave out {flag}"
            )
    return published(name).experiment()


def _initial(line: CommandLine) -> Experiment | None:
    """The model of --init for the task, with the weights as what to start from; None without it."""
    folder = line.text("--init")
    if folder is None:
        return None
    for flag in ("--model", "--init-from", "--published"):
        if line.text(flag) is not None:
            raise ValueError(f"--init {folder} says what {flag} would; leave one of them out")
    task, place = named_task(line, "listops"), run_path(folder)
    kind = tasks.kind(task)
    default = tasks.build(task, **tokenized(place, kind))
    # What model a task needs may depend on its data, so its flags are read first.
    only = line._replace(given=tuple(f for f in line.given if f.name.startswith("--data.")))
    fields = [("data", kind, dataclasses.field(default=default))]
    made = dataclasses.make_dataclass("Data", fields, kw_only=True)
    return fine_tuning(place, default if line.asks else parse(made, only, "seqzoo train").data)


def _train(experiment: Experiment, own: TrainOptions) -> int:
    out, change_steps = own.out, own.change_steps
    result = before = runner.finished(experiment, out, change_steps=change_steps)
    if not before:
        claims = examined({"": experiment}, own.allow_broken)
        with contextlib.closing(ProgressBars()) as bars:
            result = runner.run(experiment, out, change_steps=change_steps, progress=bars)
        if claims and is_first():
            write_atomically(out / CLAIMS, json.dumps(as_claims(claims[""]), indent=1))
    code = 0 if result["complete"] else INCOMPLETE
    if not is_first():
        return code
    if before:
        print(f"{out} is already complete at step {before['step']}: {_results(before)}")
    elif result["complete"]:
        print(f"{out}: {result['step']} steps, {_results(result)}")
    else:
        print(
            f"{out}: stopped and saved at step {result['step']} of {experiment.train.steps}; "
            "the same command continues"
        )
    return code


def _results(result: dict[str, Any]) -> str:
    loss = words({"loss": result.get("train", {}).get("loss")})
    return f"{loss}; validation {words(bare(result.get('validation', {})))}"
