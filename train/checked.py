"""Plain data that was read, against the types that a program expects of it.

    content = checked(read_json(path), RunResult, str(path))

Types are those of annotations: dataclasses and TypedDicts for objects, and what they hold.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")
SHOWN = 60  # characters of a value in an error
WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def read_json(path: Path) -> Any:
    """The content of a file of JSON. Raises ValueError, naming the file, where it is none."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file of JSON, but a folder or a device")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no JSON ({reason}): the file is damaged") from error


def checked(value: Any, kind: type[T] | Any, where: str) -> T:
    """`value`, which is of this type: an object with known fields of theirs, and so on.

    Raises ValueError naming the place, what belongs there and what is there.
    """
    _check(value, kind, where, "")
    return value


def check_replicas(value: Any, replicas: int, where: str) -> None:
    """Raises ValueError unless `value` is a list of as many, or of one replica no list."""
    right = len(value) == replicas > 1 if isinstance(value, list) else replicas == 1
    words = f"a list of {replicas}" if replicas > 1 else "of one replica, so no list"
    _need(right, value, words, where, "")


def _check(value: Any, kind: Any, where: str, key: str) -> None:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        _check(value, inner[0], where, key)
    elif origin in (Union, types.UnionType):
        _check_any(value, inner, where, key)
    elif origin is Literal:
        _need(value in inner, value, " or ".join(map(repr, inner)), where, key)
    elif dataclasses.is_dataclass(kind) or typing.is_typeddict(kind):
        _check_fields(value, kind, where, key)
    elif origin in (dict, Mapping):
        _need(isinstance(value, Mapping), value, "an object", where, key)
        for name, part in value.items():
            _check(part, inner[1], where, _join(key, name))
    elif origin in (tuple, list, Sequence):
        _need(isinstance(value, list | tuple), value, "a list", where, key)
        fixed = origin is tuple and inner[-1] is not Ellipsis
        _need(not fixed or len(value) == len(inner), value, f"{len(inner)} values", where, key)
        for i, part in enumerate(value):
            _check(part, inner[i] if fixed else inner[0], where, f"{key}[{i}]")
    elif kind in WORDS:
        right = isinstance(value, (int, float) if kind is float else kind)
        right = right and isinstance(value, bool) == (kind is bool)
        _need(right, value, WORDS[kind], where, key)
    elif kind in (None, type(None)):
        _need(value is None, value, "null", where, key)


def _check_any(value: Any, kinds: Sequence[Any], where: str, key: str) -> None:
    """Of several types one fits, or the error is that of the first that is not null."""
    errors = []
    for kind in sorted(kinds, key=lambda kind: kind is type(None)):
        try:
            return _check(value, kind, where, key)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _check_fields(value: Any, kind: Any, where: str, key: str) -> None:
    _need(isinstance(value, Mapping), value, "an object", where, key)
    hints = typing.get_type_hints(kind, include_extras=True)
    if typing.is_typeddict(kind):
        needed = {k for k, v in hints.items() if typing.get_origin(v) is not typing.NotRequired}
    else:
        hints = {field.name: hints[field.name] for field in dataclasses.fields(kind)}
        needed = {field.name for field in dataclasses.fields(kind) if _is_needed(field)}
        for name in value.keys() - hints.keys():
            raise ValueError(
                f"{_at(where, key)}: {kind.__name__} has no field {name!r} (known: "
                f"{', '.join(sorted(hints))}); it was written by another version"
            )
    for name in sorted(needed - value.keys()):
        raise ValueError(f"{_at(where, key)}: {name!r} is missing; the file is damaged")
    for name, part in value.items():
        if name in hints:
            _check(part, hints[name], where, _join(key, name))


def _is_needed(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _need(right: bool, value: Any, words: str, where: str, key: str) -> None:
    if not right:
        shown = json.dumps(value, default=repr)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        raise ValueError(f"{_at(where, key)} should be {words}; it is {shown}")


def _join(key: str, name: object) -> str:
    return f"{key}.{name}" if key else str(name)


def _at(where: str, key: str) -> str:
    return ", ".join(part for part in (where, key) if part)
