"""The shapes of configurations as plain data, before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, get_args, get_type_hints

from seqzoo.models.config import config_of
from seqzoo.models.registry import mixer, resolve
from seqzoo.train.checked import checked


class _Named(TypedDict):
    name: NotRequired[str]


class _Code(TypedDict):
    file: str | None
    sha256: str


class _Comparable(TypedDict):
    """What configurations are compared by, where they have it."""

    task: NotRequired[_Named]
    model: NotRequired[str]
    mixer: NotRequired[Mapping[str, Any]]
    optim: NotRequired[_Named]
    code: NotRequired[Mapping[str, _Code]]
    train: NotRequired[Mapping[str, Any]]
    backbone: NotRequired[Mapping[str, Any]]
    data: NotRequired[Mapping[str, Mapping[str, str]]]


class _Task(TypedDict):
    name: str


class _Run(TypedDict):
    """What every run has."""

    task: _Task
    model: str
    mixer: Mapping[str, Any]
    backbone: Mapping[str, Any]
    optim: Mapping[str, Any]
    train: Mapping[str, Any]


def checked_run(data: Any, where: str) -> dict[str, Any]:
    """`checked_config` of a run, which has all parts."""
    return checked(checked_config(data, where), _Run, where)


def checked_config(data: Any, where: str) -> dict[str, Any]:
    """A `to_dict` form with objects where it has some. Raises ValueError for another thing."""
    return checked(data, _Comparable, where)


def with_mappings(backbone: Any) -> Any:
    """`each` of a backbone holds mappings, which are pairs once they are frozen."""
    each = backbone.get("each") if isinstance(backbone, Mapping) else None
    if not isinstance(each, list | tuple):
        return backbone
    return {**backbone, "each": [dict(own) if _are_pairs(own) else own for own in each]}


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
        for pair in value
    )


def check_mixer(model: str, options: Mapping[str, Any], where: str) -> None:
    """Raises ValueError for options of another type than the model's mixers take."""
    for name in resolve(model).pattern:
        hints = get_type_hints(config_of(mixer(name)))
        own = options.get(name) if isinstance(options.get(name), Mapping) else options
        for option, value in own.items():
            # A value that is a dataclass is written as its text.
            if option in hints and not (isinstance(value, str) and _may_be_text(hints[option])):
                checked(value, hints[option], f"{where}, mixer.{option}")


def _may_be_text(hint: Any) -> bool:
    return not {*(get_args(hint) or (hint,))} <= {int, float, bool, type(None)}


def tuples(data: Any) -> Any:
    """JSON has lists where configurations have tuples."""
    if isinstance(data, Mapping):
        return {name: tuples(value) for name, value in data.items()}
    return tuple(map(tuples, data)) if isinstance(data, list | tuple) else data
