"""Every option that names a place, with every kind of name: right, or refused before a write.

    python -m tests.train.cli.places           # prints the table of docs/places.md

Options are those of the parser: one of a type that can name a place and that is listed neither here
nor among `OTHER` fails the test.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import typing
from pathlib import Path
from typing import NamedTuple

from seqzoo.tasks.data.places import place
from seqzoo.train.cli.command import dispatch
from seqzoo.train.cli.errors import USAGE
from tests.fuzz.cases import right_flags
from tests.train import shared

SIZES = ["--data.length=8", "--batch-size=8", "--backbone.d-model=8", "--backbone.depth=1"]
TRAIN = ["train", "--model=min_gru", "--task=bytes", "--data.data=text", *SIZES, "--steps=1"]
COMPARE = ["compare", "--models=min_gru", "--seeds=1", "--task=bytes", "--data.data=text", *SIZES]
ROWS = ["--limit-seconds=1e-9", "--topology=local"]
ALL = ["plan", "--all", "--models=min_gru", *ROWS]
FORMS = ["plan", "--forms", "--lengths", "16", "--total-seconds=1e-9", "--topology=local"]
EXPORT = ["--length=4", "--platforms=cpu"]
BENCH = ["bench", "--what=data", "--tasks=parity", "--rounds=1", "--batch-size=1", "--steps=1"]
BENCH += ["--models=min_gru", "--d-model=8"]
MEASURED = ["bench", "--atlas", "--models=min_gru", "--no-peers", "--limit-seconds=1e-9"]


class Option(NamedTuple):
    """A command up to the place, what the place must hold before, and what it holds after."""

    argv: list[str]
    holds: str = ""  # a name in the folder, copied to the place
    makes: str = ""  # a file below the place; "." the place itself
    runs: bool = False  # where runs are kept, which no signs of a pattern may be above


OPTIONS = {
    "train --out": Option([*TRAIN, "--out"], makes="config.json", runs=True),
    "train --init-from": Option([*TRAIN, "--out=new", "--init-from"], "run", runs=True),
    "train --data.data": Option([*TRAIN, "--out=new", "--data.data"], "text"),
    "train --config": Option([*TRAIN, "--out=new", "--config"], "flags.toml"),
    "compare --out": Option([*COMPARE, "--steps=1", "--out"], makes="results.json", runs=True),
    "compare --data.data": Option([*COMPARE, "--steps=1", "--out=new", "--data.data"], "text"),
    "data --data.data": Option(["data", "verify", "--task=bytes", SIZES[0], "--data.data"], "text"),
    "show RUN": Option(["show"], "run", runs=True),
    "watch RUN": Option(["watch"], "run", runs=True),
    "evaluate RUN": Option(["evaluate"], "run", runs=True),
    "generate RUN": Option(["generate", "--length=1"], "run", runs=True),
    "generate --file": Option(["generate", "run", "--length=1", "--file"], "text/test.txt"),
    "export RUN": Option(["export", *EXPORT, "--out=new"], "run", runs=True),
    "export --out": Option(["export", "run", *EXPORT, "--out"], makes="about.json", runs=True),
    "report RUN": Option(["report"], "run", makes="report.html", runs=True),
    "doctor --out": Option(["doctor", "--mib=1", "--out"], runs=True),
    "bench --out": Option([*BENCH, "--out"], makes="."),
    "bench --device-report": Option([*MEASURED, "--device-report"], makes="device.md"),
    "new --out": Option(["new", "task", "my_task", "--out"], makes="my_task.py"),
    "plan --all --out": Option([*ALL, "--out"], makes="request.json"),
    "plan --all --page": Option([*ALL, "--out=rows", "--page"], makes="."),
    "plan --forms --out": Option([*FORMS, "--out"]),
    "plan --forms --page": Option([*FORMS, "--out=rows", "--page"], makes="."),
}
# `demo --out` is read as that of compare, which it calls; `plan` reads no place of an experiment.
SAME = {"demo --out", "plan --data.data", "plan --init-from", "plan --out", "plan --page"}
SAME |= {"compare --init-from"}  # which compare refuses
SAME |= {"train --init"}  # read as --init-from
OTHER = {  # texts that name no place
    *(
        "--adapter",
        "--axes",
        "--baseline",
        "--budget",
        "--checkpoint",
        "--code",
        "--coordinator",
        "--model",
        "--models",
        "--ops",
    ),
    *("--ratio", "--sweep", "--text", "--trials"),
    *("--options", "--prompt", "--stop", "--published", "--row", "--split", "--task", "--tasks"),
    *(
        "--trackers",
        "--optim.name",
        "--optim.trained",
        "--topology",
        "--data.pattern",
        "--data.digest",
        "--data.splits",
        "--data.protocol",
        "--platforms",
    ),
}
GOOD = {
    "a space": "a b",
    "quotes": "quo'te \"$x;",
    "other alphabets": "ünï/日本",
    "a home": "~/x",
    "`..`": "home/../dots",
    "below a link": "link/x",
    "a link": "to",
    "a file's address": "file://HERE/via%20url",
    "255 bytes": "n" * 255,
    "a leading `-`": "./-x",
}
PATTERNS = {"brackets": "lr[1]", "below brackets": "a[b]/x", "a star": "st*r"}
BAD = {
    "a link to nothing": "dangling",
    "below that": "dangling/x",
    "below a file": "file/x",
    "256 bytes": "n" * 256,
    "a long path": "d/" * 2100 + "x",
    "another store": "s3://b/x",
    "a web address": "http://x/y",
    "a line break": "new\nline",
    "no text": "bad\udcff",
    "nobody's home": "~nobody_there/x",
    "nothing": "",
}
NAMES = {**GOOD, **PATTERNS, **BAD}


def is_right(option: Option, name: str) -> bool:
    """Whether the rule allows the name there."""
    return name in GOOD or (name in PATTERNS and not option.runs)


def unlisted() -> set[str]:
    """Options of the parser that may name a place and that nobody has looked at."""
    found = set()
    for verb, flags in right_flags().items():
        for flag in flags:
            kinds = {flag.type, *typing.get_args(flag.type)}
            texts = str in kinds and typing.get_origin(flag.type) is not typing.Literal
            if texts or any(kind is Path or "Run" in str(kind) for kind in kinds):
                own = flag.name in OTHER or flag.name.startswith(("--mixer.", "--backbone."))
                if not own:
                    found.add(f"{verb} {flag.name}")
    # --config is read before flags are parsed, and alike for every verb.
    listed = {" ".join(name.split()[:: len(name.split()) - 1]) for name in OPTIONS}
    return found - listed - SAME


def made(root: Path) -> None:
    """A home, a file, links, a text and a run, in the folder that is the current one."""
    for name in ("home", "a[b]", "real", "text"):
        (root / name).mkdir()
    (root / "file").write_text("")
    for name, target in (("link", "home"), ("dangling", "nowhere"), ("to", "real")):
        (root / name).symlink_to(target)
    for split in ("train", "valid", "test"):
        (root / "text" / f"{split}.txt").write_text(f"some {split} words " * 20)
    (root / "flags.toml").write_text("seed = 0\n")
    os.environ["HOME"] = str(root / "home")
    assert dispatch([*TRAIN, "--out=run"]) == 0


def cell(option: Option, name: str, root: Path) -> str:
    """`right` or `refused`; anything else is what went wrong."""
    text = NAMES[name].replace("HERE", str(root))
    right = is_right(option, name)
    held = root / option.holds if option.holds else None
    if right and name == "a link" and (option.makes == "." or (held and held.is_file())):
        (root / "real").rmdir()
        (root / "real").write_text("")
    if right and held:
        where = place(text)
        where.parent.mkdir(parents=True, exist_ok=True)
        if held.is_file():
            shutil.copy(held, where)
        else:
            shutil.copytree(held, where, dirs_exist_ok=True)
    before = sorted(root.rglob("*"))
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        last = option.argv[-1]
        glued = last.startswith("--") and "=" not in last
        code = dispatch([*option.argv[:-1], f"{last}={text}"] if glued else [*option.argv, text])
    if not right:
        wrote = sorted(root.rglob("*")) != before
        lines = err.getvalue().count("\n")
        return "refused" if (code, lines, wrote) == (USAGE, 1, False) else f"code {code}: {lines}"
    there = not option.makes or (place(text) / option.makes).exists()
    done = code == 0 or (code == 1 and "doctor" in option.argv)
    return "right" if done and there else f"code {code}: {err.getvalue()[-300:]}"


@contextlib.contextmanager
def fresh(model: Path):
    """The current folder is a copy of `model`, as nobody has used it."""
    here, home = Path.cwd(), os.environ.get("HOME", "")
    with tempfile.TemporaryDirectory() as above:
        root = Path(above).resolve() / "x"
        shutil.copytree(model, root, symlinks=True)
        os.chdir(root)
        os.environ["HOME"] = str(root / "home")
        try:
            yield root
        finally:
            os.chdir(here)
            os.environ["HOME"] = home


def table(cells: dict[tuple[str, str], str]) -> str:
    """The cells as Markdown: an option a row."""
    lines = [f"| | {' | '.join(NAMES)} |", "|---" * (len(NAMES) + 1) + "|"]
    for option in OPTIONS:
        marks = {"right": "+", "refused": "–"}
        row = [marks.get(cells[option, name], "?") for name in NAMES]
        lines.append(f"| `{option}` | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> int:
    """Prints the table; 1 where a cell is wrong."""
    cells = {}
    with tempfile.TemporaryDirectory() as above, shared.programs():
        model = Path(above).resolve() / "model"
        model.mkdir()
        os.chdir(model)
        made(model)
        for option in OPTIONS:
            for name in NAMES:
                with fresh(model) as root:
                    found = cells[option, name] = cell(OPTIONS[option], name, root)
                if found not in ("right", "refused"):
                    print(f"{option}, {name}: {found}", file=sys.stderr, flush=True)
    print(table(cells))
    return any(found not in ("right", "refused") for found in cells.values())


if __name__ == "__main__":
    sys.exit(main())
