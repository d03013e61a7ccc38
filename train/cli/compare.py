"""`seqzoo compare --task T --models A,B,C --seeds 3 --out DIR`: several models on one task."""

from __future__ import annotations

import contextlib
import dataclasses
import keyword
import re
import shlex
import sys
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from seqzoo import tasks
from seqzoo.models.foreign.address import is_address, short
from seqzoo.models.registry import resolve
from seqzoo.train import code
from seqzoo.train.cli.errors import INCOMPLETE, exit_code
from seqzoo.train.cli.experiment import (
    DEPENDS,
    examined,
    experiment_fields,
    experiment_of,
    mixer_options,
    named_task,
    needed,
    say_notes,
)
from seqzoo.train.cli.flags import (
    CommandLine,
    Given,
    Run,
    bare_field,
    parse,
    read,
    value_of,
)
from seqzoo.train.compare import comparison, controls, members
from seqzoo.train.compare.page import FILE as REPORT
from seqzoo.train.compare.plans import Vectorise
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.sweep import Range, Sweep, check_keeps_sizes, field_kinds
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.cost.matching import matching
from seqzoo.train.devices.processes import Processes, is_first, joined
from seqzoo.train.evaluation.axes import axes_of
from seqzoo.train.hybrids import hybrids
from seqzoo.train.out.console import ProgressBars

TRAIN = TrainConfig(save_every=0, save_seconds=60.0)  # many small models: by time, not by steps

SWEEP, TO = "--sweep", ".."  # a flag, and what is between the ends of a range


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What is tried for every model first, on validation; final runs have other seeds."""

    # optim.peak-lr=1e-3,3e-3 or =1e-4..1e-2; optim.LABEL.peak-lr=... of one; several: their grid
    sweep: tuple[str, ...] = ()
    trials: str = "grid"  # all combinations; random:N or random:N:SEED draws, ranges by logarithm
    tuning_seeds: int = 1  # of each trial
    budget: str = ""  # trials=N, flops=X or seconds=X for the trials of each model; empty: all


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions(SweepOptions):
    """What to compare."""

    out: Run  # folder of the results; a comparison that was stopped continues there
    task: str = ""  # what to learn; see seqzoo list
    models: str = ""  # a,b,c=a,d+e: label=model, with a plus between the mixers of a pattern
    seeds: int = 3  # runs of each model
    vectorise: Vectorise = "auto"  # whether the seeds of a model share one program
    # what all models are made to cost the same in, by their widths or, where it must, more
    match: Literal["none", "parameters", "flops", "state", "time"] = "none"
    # what to test the trained models along: length=64,128 num-pairs=4,8 position streaming=1,16
    axes: tuple[str, ...] = ()
    controls: bool = False  # how much needs long range: two more models, and all on shuffled rows
    ratio: str = ""  # attention=0,1/8,1/2,1: a model attention+lru by the share of such layers
    match_target: float = 0.0  # how much; 0: as the largest model, or as in the folder
    allow_broken: bool = False  # train mixers of your own that break a law, and say so
    workers: int = 1  # processes here that share the models; 0: one for each GPU
    ray: int = 0  # tasks of a Ray cluster that share the models; the folder is one that all see


def main(argv: Sequence[str]) -> int:
    """`seqzoo compare`."""
    line = every_sweep(read(argv))
    task = named_task(line, "mqar")
    tasks.kind(task)
    models = dict(labelled(needed(line, "--models", "attention")))
    if _controlled(line):
        own = {label: model for label, (model, _) in controls.MODELS.items()}
        models = controls.with_controls(models, own)
    options, processes, experiments = experiments_of(line, task, models)
    experiments, families = hybrids(experiments, options.ratio)
    sweep = sweep_of(options, experiments)
    if members.wanted(options.workers, options.ray, processes):
        command = ["-m", "seqzoo.train.cli", "compare", *argv]
        start = members.on_ray if options.ray else members.on_host
        return start(command, options.ray or options.workers)
    with joined(processes, exit_code):
        sizes = None
        if options.match != "none":
            check_keeps_sizes(sweep)
            sizes = matching(options.out, experiments, options.match, options.match_target)
            experiments = sizes.experiments
        axes = axes_of(options.axes)
        axes = controls.with_shuffle(axes) if options.controls else axes
        claims = examined(experiments, options.allow_broken)
        if is_first():
            say_notes(next(iter(experiments.values())))
            for label, words in sizes.words().items() if sizes else ():
                print(f"{label}: {words}", file=sys.stderr)
        with contextlib.closing(ProgressBars(Console())) as bars:
            compared = comparison.compare(
                experiments,
                options.out,
                seeds=options.seeds,
                sweep=sweep,
                vectorise=options.vectorise,
                command=shlex.join(["seqzoo", "compare", *argv]),
                progress=bars,
                claims=claims,
                matching=sizes,
                axes=axes,
                families=families,
            )
        missing = [label for label in experiments if compared.model(label) is None]
        if is_first():
            said(compared, missing, options.out)
        return INCOMPLETE if missing else 0


def said(compared: Comparison, missing: Sequence[str], out: Path) -> None:
    """Prints the table, and what is missing or where the report is."""
    console = Console()
    if compared.models:
        comparison.show(compared, console)
    if missing:
        text = f"stopped and saved in {out} without {', '.join(missing)}; the same command goes on"
    else:
        text = f"report: {out / REPORT}"
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def labelled(text: str) -> Iterator[tuple[str, str]]:
    """(label, model) of `--models a,b,c=a,d+e`: a pattern's mixers are joined by a plus.

    Without a label, `mine.py:EMA` is labelled EMA.

    Raises ValueError for an empty part, a label given twice and a model that does not exist.
    """
    seen = set()
    for part in text.split(","):
        label, equals, model = part.strip().partition("=")
        if not equals and is_address(label):
            label, equals, model = short(label), "=", label
        if not re.fullmatch(r"[A-Za-z]\w*(\+\w+)*", label) or (equals and not model):
            raise ValueError(
                f"--models {text!r}: {part.strip()!r} is no model; write attention,lru, or "
                "label=model, with a plus between the mixers of a pattern"
            )
        if keyword.iskeyword(label):
            raise ValueError(
                f"--models {text!r}: {label!r} is a word of Python's, after which no flag can be "
                f"named; write {label}_model={model or label}"
            )
        if _flag_name(label) in seen:
            raise ValueError(f"--models has {label!r} twice; tell them apart as in a=lru,b=lru")
        model = (model or label).replace("+", ",")
        code.name(*code.foreign(model, "").values())
        resolve(model)
        seen.add(_flag_name(label))
        yield label, model


def experiments_of(
    line: CommandLine, task: str, models: Mapping[str, str]
) -> tuple[CompareOptions, Processes, dict[str, Experiment]]:
    """What to compare, on which processes, and the experiment of each label."""
    about = f"Trains {', '.join(models)} on {task}. {DEPENDS}"
    more = {label: options for label, (_, options) in controls.MODELS.items()}
    more = more if _controlled(line) else {}
    mixers = {
        _flag_name(label): mixer_options(model, more.get(label, {}))
        for label, model in models.items()
    }
    fields = [
        (name, type(config), dataclasses.field(default=config)) for name, config in mixers.items()
    ]
    every = dataclasses.make_dataclass("Mixers", fields, frozen=True, kw_only=True)
    experiments = {}
    for label, model in models.items():
        # A preset brings block options: the flags are read with the defaults of each model.
        own_flags = ("mixer", "train")
        shared = [field for field in experiment_fields(task, model) if field[0] not in own_flags]
        own = bare_field("own", CompareOptions)
        mixer = ("mixer", every, dataclasses.field(default=every()))
        rest = (bare_field("train", TRAIN), bare_field("processes", Processes()))
        fields = [own, mixer, *shared, *rest]
        kind = dataclasses.make_dataclass("Compare", fields, kw_only=True)
        own_line = _of_label(line, label, mixers)
        code.name(*code.foreign("", "", own_line.text("--optim.name") or "").values())
        parsed = parse(kind, own_line, "seqzoo compare", about)
        options = getattr(parsed.mixer, _flag_name(label))
        experiments[label] = experiment_of(parsed, model, options)
    return parsed.own, parsed.processes, experiments


def _controlled(line: CommandLine) -> bool:
    """Whether --controls is given: which other flags there are depends on it."""
    kind = dataclasses.make_dataclass("Controls", [("controls", bool, False)], kw_only=True)
    own = tuple(flag for flag in line.given if flag.name in ("--controls", "--no-controls"))
    return parse(kind, line._replace(given=own, rest=(), asks=False), "seqzoo compare").controls


def _of_label(line: CommandLine, label: str, labels: Collection[str]) -> CommandLine:
    """The line that one model is made of: `--optim.LABEL.x` is its `--optim.x`, and counts last.

    So it is with `--backbone.LABEL.x`: positions that are added, norms, dropout.
    """
    prefixes = {
        f"--{part}.{name}.".replace("_", "-"): (part, name)
        for part in ("optim", "backbone")
        for name in labels
    }
    shared, own = [], []
    for flag in line.given:
        prefix = next((p for p in prefixes if flag.name.startswith(p)), None)
        if prefix is None:
            shared.append(flag)
            continue
        part, name = prefixes[prefix]
        if name == _flag_name(label):
            own.append(flag._replace(name=f"--{part}.{flag.name.removeprefix(prefix)}"))
    return line._replace(given=(*shared, *own))


def _flag_name(label: str) -> str:
    return label.replace("+", "_")


def every_sweep(line: CommandLine) -> CommandLine:
    """The line with what all its --sweep flags say in one, as none counts for more."""
    own = [flag for flag in line.given if flag.name == SWEEP]
    if len(own) < 2:
        return line
    words = tuple(w for flag in own for w in flag.words)
    rest = (flag for flag in line.given if flag.name != SWEEP)
    return line._replace(given=(*rest, Given(SWEEP, words, False)))


def sweep_of(options: SweepOptions, experiments: Mapping[str, Experiment]) -> Sweep | None:
    """The sweep that was asked for. Raises ValueError for what cannot be tried."""
    if not options.sweep:
        own = [field for field in dataclasses.fields(SweepOptions) if field.name != "sweep"]
        said = [f.name for f in own if getattr(options, f.name) != f.default]
        if said:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in said)
            raise ValueError(f"{flags}: of which trials? give --sweep optim.peak-lr=1e-3,3e-3,1e-2")
        return None
    fields: dict[str, Any] = {}
    for text in options.sweep:
        name, equals, values = text.partition("=")
        if not equals:
            raise ValueError(f"{SWEEP} {text!r} is no FIELD=A,B,C and no FIELD=LOW..HIGH")
        name = name.strip().replace("-", "_")
        if name in fields:
            raise ValueError(f"{SWEEP} has {name} twice; give all its values in one")
        _, kind = next(iter(field_kinds(name, experiments).values()))
        fields[name] = _values(name, kind, values)
    return Sweep(
        fields=fields, trials=options.trials, seeds=options.tuning_seeds, budget=options.budget
    )


def _values(name: str, kind: Any, text: str) -> tuple[Any, ...] | Range:
    """`A,B,C`, or, of numbers, `LOW..HIGH`."""
    if TO in text and {int, float} & {kind, *typing.get_args(kind)}:
        low, high, *more = (value_of(name, kind, end) for end in text.split(TO))
        if not more:
            return Range(low, high)
    return tuple(value_of(name, kind, part.strip()) for part in text.split(",") if part.strip())
