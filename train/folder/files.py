"""Files that are whole or absent, on disks and in buckets.

A path in a bucket (gs://BUCKET/...) is one of etils.epath, as Orbax has it, with the methods of
pathlib's. An object there is seen whole or not at all; there is no renaming, appending or linking.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from seqzoo.tasks.data.atomic import write_file
from seqzoo.tasks.data.places import address, place

BUCKET = "gs://"
PATTERN = {"*", "?", "[", "\\"}  # what Orbax and TensorStore do not take for themselves


def run_path(path: Path | str, *, checkpoints: bool = True) -> Path:
    """The folder of a run: a path on a file system, or in a bucket.

    Args:
        path: a path as a user wrote it.
        checkpoints: whether there will be some below it.

    Raises ValueError for what `place` refuses and for another kind of address, where nothing is
    installed to read buckets, and for a path with what Orbax takes for a pattern.
    """
    kind, rest = address(path)
    if kind in ("", "file"):
        path = place(path)
        if checkpoints and PATTERN & {*str(path.absolute())}:
            signs = " ".join(sorted(PATTERN))
            raise ValueError(
                f"{path.absolute()}: checkpoints below a path with {signs} cannot be read again; "
                "give one without them, such as that of a link to this folder"
            )
        return path
    if kind != "gs" or not rest:
        raise ValueError(
            f"{path}: a run's folder is on a file system or in a bucket (gs://BUCKET/RUN); mount "
            "other storage and give its path"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError(
            f"{path}: buckets need gcsfs, which `pip install 'seqzoo[gcs]'` installs; or mount the "
            "bucket (gcsfuse) and give its path"
        )
    from etils import epath

    return epath.Path(BUCKET + rest)


def in_bucket(path: Path) -> bool:
    """Whether a path from `run_path` is in a bucket."""
    return str(path).startswith(BUCKET)


def files_under(folder: Path) -> set[str]:
    """Paths of all files, relative to the folder."""
    found, folders = set(), [folder]
    while folders:  # paths of etils have no rglob
        for path in folders.pop().iterdir():
            if path.is_dir():
                folders.append(path)
            else:
                found.add(path.relative_to(folder).as_posix())
    return found


def remove_tree(folder: Path) -> None:
    """Removes a folder and all in it, if it is there."""
    if not in_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmtree()


def check_ours(path: Path | None, begins: str, what: str) -> None:
    """Raises ValueError where a file that is to be written would spoil another.

    Args:
        path: the file, or none.
        begins: how a file of that kind begins.
        what: the kind, for the error.
    """
    if path is None or not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{path} is a folder; name a file for {what}")
    with path.open(errors="replace") as file:
        first = file.readline(200).strip()
    if first and not first.startswith(begins):
        raise ValueError(
            f"{path} is there and holds something else than {what}, which begin {begins!r} (it "
            f"begins {first[:60]!r}); name another file, or remove it"
        )


def write_atomically(path: Path, text: str, guard: Callable[[], None] = lambda: None) -> None:
    """Writes a file that is seen whole or not at all, also after a kill or a power failure.

    `guard` is called first, and last before the file appears: who stood still in between writes
    over nothing.
    """
    guard()
    if in_bucket(path):
        path.write_text(text)
        return
    write_file(path, text, guard)


def write_new(path: Path, text: str) -> bool:
    """Writes a file that is not there, whole or not at all; False where it is there already."""
    if in_bucket(path):
        if path.exists():
            return False
        path.write_text(text)
        return True
    own = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        write_file(own, text)
        os.link(own, path)  # appears with its content or not at all
    except FileExistsError:
        return False
    finally:
        own.unlink(missing_ok=True)
    return True


def plain(value: Any) -> Any:
    """`value` as strict JSON has it: dataclasses become dicts, scalars numbers, NaN null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
