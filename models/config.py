"""Configurations: dataclasses with the keyword arguments of a mixer's constructor, written once.

config_of(LRU)(d_state=8).build(64, rngs=nnx.Rngs(0))

Options that are values of several fields have a text, KIND:name=value,name=value, for flags and
saved configurations: `parsed` and `typed`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, get_args

from flax import nnx

from seqzoo.models.construct import COMMON, parameters_of
from seqzoo.models.errors import unknown
from seqzoo.models.help import says
from seqzoo.models.mixer import Mixer

WORDS = {bool: "True or False", int: "an integer", float: "a number"}  # for errors


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """The options of one mixer; `build` makes it."""

    module: ClassVar[type[Mixer]]
    if TYPE_CHECKING:  # fields are those of the constructor, which type checkers cannot take over

        def __init__(self, **options: Any) -> None: ...

    former_options: ClassVar[tuple[str, ...]]  # names that options once had

    def build(self, d_model: int, *, rngs: nnx.Rngs, **more: Any) -> Mixer:
        """The mixer of width `d_model`; `more` overrides fields and adds what is no option."""
        return self.module(d_model, **{**self.options(), **more}, rngs=rngs)

    def options(self) -> dict[str, Any]:
        """The fields by name, values as they are."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def current_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options`, of former names and forms too, as they are written today in plain data."""
        return cls.module.current_options(options)

    def __reduce__(self) -> tuple:
        return _made, (self.module, self.options())


@functools.cache
def config_of(module: type[Mixer]) -> type[MixerConfig]:
    """The config dataclass whose fields are the options of `module`.

    Raises TypeError for an argument of its constructor without a default or an annotation.
    """
    hints = inspect.get_annotations(module.__init__, eval_str=True)
    fields = []
    for name, argument in parameters_of(module).items():
        if name in COMMON:
            continue
        if argument.default is inspect.Parameter.empty:
            raise TypeError(f"{module.__name__}: option {name!r} needs a default")
        if name not in hints:
            raise TypeError(
                f"{module.__name__}: option {name!r} needs an annotation, such as "
                f"`{name}: {type(argument.default).__name__} = {argument.default!r}`"
            )
        kinds = get_args(hints[name])
        text = str in kinds and any(map(dataclasses.is_dataclass, kinds))  # a value, or its text
        hint = str if text else hints[name]
        fields.append((name, hint, dataclasses.field(default=argument.default)))
    made = dataclasses.make_dataclass(
        f"{module.__name__}Config", fields, bases=(MixerConfig,), frozen=True, kw_only=True
    )
    made.module, made.former_options = module, module.former_options
    made.__module__ = module.__module__
    told = ((name, says(module, name)) for name, *_ in fields)
    lines = "".join(f"    {name}: {text}\n" for name, text in told if text)
    made.__doc__ = f"Options of {module.__name__}." + (f"\n\nAttributes:\n{lines}" * bool(lines))
    return made


def _made(module: type[Mixer], options: dict[str, Any]) -> MixerConfig:
    return config_of(module)(**options)


def parsed(what: str, text: object) -> tuple[str, dict[str, str]]:
    """The kind and the options of a text. Raises ValueError for another form.

    `what` is the value's name, for errors.
    """
    kind, _, rest = str(text).partition(":")
    options = {}
    for part in rest.split(",") if rest.strip() else ():
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(
                f"{what}={text!r}: options have the form KIND:name=value,name=value; got {part!r}"
            )
        options[name.strip()] = value.strip()
    return kind.strip(), options


def typed(what: str, made: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a dataclass, those that are text as the types of their fields.

    Raises ValueError for one that there is not, or of another type.
    """
    hints = typing.get_type_hints(made)
    fields = [field.name for field in dataclasses.fields(made)]
    for name in options:
        if name not in fields:
            raise unknown(f"option of {what}", name, fields)
    return {name: _value(what, name, hints[name], value) for name, value in options.items()}


def _value(what: str, name: str, hint: Any, value: Any) -> Any:
    if typing.get_origin(hint) is types.UnionType:
        if value == "None":
            return None
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    if not isinstance(value, str) or hint not in WORDS:
        return value
    try:
        return {"True": True, "False": False}[value] if hint is bool else hint(value)
    except (KeyError, ValueError):
        raise ValueError(f"{what}: {name} is {WORDS[hint]}; got {value!r}") from None
