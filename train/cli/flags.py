"""Flags made from the configuration dataclasses, and one-line errors for those that do not exist.

`--task` and `--model` choose which dataclasses there are: `--data.*` are the task's fields,
`--mixer.*` the mixer's (`--mixer.NAME.*` where a model has several), then `--backbone.*`,
`--optim.*`, `--mesh.*`; the fields of `TrainConfig` have no prefix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union

import tyro

from seqzoo import tasks
from seqzoo.models.heads import default_backbone
from seqzoo.models.registry import MIXERS, PRESETS, pattern_options, resolve
from seqzoo.tasks.pretraining import OBJECTIVES
from seqzoo.train.cli.errors import UsageError, unknown
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig


class Flag(NamedTuple):
    """One flag, its type, and whether it must be given."""

    name: str
    type: Any
    needed: bool = False


def check_task(name: str) -> None:
    """Raises UsageError for a task, or an `OBJECTIVE:TASK`, that does not exist."""
    objective, colon, inner = name.rpartition(":")
    if inner not in tasks.TASKS:
        raise unknown("task", inner, tasks.names())
    if colon and objective not in OBJECTIVES:
        raise unknown("objective", objective, OBJECTIVES)


def check_model(name: str) -> None:
    """Raises UsageError for a model that does not exist."""
    for part in [] if name in PRESETS else name.split(","):
        if part.strip() not in MIXERS:
            raise unknown("model", part, (*MIXERS, *PRESETS))


def experiment_fields(task: str, model: str, base: Experiment | None = None) -> list[tuple]:
    """Fields of a dataclass of flags that `experiment_of` turns into an experiment.

    `base`, of this task and model, gives other defaults than those of the configuration classes.
    """
    check_task(task)
    check_model(model)
    fields = {
        "data": base.task if base else tasks.kind(task)(),
        "mixer": _mixer_options(model, base.mixer if base else {}),
        "backbone": base.backbone if base else default_backbone(model),
        "optim": base.optim if base else OptimConfig(),
        "mesh": base.mesh if base else MeshConfig(),
    }
    made = [(name, type(value), _default(value)) for name, value in fields.items()]
    return [*made, bare_field("train", base.train if base else TrainConfig())]


def bare_field(name: str, value: Any) -> tuple:
    """A field of a dataclass of flags; the fields of the dataclass `value` get no prefix."""
    return name, Annotated[type(value), tyro.conf.arg(name="")], _default(value)


def experiment_of(parsed: Any, model: str) -> Experiment:
    """The experiment of parsed `experiment_fields`."""
    return Experiment(
        task=parsed.data,
        model=model,
        mixer=dataclasses.asdict(parsed.mixer),
        backbone=parsed.backbone,
        optim=parsed.optim,
        train=parsed.train,
        mesh=parsed.mesh,
    )


def parse(kind: type, argv: Sequence[str], prog: str) -> Any:
    """An instance of the dataclass `kind`. Raises UsageError; `--help` prints and exits 0."""
    asks = {"-h", "--help"} & set(argv)
    if not asks:
        _check(list(flags_of(kind)), argv)
    said = io.StringIO()
    quiet = contextlib.nullcontext() if asks else contextlib.redirect_stderr(said)
    try:
        with quiet, contextlib.nullcontext() if asks else contextlib.redirect_stdout(said):
            return tyro.cli(kind, args=list(argv), prog=prog)
    except SystemExit as stop:
        if asks or not stop.code:
            raise
        raise UsageError(" ".join(said.getvalue().replace("---", "").split())) from None


def flags_of(kind: type, prefix: str = "") -> Iterator[Flag]:
    """The flags of a dataclass, nested ones with their prefix."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], field.name.replace("_", "-")
        if typing.get_origin(hint) is Annotated:
            hint, bare = typing.get_args(hint)[0], True
        else:
            bare = False
        if dataclasses.is_dataclass(hint):
            yield from flags_of(hint, prefix if bare else f"{prefix}{name}.")
        else:
            needed = field.default is field.default_factory is dataclasses.MISSING
            yield Flag(f"--{prefix}{name}", hint, needed)
            if hint is bool:
                yield Flag(f"--{prefix}no-{name}", hint)


def _default(value: Any) -> Any:
    return dataclasses.field(default=value)


def _mixer_options(model: str, more: Mapping[str, Any]) -> Any:
    """An instance of the options of a model's mixer, or of one a mixer with several."""
    preset = resolve(model)
    options = pattern_options(preset.pattern, {**preset.options, **more})
    chosen = dict(zip(preset.pattern, options, strict=True))
    configs = {name: MIXERS[name].config(**options) for name, options in chosen.items()}
    if len(configs) == 1:
        return next(iter(configs.values()))
    fields = [(name, type(config), _default(config)) for name, config in configs.items()]
    return dataclasses.make_dataclass("MixerOptions", fields, frozen=True, kw_only=True)()


def _check(flags: list[Flag], argv: Sequence[str]) -> None:
    known = {flag.name: flag.type for flag in flags}
    given = {arg.partition("=")[0].replace("_", "-") for arg in argv}
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("--"):
            raise UsageError(f"unexpected argument {arg!r}; options have the form --name value")
        name, equals, text = arg.partition("=")
        name = name.replace("_", "-")
        if name not in known:
            raise unknown("option", name, known)
        if known[name] is bool and not equals:
            continue
        for value in [text] if equals else _values(rest, known[name], name):
            _check_value(name, known[name], value)
    for flag in flags:
        if flag.needed and flag.name not in given:
            raise UsageError(f"{flag.name} is needed")


def _values(rest: list[str], kind: Any, name: str) -> list[str]:
    """Takes what follows a flag: one value, or all values of a tuple."""
    count = next((i for i, arg in enumerate(rest) if arg.startswith("--")), len(rest))
    if count == 0:
        raise UsageError(f"{name} needs a value")
    if typing.get_origin(kind) is not tuple:
        count = 1
    values, rest[:] = rest[:count], rest[count:]
    return values


def _check_value(name: str, kind: Any, text: str) -> None:
    kinds = _alternatives(kind)
    choices = [str(c) for k in kinds if typing.get_origin(k) is Literal for c in typing.get_args(k)]
    if choices and len(kinds) == 1 and text not in choices:
        raise unknown(f"value of {name}", text, choices)
    for number in (int, float):
        if kinds == [number]:
            try:
                number(text)
            except ValueError:
                word = "an integer" if number is int else "a number"
                raise UsageError(f"{name} must be {word}; got {text!r}") from None


def _alternatives(kind: Any) -> list[Any]:
    if typing.get_origin(kind) in (Union, types.UnionType):
        return list(typing.get_args(kind))
    return [kind]
