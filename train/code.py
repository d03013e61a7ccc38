"""Which code from outside a run is made of, and whose word it takes to run it.

A configuration names what is not ours by its address, and has under `code` where each file lay and
its digest. The rule: code runs because somebody here has named it, on a command line or by holding
the class in a program. Its digest is remembered in the user's cache, so that `evaluate`, `generate`
and `--init-from` take up a run that was trained here, and say what they load. A run folder from
elsewhere is refused until its code is named (`--code mine.py:EMA`); `show` and `report` run none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from seqzoo.models import registry as models
from seqzoo.models.foreign import address
from seqzoo.models.foreign.address import Source, without_folder
from seqzoo.models.presets import PRESETS
from seqzoo.tasks import registry as tasks
from seqzoo.tasks.data import cache_folder
from seqzoo.tasks.data.atomic import write_file

FOLDER = "code"  # of the user's cache: a file for each digest that was named; of a run: its code
_named: set[str] = set()  # digests
_accepted: set[str] = set()  # addresses whose code may have changed since the run
_said: set[str] = set()


def foreign(model: str, task: str, optimiser: str = "") -> dict[str, str]:
    """Name -> address of all that is not ours. Imports nothing."""
    pattern = () if model in ("", *PRESETS) else [part.strip() for part in model.split(",")]
    found = {name: models.foreign(name) for name in pattern}
    if task:
        found[tasks.parts(task)[1]] = tasks.foreign(task)
    if address.is_address(optimiser):
        found[optimiser] = optimiser
    return {name: where for name, where in found.items() if where is not None}


def of(data: Mapping[str, Any]) -> dict[str, str]:
    """`foreign` of a configuration as plain data."""
    task, optim = data.get("task", {}), data.get("optim", {})
    return foreign(data.get("model", ""), task.get("name", ""), optim.get("name", ""))


def record(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> file and digest of what a configuration is made of, as it was loaded."""
    sources = {name: address.source_of(where) for name, where in of(data).items()}
    return {
        name: {"file": source.file and str(source.file), "sha256": source.digest}
        for name, source in sources.items()
    }


def name(*wheres: str) -> None:
    """Remembers addresses that the user has named. Raises ValueError for what leads nowhere."""
    for where in wheres:
        digest = address.source_of(where).digest
        if digest not in _named:
            _named.add(digest)
            with contextlib.suppress(OSError):
                write_file(cache_folder.folder() / FOLDER / digest, f"{where}\n")


def accept(where: str, data: Mapping[str, Any]) -> None:
    """Names the code of a run by where it lies now, changed since or not.

    Raises ValueError if the run has no code of this name.
    """
    names = of(data)
    fits = [n for n, own in names.items() if address.short(own) == address.short(where)]
    if not fits:
        known = ", ".join(names) or "none from outside"
        raise ValueError(f"--code {where}: the run has no such code; it has {known}")
    source = address.find(where)
    if source.file is not None:
        address.place(names[fits[0]], source.file)
    name(names[fits[0]])
    _accepted.add(names[fits[0]])


def admit(data: Mapping[str, Any]) -> Iterator[str]:
    """Lets what a configuration from a folder names be loaded; says, once, what that is.

    Raises ValueError for code that nobody has named here, and for what has changed since.
    """
    recorded = data.get("code", {})
    for called, where in of(data).items():
        entry = recorded.get(called, {})
        file = entry.get("file")
        if not address.is_loaded(where) and where not in _accepted and file:
            address.place(where, Path(file))
        source = address.source_of(where)
        changed = entry.get("sha256") not in (None, source.digest)
        hint = f"--code {where if source.file is None else source.file}"
        hint += "" if source.file is None else f":{address.short(where)}"
        if changed and where not in _accepted:
            raise ValueError(
                f"{called} is not what the run was made with: {source.file} has sha256 "
                f"{source.digest[:12]}, the run {entry['sha256'][:12]} (a copy lies in the run's "
                f"folder {FOLDER}); {hint} takes it as it is"
            )
        brought = called != where  # by an installed package, which somebody has installed
        if not (brought or address.is_loaded(where) or _is_named(source)):
            raise ValueError(
                f"the run is made with code of {source.file}, which nobody has named here, and "
                f"evaluating it runs that code. Read it first; then {hint}"
            )
        if where not in _said:
            _said.add(where)
            yield (
                f"runs {address.short(where)} of {source.file} (sha256 {source.digest[:12]}"
                f"{', not that of the run' if changed else ''})"
            )


def _is_named(source: Source) -> bool:
    kept = cache_folder.folder() / FOLDER / source.digest
    return source.digest in _named or os.path.exists(kept)


def comparable(data: dict[str, Any]) -> dict[str, Any]:
    """A configuration in which code is what it holds, wherever it lies; results keep such ones."""
    if not data.get("code"):
        return {key: value for key, value in data.items() if key != "code"}
    digests = {
        without_folder(n): entry if isinstance(entry, str) else entry["sha256"]
        for n, entry in data["code"].items()
    }
    made = {**data, "code": digests}
    made["model"] = ",".join(map(without_folder, data["model"].split(",")))
    for part in ("task", "optim"):
        if "name" in data.get(part, {}):
            made[part] = {**data[part], "name": without_folder(data[part]["name"])}
    return made


def texts(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of copies of the code that a configuration's `code` lists."""
    for called in names:
        where = called if address.is_address(called) else _brought(called)
        for path, text in address.source_of(where).texts.items():
            yield f"{address.short(called)}/{path}", text


def _brought(called: str) -> str:
    return models.foreign(called) or tasks.foreign(called) or called
