"""A command line, read once, and the values that its flags give to dataclasses.

The fields of a dataclass are flags: `d_model: int = 64  # width` is `--d-model`, nested dataclasses
have their field's name before a dot. A class with `current_options` reads values of former
names and forms too. Faults are ValueErrors of one line.
"""

from __future__ import annotations

import contextvars
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NewType, Union

from seqzoo.models.errors import unknown
from seqzoo.tasks.data.places import place
from seqzoo.train.folder.files import run_path
from seqzoo.train.toml import flags_in

Run = NewType("Run", Path)  # the folder of a run, which may be in a bucket
CONFIG = "--config"  # a TOML file of flags, of every verb
SHOWN = 60  # characters of a value that an error repeats
_listens = contextvars.ContextVar("_listens", default=False)  # whether `kind_of` asks


class Given(NamedTuple):
    """One flag as it was written."""

    name: str
    words: tuple[str, ...]  # those up to the next flag
    glued: bool  # as in --name=word


class CommandLine(NamedTuple):
    """The words of a command line, taken apart."""

    place: str | None  # the folder that verbs which read one name first or last
    given: tuple[Given, ...]
    rest: tuple[str, ...]  # words that belong to nothing
    asks: bool  # for help

    def has(self, name: str) -> bool:
        """Whether a flag was given."""
        return any(flag.name == name for flag in self.given)

    def has_any(self, *prefixes: str) -> bool:
        """Whether a flag was given that begins so."""
        return any(flag.name.startswith(prefixes) for flag in self.given)

    def after(self, defaults: Mapping[str, str]) -> CommandLine:
        """The line with other flags before its own, which count for more."""
        first = (Given(name, (text,), True) for name, text in defaults.items())
        return self._replace(given=(*first, *self.given))

    def text(self, name: str) -> str | None:
        """The value of a flag whose dataclass is not known yet; the last one counts."""
        own = [flag for flag in self.given if flag.name == name]
        if own and not own[-1].words:
            raise ValueError(f"{name} needs a value")
        return own[-1].words[0] if own else None


class Flag(NamedTuple):
    """A flag that there is, its type, and whether it must be given."""

    name: str
    type: Any
    needed: bool = False
    negates: str = ""  # the flag that it turns off
    former: bool = False  # not shown, since another one says it today


class _Heard(BaseException):
    """Ends a verb that was only asked for its flags."""

    def __init__(self, kind: type):
        self.kind = kind


def kind_of(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> type:
    """The dataclass whose fields are the flags of a verb after these words; nothing is run.

    Raises ValueError where these words have none.
    """
    token = _listens.set(True)
    try:
        main([*argv, "--help"])
    except _Heard as heard:
        return heard.kind
    finally:
        _listens.reset(token)
    raise ValueError(f"there are no flags after {' '.join(argv)!r}")


def read(argv: Sequence[str], *, place: bool = False) -> CommandLine:
    """Takes a command line apart. With `place`, its first or last word names a folder."""
    words = [word for word in argv if word not in ("-h", "--help")]
    named = None
    if place and words and not words[0].startswith("-"):
        named = words.pop(0)
    elif place and words and not words[-1].startswith("-") and not _awaits_value(words[:-1]):
        named = words.pop()
    rest, given = [], []
    for word in words:
        if word.startswith("--"):
            name, equals, text = word.partition("=")
            given.append(Given(name.replace("_", "-"), (text,) if equals else (), bool(equals)))
        elif given and not given[-1].glued:
            given[-1] = given[-1]._replace(words=(*given[-1].words, word))
        else:
            rest.append(word)
    asks = bool({"-h", "--help"} & {*argv})
    return _with_files(CommandLine(named, tuple(given), tuple(rest), asks))


def _with_files(line: CommandLine) -> CommandLine:
    """The line with what the files of --config say before its own flags, which count for more."""
    if line.text(CONFIG) is None:
        return line
    files = [flag for flag in line.given if flag.name == CONFIG]
    own = tuple(flag for flag in line.given if flag.name != CONFIG)
    found = (pair for flag in files for word in flag.words for pair in flags_in(place(word)))
    read = tuple(Given(name, words, False) for name, words in found)
    return line._replace(given=(*read, *own))  # of a flag that is given again the last counts


def parse(kind: type, line: CommandLine, prog: str, about: str = "") -> Any:
    """An instance of the dataclass `kind`; for `--help` prints what there is and exits 0.

    Raises ValueError, of one line, for a flag that does not exist, is missing or has no such value.
    """
    if line.asks:
        if _listens.get():
            raise _Heard(kind)
        import tyro

        explain(kind)
        tyro.cli(kind, args=["--help"], prog=prog, description=about or None)
    known = {flag.name: flag for flag in flags_of(kind)}
    values = {}
    for given in line.given:
        if given.name not in known:
            names = [flag.name for flag in known.values() if not flag.former]
            raise unknown("option", given.name, names, _beside(given.name, names))
        words, more = _own_words(given, known[given.name].type)
        for word in (*line.rest, *more):
            raise ValueError(f"unexpected argument {word!r}; options have the form --name value")
        flag = known[given.name]
        values[flag.negates or flag.name] = (
            False if flag.negates else _value(flag.name, flag.type, words)
        )
    for word in line.rest:
        raise ValueError(f"unexpected argument {word!r}; options have the form --name value")
    for flag in known.values():
        if flag.needed and flag.name not in values:
            raise ValueError(f"{flag.name} is needed")
    return _made(kind, values)


def _beside(name: str, flags: list[str]) -> list[str]:
    """Of some hundred flags those of the same part, or each part as one."""
    part = name.partition(".")[0] + "."
    same = [flag for flag in flags if "." in name and flag.startswith(part)]
    return same or [*dict.fromkeys(f"{f.partition('.')[0]}.*" if "." in f else f for f in flags)]


def explain(kind: type) -> None:
    """Puts where tyro finds them the comments of fields whose class was made at run time.

    It looks into a class's docstring and source; `masked:mqar` has the fields, but not the source,
    of the classes that it was made of.
    """
    for _, hint, _ in _fields(kind, ""):
        if dataclasses.is_dataclass(hint):
            explain(hint)
    doc = kind.__doc__ or ""
    if "Attributes:" in doc or _source(kind):
        return
    told = ((field.name, _comment(kind, field.name)) for field in dataclasses.fields(kind))
    lines = "".join(f"    {name}: {text}\n" for name, text in told if text)
    kind.__doc__ = f"{inspect.cleandoc(doc)}\n\nAttributes:\n{lines}" if lines else doc


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""


def _comment(kind: type, name: str) -> str:
    """What stands behind a field in the nearest class that declares it."""
    for base in kind.__mro__:
        if name in vars(base).get("__annotations__", ()):
            found = re.search(rf"^ +{name}: .*?  # (.*)$", _source(base), re.MULTILINE)
            return found[1] if found else ""
    return ""


def place_of(line: CommandLine, usage: str) -> Path:
    """The folder that the command line names. Raises ValueError where there is none."""
    if line.place is None:
        raise ValueError(f"name a folder: {usage}")
    return run_path(line.place)


def bare_field(name: str, value: Any) -> tuple:
    """A field of a dataclass of flags: the fields of a dataclass `value`, or class, unprefixed."""
    import tyro

    if isinstance(value, type):
        return name, Annotated[value, tyro.conf.arg(name="")]
    kind = Annotated[type(value), tyro.conf.arg(name="")]
    return name, kind, dataclasses.field(default=value)


def flags_of(kind: type, prefix: str = "") -> Iterator[Flag]:
    """The flags of a dataclass, nested ones with their prefix."""
    for field, hint, name in _fields(kind, prefix):
        if dataclasses.is_dataclass(hint):
            yield from flags_of(hint, name)
            continue
        needed = field.default is field.default_factory is dataclasses.MISSING
        yield Flag(f"--{name}", hint, needed)
        if hint is bool:
            before, dot, last = name.rpartition(".")
            yield Flag(f"--{before}{dot}no-{last}", hint, negates=f"--{name}")
    for name in getattr(kind, "former_options", ()):
        yield Flag(_flag(prefix, name), str, former=True)


def _fields(kind: type, prefix: str) -> Iterator[tuple[dataclasses.Field, Any, str]]:
    """Fields with their types, and the flag's name or, of a nested dataclass, its prefix."""
    hints = typing.get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], prefix + field.name.replace("_", "-")
        if typing.get_origin(hint) is Annotated:
            hint, name = typing.get_args(hint)[0], prefix
        elif dataclasses.is_dataclass(hint):
            name += "."
        yield field, hint, name


def _made(kind: type, values: dict[str, Any], default: Any = None, prefix: str = "") -> Any:
    """The dataclass with what was given in place of its defaults, or of those of `default`."""
    changed = {}
    for field, hint, name in _fields(kind, prefix):
        if dataclasses.is_dataclass(hint):
            if default is not None:
                nested = getattr(default, field.name)
            elif field.default is not dataclasses.MISSING:
                nested = field.default
            else:  # made anew, since what a class fills in may depend on what is given
                nested = None
            changed[field.name] = _made(hint, values, nested, name)
        elif f"--{name}" in values:
            changed[field.name] = values[f"--{name}"]
    made = kind(**changed) if default is None else dataclasses.replace(default, **changed)
    if not hasattr(kind, "current_options"):
        return made
    given = {n: values[f] for n in kind.former_options if (f := _flag(prefix, n)) in values}
    return kind(**kind.current_options({**made.options(), **given}))


def _flag(prefix: str, name: str) -> str:
    return f"--{prefix}{name.replace('_', '-')}"


def _awaits_value(words: Sequence[str]) -> bool:
    return bool(words) and words[-1].startswith("--") and "=" not in words[-1]


def _own_words(given: Given, kind: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The words that are a flag's value, and those that are not."""
    if kind is bool:
        if given.glued:
            raise ValueError(f"{given.name} takes no value; write {given.name} or its --no- form")
        return (), given.words
    if not given.words:
        raise ValueError(f"{given.name} needs a value")
    many = len(given.words) if typing.get_origin(kind) is tuple else 1
    return given.words[:many], given.words[many:]


def _value(name: str, kind: Any, words: tuple[str, ...]) -> Any:
    """What the words after a flag stand for. Raises ValueError naming what would be right."""
    if kind is bool:
        return True
    if typing.get_origin(kind) is not tuple:
        return value_of(name, kind, words[0])
    kinds = typing.get_args(kind)
    if kinds[-1] is Ellipsis:
        return tuple(value_of(name, kinds[0], word) for word in words)
    if len(kinds) != len(words):
        raise ValueError(f"{name} needs {len(kinds)} values; got {' '.join(words)}")
    return tuple(value_of(name, each, word) for each, word in zip(kinds, words, strict=True))


def value_of(name: str, kind: Any, text: str) -> Any:
    """What one word stands for. Raises ValueError naming what would be right."""
    if typing.get_origin(kind) in (Union, types.UnionType):
        kinds = typing.get_args(kind)
        if text == "None" and type(None) in kinds:
            return None
        (kind,) = (k for k in kinds if k is not type(None))
    if typing.get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        if text not in choices:
            raise unknown(f"value of {name}", text, choices)
        return choices[text]
    if kind is bool:
        if text not in ("True", "False"):
            raise unknown(f"value of {name}", text, ("True", "False"))
        return text == "True"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            word = "an integer" if kind is int else "a number"
            shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
            raise ValueError(f"{name} must be {word}; got {shown!r}") from None
    if kind is Run:
        return run_path(text)
    return place(text) if kind is Path else text
