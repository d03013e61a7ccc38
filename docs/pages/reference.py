"""The reference: every public name, by the package that it is imported from."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
from collections.abc import Callable, Iterator

from pages.fields import options
from pages.tables import markdown
from seqzoo.models import MIXERS
from seqzoo.models.help import SHARED

PACKAGES = (
    "seqzoo.models",
    "seqzoo.models.ops",
    "seqzoo.models.attention.positions",
    "seqzoo.tasks",
    "seqzoo.train",
    "seqzoo.testing",
)


def pages() -> dict[str, Callable[[], str]]:
    """Address -> what makes the text of each package's page."""
    return {f"reference/{p.partition('.')[2]}.md": functools.partial(page, p) for p in PACKAGES}


def page(package: str) -> str:
    """The page of a package: what its docstring says, then each name where it is defined."""
    module = importlib.import_module(package)
    parts = [f"# {package}", inspect.getdoc(module) or ""]
    if package == "seqzoo.models":
        linked = (f"[`{c.__name__}`](../mixers/{name}.md)" for name, c in MIXERS.items())
        parts.append(f"The classes of the mixers have a page each: {', '.join(linked)}.")
    shared = [[f"`{name}`", says] for name, says in SHARED.items()]
    parts.append("Everywhere the same:\n\n" + markdown(["argument", "what"], shared))
    parts += [_entry(found) for _, found in documented(package)]
    constants = [f"`{name}`" for name, found in public(package) if not _is_defined(found)]
    if constants:
        parts += ["## Constants", f"{', '.join(constants)}."]
    return "\n\n".join(parts) + "\n"


def _entry(found: Callable) -> str:
    entry = f"::: {found.__module__}.{found.__qualname__}"
    if not dataclasses.is_dataclass(found):
        return entry
    return f"{entry}\n\n" + markdown(["field", "default", "what"], options(found))


def public(package: str) -> Iterator[tuple[str, object]]:
    """(name, what it is) of all public names of a package, but for classes of single mixers."""
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    own = set(MIXERS.values())
    for name in names:
        found = getattr(module, name)
        if inspect.ismodule(found) and callable(found):  # train.compare, a folder and a function
            found = getattr(importlib.import_module(f"{package}.door"), name)
        if not inspect.ismodule(found) and not (isinstance(found, type) and found in own):
            yield name, inspect.unwrap(found) if callable(found) else found


def documented(package: str) -> Iterator[tuple[str, object]]:
    """Those that are functions and classes, which have docstrings."""
    for name, found in public(package):
        if _is_defined(found):
            yield name, found


def _is_defined(found: object) -> bool:
    return inspect.isfunction(found) or inspect.isclass(found)
