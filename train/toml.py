"""A run's configuration as a TOML file: what `--config` reads, and each run's folder has.

task = "mqar"                 # flags without a prefix
steps = 200
[optim]                       # --optim.peak-lr 0.003
peak_lr = 0.003
[mixer.EMA]                   # --mixer.EMA.rate 0.8
rate = 0.8
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqzoo.models.blocks.config import BackboneConfig
from seqzoo.models.pretrained.folder import is_published

FILE = "run.toml"
PREFIXES = ("data", "mixer", "backbone", "optim", "mesh")  # the parts that are tables


def as_toml(config: Mapping[str, Any]) -> str:
    """The file that makes a run of this `to_dict` form again."""
    task = dict(config["task"])
    code = config.get("code", {})
    top = {"task": _placed(task.pop("name"), code), "model": _placed(config["model"], code)}
    train = dict(config["train"])
    if (start := train.get("init_from")) and is_published(start):  # some of whose model no flag has
        top = {"task": top["task"], "init": train.pop("init_from")}
    parts = {**config, "data": task, "backbone": _worded(config.get("backbone", {}))}
    lines = ["# seqzoo train --config run.toml --out FOLDER makes this run again; flags win."]
    if config.get("swept"):
        lines.append(f"# But for what no flag has: numbers of each trial, {config['swept']}.")
    lines += _lines({**top, **train}, ())
    for name in PREFIXES:
        lines += _lines(parts.get(name, {}), (name,), code)
    return "\n".join(lines) + "\n"


def _worded(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Switches that may also be left to the model are words: `--backbone.head-bias False`."""
    third = {field.name for field in dataclasses.fields(BackboneConfig) if field.default is None}
    return {
        name: str(value) if name in third and isinstance(value, bool) else value
        for name, value in backbone.items()
    }


def _placed(name: str, code: Mapping[str, Any]) -> str:
    """A name in which addresses lead to where their files lay."""
    parts = []
    for part in name.split(","):
        where = code.get(part, {}).get("file")
        is_file = where and part.rpartition(":")[0].endswith(".py")
        parts.append(f"{where}:{part.rpartition(':')[2]}" if is_file else part)
    return ",".join(parts)


def _lines(
    values: Mapping[str, Any], table: tuple[str, ...], code: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Key by key; None and what is empty have no form as a flag and are the defaults."""
    inner = {k: v for k, v in values.items() if isinstance(v, Mapping)}
    nothing = (None, [], ()) + (() if "trackers" in values else ("",))
    own = {k: v for k, v in values.items() if k not in inner and v not in nothing}
    if own.get("init_from") == "":  # a flag that names something, or is left out
        del own["init_from"]
    if table and own:
        yield f"\n[{'.'.join(map(_key, table))}]"
    for name, value in own.items():
        value = _placed(value, code) if code and table == ("optim",) and name == "name" else value
        if not _nested(value):
            yield f"{_key(name)} = {_value(value)}"
    for name, value in inner.items():
        yield from _lines(value, (*table, name.rpartition(":")[2]))


def _nested(value: Any) -> bool:
    """Whether a list holds more than words and numbers, which no flag has."""
    return isinstance(value, list) and any(isinstance(v, list | Mapping) for v in value)


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        text = repr(value)
        return text if "." in text or "e" in text else f"{text}.0"
    return json.dumps(value) if isinstance(value, str) else str(value)


def flags_in(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(flag, words) of a file, in its order; a switch has no words.

    Raises ValueError for what is no TOML, or holds what no flag has.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ValueError(f"--config: there is no file {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no TOML file: {error}") from error
    yield from _flags(data, "--", path)


def _flags(data: Mapping[str, Any], prefix: str, path: Path) -> Iterator[tuple[str, tuple]]:
    for name, value in data.items():
        flag = f"{prefix}{name}".replace("_", "-")
        if isinstance(value, Mapping):
            yield from _flags(value, f"{prefix}{name}.", path)
        elif isinstance(value, bool):
            head, dot, last = flag.removeprefix("--").rpartition(".")
            yield (flag if value else f"--{head}{dot}no-{last}"), ()
        elif isinstance(value, list):
            if any(isinstance(v, list | Mapping | bool) for v in value):
                raise ValueError(f"{path}: {name} holds {value!r}; a list of words or numbers")
            yield flag, tuple(map(str, value))
        elif isinstance(value, str | int | float):
            yield flag, (str(value),)
        else:
            raise ValueError(f"{path}: {name} = {value} is no text, number, switch or list")
