"""What there is on disk before a case: runs, a comparison, data; and the faults put into it."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.tasks import small

SIZES = [
    "--data.vocab-size=32",
    "--data.num-pairs=2",
    "--data.length=16",
    "--data.train-size=64",
    "--data.validation-size=10",
    "--data.test-size=11",
]
WIDTHS = ["--backbone.d-model=8", "--backbone.depth=1", "--batch-size=8"]
TINY = ["--task=mqar", "--model=min_gru", *SIZES, *WIDTHS]
STEPS = 6
SAVED = ["--save-every=2", "--eval-every=3", "--keep=9"]
FULL = "/dev/full"  # a folder on a full disk; what is below this is none
FILES = tuple(small.FILES)  # tasks that read files


def make(root, call):
    """The folders that cases are given copies of; `call(argv)` runs one command."""
    patch = pytest.MonkeyPatch()  # published sizes stay those of the small files
    options = {}
    for task in FILES:
        folder = root / "data" / task
        folder.mkdir(parents=True)
        options[task] = small.FILES[task](folder, patch)
    text = ["--task=python_source", f"--data.data={root / 'data' / 'python_source'}"]
    runs = {
        "done": [*TINY, *SAVED, f"--steps={STEPS}"],
        "text": [*text, "--data.length=4", "--model=min_gru", *WIDTHS, "--steps=2"],
    }
    for name, argv in runs.items():
        assert call(["train", *argv, f"--out={root / name}"]) == 0, name
    # As a kill at step 5 leaves it: older checkpoints, and no result.
    shutil.copytree(root / "done", root / "half")
    shutil.rmtree(root / "half" / "checkpoints" / str(STEPS))
    (root / "half" / "result.json").unlink()
    argv = [word for word in TINY if not word.startswith("--model")]
    models = ["--models=min_gru,lru", "--seeds=2", "--steps=2", f"--out={root / 'compared'}"]
    assert call(["compare", *argv, *models]) == 0
    return options


@contextlib.contextmanager
def full_disk(root: Path):
    """A disk of few bytes, all of them taken, where whoever fuzzes may mount one."""
    global FULL
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(root)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            (root / "all").write_bytes(bytes(64 * 1024))
        FULL = str(root)
        yield
    finally:
        subprocess.run(["umount", "-l", str(root)], check=True)


def harm(rng: random.Random, folder: Path) -> str:
    """Puts a fault into a file of the folder; says which."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return "nothing to harm"
    told = [path for path in files if path.suffix in (".json", ".jsonl")]
    path = rng.choice(told if told and rng.random() < 0.5 else files)
    kind = "another value" if path in told and rng.random() < 0.3 else rng.choice(sorted(FAULTS))
    FAULTS[kind](path, rng)
    return f"{kind}: {path.relative_to(folder)}"


def _cut(path, rng):
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])


def _flip(path, rng):
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _link(path, target):
    path.unlink()
    path.symlink_to(target)


def _pipe(path):
    path.unlink()
    os.mkfifo(path)


def _beside(path, name, data):
    if not os.path.lexists(path.with_name(name)):  # which a fault before may have made of it
        path.with_name(name).write_bytes(data)


def _folder(path):
    path.unlink()
    path.mkdir()


def _values(path, rng):
    """Another value somewhere in a file of JSON, or no JSON."""
    try:
        data = json.loads(path.read_text())
    except ValueError:
        data = None
    strange = [None, [], {}, "", "x", -1, 1e308, True, 10**30, float("nan"), [[]], {"a": {}}]
    part = data
    while isinstance(part, dict) and part and rng.random() < 0.8:
        name = rng.choice(sorted(part))
        if not isinstance(part[name], dict) or rng.random() < 0.3:
            if rng.random() < 0.3:
                del part[name]
            else:
                part[name] = rng.choice(strange)
            break
        part = part[name]
    else:
        data = rng.choice(strange)
    path.write_text(json.dumps(data))


FAULTS = {
    "cut": _cut,
    "flipped": _flip,
    "empty": lambda path, _: path.write_bytes(b""),
    "gone": lambda path, _: path.unlink(),
    "garbage": lambda path, rng: path.write_bytes(rng.randbytes(rng.randrange(1, 300))),
    "a page": lambda path, _: path.write_text("<!DOCTYPE html>\n<html>Sign in</html>\n"),
    "twice": lambda path, _: path.write_bytes(2 * path.read_bytes()),
    "line ends": lambda path, _: path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n")),
    "marked": lambda path, _: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()),
    "a pipe": lambda path, _: _pipe(path),
    "a folder": lambda path, _: _folder(path),
    "a link to nothing": lambda path, _: _link(path, "nothing"),
    "a link to itself": lambda path, _: _link(path, path.name),
    "another value": _values,
    "old": lambda path, _: os.utime(path, (0, 0)),
    "of the future": lambda path, _: os.utime(path, (2**33, 2**33)),
    "a stray": lambda path, _: _beside(path, ".DS_Store", b"\0\0\0\1Bud1"),
    "a copy beside": lambda path, _: _beside(path, f"._{path.name}", b"\0\5\x16\7"),
    "a stray folder": lambda path, _: (path.parent / "@eaDir").mkdir(exist_ok=True),
    "half written": lambda path, _: _beside(path, f".{path.name}.partial", b"x"),
}


def contents(root: Path) -> dict[str, str]:
    """Path -> digest of every file below."""
    return {
        path.relative_to(root).as_posix(): _digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _digest(path: Path) -> str:
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def whole_checkpoints(run: Path) -> dict[int, str]:
    """Step -> digest of its manifest, of each checkpoint whose files are all as they were saved."""
    found = {}
    for folder in (run / "checkpoints").glob("*"):
        if not (folder / "manifest.json").is_file():
            continue
        try:
            files = json.loads((folder / "manifest.json").read_text())["files"]
            same = all(_digest(folder / name) == entry["sha256"] for name, entry in files.items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if same and folder.name.isdecimal():
            found[int(folder.name)] = _digest(folder / "manifest.json")
    return found
