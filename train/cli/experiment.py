"""Flags of an experiment.

`--task` and `--model` choose which dataclasses there are: `--data.*` are the task's fields,
`--mixer.*` the mixer's (`--mixer.NAME.*` where a model has several), then `--backbone.*`,
`--optim.*`, `--mesh.*`; the fields of `TrainConfig` have no prefix.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from seqzoo import tasks
from seqzoo.models.config import config_of
from seqzoo.models.foreign.address import short
from seqzoo.models.registry import mixer, pattern_options, resolve
from seqzoo.models.whole.build import default_backbone
from seqzoo.train import code
from seqzoo.train.cli.flags import CommandLine, bare_field
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.devices.processes import is_first
from seqzoo.train.folder.files import run_path
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.claims import Verdict, sound

DEPENDS = (
    "Which --data.* and --mixer.* flags there are, and their defaults, depends on the task and the "
    "model, or on --published: give them with --help, as in `seqzoo train --task mqar --model lru "
    "--help`; `seqzoo list` has the names. --config FILE.toml holds flags; those of the command "
    "line count for more."
)


def chosen(line: CommandLine) -> tuple[str, str]:
    """Task and model, which decide what other flags there are.

    Raises ValueError where one is missing or does not exist.
    """
    if line.text("--init-from") == "":  # as of a variable that is not set
        raise ValueError("--init-from names no run; leave it out to start from scratch")
    task, model = named_task(line, "listops"), needed(line, "--model", "attention")
    code.name(*code.foreign(model, "", line.text("--optim.name") or "").values())
    tasks.kind(task)
    resolve(model)
    return task, model


def named_task(line: CommandLine, shown: str) -> str:
    """The value of --task; its code, if it is not ours, may run now."""
    task = needed(line, "--task", shown)
    code.name(*code.foreign("", task).values())
    return task


def named_code(line: CommandLine) -> None:
    """Reads --code of a verb that takes up a run."""
    where = line.text("--code")
    if where and line.place is not None:
        code.accept(where, RunFolder(run_path(line.place)).config())


def needed(line: CommandLine, flag: str, shown: str) -> str:
    """The value of a flag that must be given; that of `shown` where one asks for help."""
    value = line.text(flag)
    if value is None and not line.asks:
        raise ValueError(f"{flag} is needed; `seqzoo list` shows what there is")
    return value or shown


def experiment_fields(task: str, model: str, base: Experiment | None = None) -> list[tuple]:
    """Fields of a dataclass of flags that `experiment_of` turns into an experiment.

    `base`, of this task and model, gives other defaults than those of the configuration classes.
    """
    fields = {
        "mixer": mixer_options(model, base.mixer if base else {}),
        "backbone": base.backbone if base else default_backbone(model),
        "optim": base.optim if base else OptimConfig(),
        "mesh": base.mesh if base else MeshConfig(),
    }
    made = [(name, type(value), dataclasses.field(default=value)) for name, value in fields.items()]
    # A task may fill in what depends on its other options, so it is made once these are known.
    kind = type(base.task) if base else tasks.kind(task)
    given = {"default": base.task} if base else {"default_factory": kind}
    made.insert(0, ("data", kind, dataclasses.field(**given)))
    return [*made, bare_field("train", base.train if base else TrainConfig())]


def experiment_of(parsed: Any, model: str, mixer: Any = None) -> Experiment:
    """The experiment of parsed `experiment_fields`; `mixer` in place of the parsed options."""
    train = parsed.train
    if train.init_from:
        train = dataclasses.replace(train, init_from=str(run_path(train.init_from)))
    return Experiment(
        task=parsed.data,
        model=model,
        mixer=dataclasses.asdict(parsed.mixer if mixer is None else mixer),
        backbone=parsed.backbone,
        optim=parsed.optim,
        train=train,
        mesh=parsed.mesh,
    )


def examined(experiments: Mapping[str, Experiment], allow: bool) -> dict[str, list[Verdict]]:
    """What two cheap laws found of the mixers from outside, said; {} where there are none.

    Raises ValueError for a broken one, unless that is allowed.
    """
    found = dict(zip(experiments, sound(experiments.values(), allow=allow), strict=True))
    for verdict in dict.fromkeys(verdict for own in found.values() for verdict in own):
        if is_first():
            print(verdict, file=sys.stderr)
    return {label: own for label, own in found.items() if own}


def say_notes(experiment: Experiment) -> None:
    """Says what can be done, but perhaps not as it was meant."""
    steps = experiment.train.steps
    warmup = experiment.optim.warmup_steps(steps)
    if warmup > steps:
        print(
            f"note: a warm-up of {warmup} steps does not fit into {steps}: it takes them all, so "
            "that the learning rate never falls; --optim.warmup 0.1 is a tenth of the steps",
            file=sys.stderr,
        )


def mixer_options(model: str, more: Mapping[str, Any]) -> Any:
    """An instance of the options of a model's mixer, or of one a mixer with several."""
    preset = resolve(model)
    options = pattern_options(preset.pattern, {**preset.options, **more})
    chosen = dict(zip(preset.pattern, options, strict=True))
    configs = {name: config_of(mixer(name))(**options) for name, options in chosen.items()}
    if len(configs) == 1:
        return next(iter(configs.values()))
    fields = [
        (short(name), type(config), dataclasses.field(default=config))
        for name, config in configs.items()
    ]
    return dataclasses.make_dataclass("MixerOptions", fields, frozen=True, kw_only=True)()
