"""Code from outside by its address: `package.module:Name` or `path/to/file.py:Name`.

    source = find("mine.py:EMA")        # where it lies, and digests of it; runs nothing
    EMA = load("mine.py:EMA")           # imports it

A package may also give its mixers and tasks plain names, as entry points of the groups
`seqzoo.mixers` and `seqzoo.tasks`. The digest is of the file and of what it imports from beside it,
read from its text, so that it is known before anything is run. Who may run what is decided
elsewhere (`train/code.py`).
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, NamedTuple

from seqzoo.models.errors import unknown

PACKAGE = "seqzoo"
MIXER_GROUP, TASK_GROUP = f"{PACKAGE}.mixers", f"{PACKAGE}.tasks"
HERE = "__main__"  # what was defined in a notebook or at a prompt
SHOWN = 3  # places that an error names

_places: dict[str, Path] = {}  # address -> the file that it means in this process
_objects: dict[str, Any] = {}  # address -> what it names
_sources: dict[str, Source] = {}  # address -> the source that was loaded
_names: dict[Any, str] = {}  # what was loaded -> its name


class Source(NamedTuple):
    """Where the code of an address lies."""

    address: str
    file: Path | None  # None: it lies in no file
    texts: dict[str, bytes]  # the file and what it imports from beside it, by path from there

    @property
    def digest(self) -> str:
        """sha256 over names and contents."""
        total = hashlib.sha256()
        for name, text in sorted(self.texts.items()):
            total.update(f"{name} {len(text)}\n".encode() + text)
        return total.hexdigest()


def is_address(name: str) -> bool:
    """Whether a name is an address: it has a colon."""
    return ":" in name


def short(name: str) -> str:
    """What an address is called where a word is needed: the part after the colon."""
    return name.rpartition(":")[2]


def without_folder(name: str) -> str:
    """An address that does not say in which folder its file lies; any other name as it is."""
    where, _, what = name.rpartition(":")
    return f"{Path(where).name}:{what}" if where.endswith(".py") else name


@functools.cache
def entry_points(group: str) -> dict[str, str]:
    """Name -> address of what installed packages bring."""
    return {found.name: found.value for found in importlib.metadata.entry_points(group=group)}


def place(address: str, file: Path) -> None:
    """Says which file an address means, where it is not the one that its text leads to."""
    _places[address] = file


def find(address: str) -> Source:
    """The source of an address, without running it.

    Raises ValueError for what is no address or leads to no file; the message says where it was
    looked for.
    """
    where, _, name = address.rpartition(":")
    if where == HERE:
        return Source(address, None, _texts_of_object(address))
    if not where or not name.replace(".", "_").isidentifier():
        raise ValueError(
            f"{address!r} is no address; write package.module:Name or path/to/file.py:Name"
        )
    file = _places.get(address)
    if file is None or not file.is_file():
        file = _file(where, address) if where.endswith(".py") else _module_file(where, address)
    root = file.parent if where.endswith(".py") else _root(file, where)
    return Source(address, file, dict(_closure(file, root)))


def source_of(address: str) -> Source:
    """The source that was loaded, or that would be."""
    return _sources.get(address) or find(address)


def is_loaded(address: str) -> bool:
    """Whether this process has it already."""
    return address in _objects


def load(address: str, name: str = "") -> Any:
    """What an address names; imports its module. `name` is what `name_of` calls it.

    Raises ValueError with the last line of the traceback where that fails, and with the nearest
    name where the module has no such thing.
    """
    if address in _objects:
        return _objects[address]
    where, _, path = address.rpartition(":")
    source = find(address)
    value = _imported(where, source)
    for part in path.split("."):
        if not hasattr(value, part):
            raise unknown(f"class in {source.file}", part, _classes(value))
        value = getattr(value, part)
    _sources[address] = source
    return _keep(address, value, name)


def name_of(value: Any) -> str | None:
    """The name under which something was loaded or registered, None where it was not."""
    try:
        return _names.get(value)
    except TypeError:  # not hashable
        return None


def register(value: type) -> str:
    """A name for a class that a program holds already: the address of its file.

    What was defined in a notebook or at a prompt is known to this process alone.
    """
    known = name_of(value)
    if known is not None:
        return known
    module = sys.modules.get(value.__module__)
    file = getattr(module, "__file__", None)
    importable = file and file.endswith(".py") and "<locals>" not in value.__qualname__
    address = f"{file if importable else HERE}:{value.__qualname__.replace('<locals>.', '')}"
    _keep(address, value)  # of two cells that define it, the last
    _sources[address] = find(address)
    return address


def _classes(module: Any) -> list[str]:
    own = getattr(module, "__name__", "")
    return [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == own]


def _keep(address: str, value: Any, name: str = "") -> Any:
    _objects[address] = value
    with contextlib.suppress(TypeError):  # not hashable
        _names.setdefault(value, name or address)
    return value


def _texts_of_object(address: str) -> dict[str, bytes]:
    import inspect

    if address not in _objects:
        raise ValueError(
            f"{address} was defined in a notebook or at a prompt, and not in this process; write "
            "it into a file, and name that"
        )
    try:
        return {"cell": inspect.getsource(_objects[address]).encode()}
    except (OSError, TypeError):
        return {"cell": b""}  # a prompt keeps no source


def _file(where: str, address: str) -> Path:
    file = Path(where).expanduser()
    if file.is_file():
        return file.absolute()
    folder = file.absolute().parent
    if not folder.is_dir():
        raise ValueError(f"{address}: there is no folder {folder}")
    there = sorted(path.name for path in folder.glob("*.py"))
    raise ValueError(f"{address}: {unknown(f'file in {folder}', file.name, there)}")


def _module_file(where: str, address: str) -> Path:
    """The file of a module; no package on the way is imported, as that would run it."""
    places = [os.getcwd(), *sys.path]
    top, *rest = where.split(".")
    found = PathFinder.find_spec(top, places)
    for part in rest:
        inside = None if found is None else found.submodule_search_locations
        found = PathFinder.find_spec(part, list(inside)) if inside else None
    if found is None or not (found.origin or "").endswith(".py"):
        looked = ", ".join(dict.fromkeys(p or "." for p in places[:SHOWN]))
        here = Path(*where.split(".")).with_suffix(".py")
        hint = f"; a file is named as {here}:{short(address)}" if here.is_file() else ""
        raise ValueError(
            f"{address}: there is no module {where}; looked in {looked} and {len(places) - SHOWN} "
            f"more places of sys.path{hint}"
        )
    return Path(found.origin).absolute()


def _root(file: Path, where: str) -> Path:
    """The folder in which the top-level package of a module lies."""
    depth = len(where.split(".")) - (file.name != "__init__.py")
    return file.parents[depth]


def _closure(file: Path, root: Path) -> Iterator[tuple[str, bytes]]:
    """The file and all that it imports from below `root`, by what its text says."""
    packages = [p / "__init__.py" for p in file.parents if p.is_relative_to(root) and p != root]
    waiting = [file, *(found for found in packages if found.is_file() and found != file)]
    seen = {*waiting}
    while waiting:
        path = waiting.pop()
        text = path.read_bytes()
        yield path.relative_to(root).as_posix(), text
        for found in _imports(text, path, root):
            if found not in seen:
                seen.add(found)
                waiting.append(found)


def _imports(text: bytes, file: Path, root: Path) -> Iterator[Path]:
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            names, base = [alias.name for alias in node.names], root
        elif isinstance(node, ast.ImportFrom):
            base = root if not node.level else file.parents[node.level - 1]
            module = node.module or ""
            names = [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            path = base
            for part in name.split("."):  # packages on the way are run too
                path = path / part
                for found in (path.with_suffix(".py"), path / "__init__.py"):
                    if found.is_file() and found.is_relative_to(root):
                        yield found


def _imported(where: str, source: Source) -> Any:
    """The module of an address. What stands beside a file can be imported by it."""
    folder = str(source.file.parent) if where.endswith(".py") else os.getcwd()
    if folder not in sys.path:  # last, so that a file called like a library does not hide it
        sys.path.append(folder)
    name = _module_name(source) if where.endswith(".py") else where
    try:
        if name in sys.modules or not where.endswith(".py"):
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, source.file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except (Exception, SystemExit) as error:
        last = traceback.format_exception_only(error)[-1].strip()
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f[0]]
        line = frames[-1].lineno if frames and frames[-1].filename == str(source.file) else None
        at = f"{source.file}:{line}" if line else str(source.file)
        raise ValueError(f"{source.address} cannot be imported ({at}): {last}") from error


def _module_name(source: Source) -> str:
    """That of the file, so that other processes can import it too, where it is free."""
    stem = source.file.stem
    module = sys.modules.get(stem)
    if module is not None:
        free = getattr(module, "__file__", None) == str(source.file)
    else:
        spec = PathFinder.find_spec(stem, sys.path)
        free = spec is not None and spec.origin == str(source.file)
    return stem if free else f"{stem}_{hashlib.sha256(str(source.file).encode()).hexdigest()[:8]}"
