"""`seqzoo new mixer NAME`, `seqzoo new task NAME`: one commented file and its test, which pass."""

from __future__ import annotations

import dataclasses
import importlib.resources
import keyword
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from pathlib import Path

from seqzoo.models.errors import unknown
from seqzoo.train.cli.flags import parse, read
from seqzoo.train.folder.files import write_new

USAGE = "seqzoo new mixer NAME, or seqzoo new task NAME"
KINDS = {"mixer": "new_mixer", "task": "new_task"}  # the texts, and with _test their tests


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Where to write."""

    out: Path = Path()  # folder of the two files


def main(argv: Sequence[str]) -> int:
    """`seqzoo new KIND NAME`."""
    line = read(argv)
    words, line = line.rest, line._replace(rest=())
    if line.asks:
        parse(NewOptions, line, USAGE, "Writes NAME.py and test_NAME.py.")
    if len(words) != 2:
        raise ValueError(f"say what to write: {USAGE}")
    kind, name = words
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    _check_name(name)
    folder = parse(NewOptions, line, USAGE).out
    own = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    paths = folder / f"{name}.py", folder / f"test_{name}.py"
    for path in paths:
        if path.exists():
            raise ValueError(f"{path} is there already; give another name, or --out FOLDER")
    texts = importlib.resources.files(__package__)
    for path, ending in zip(paths, ("", "_test"), strict=True):
        text = (texts / f"{KINDS[kind]}{ending}.txt").read_text()
        if not write_new(path, text.replace("NAME", name).replace("CLASS", own)):
            raise ValueError(f"{path} was written by somebody else just now; it was left alone")
    address = f"{paths[0]}:{own}"
    then = f"seqzoo check {address}" if kind == "mixer" else f"seqzoo data show --task {address}"
    print(f"{paths[0]} and {paths[1]}; then: pytest {paths[1]}; {then}")
    return 0


def _check_name(name: str) -> None:
    if not name.isidentifier() or not name.islower() or keyword.iskeyword(name):
        raise ValueError(f"{name!r} cannot name a file of Python; give small letters, as in my_ema")
    if name in sys.stdlib_module_names or PathFinder.find_spec(name, sys.path[1:]) is not None:
        raise ValueError(f"{name} is the name of a module that is installed; give another")
