"""The numbered files by which owners of a folder are told apart, on disks and in buckets."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any, NotRequired

from seqzoo.train.checked import checked
from seqzoo.train.folder.alive import Identified
from seqzoo.train.folder.files import in_bucket, write_atomically


class Content(Identified):
    """What an owner's file says."""

    token: str
    count: int
    released: NotRequired[bool]
    folder: NotRequired[list[int] | None]  # device and number of the folder that it is of


def owner_files(folder: Path) -> OwnerFiles:
    """Those of a folder of owners."""
    return (OwnerObjects if in_bucket(folder) else OwnerFiles)(folder)


class OwnerFiles:
    """The files of owners, in a folder of a file system."""

    def __init__(self, folder: Path):
        self._folder = folder

    def prepare(self) -> None:
        """Makes room for them."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def itself(self) -> list[int] | None:
        """What tells the folder from a copy of it, for processes that see the same disk."""
        try:
            found = self._folder.stat()
        except FileNotFoundError:
            return None
        return [found.st_dev, found.st_ino]

    def numbers(self) -> list[int]:
        """Those that there are; what else lies there is nobody's."""
        try:
            return _numbers(os.listdir(self._folder))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> dict[str, Any]:
        """What an owner says; nothing while that is being written."""
        path = self._folder / name
        try:
            return _content(path.read_bytes()) if path.is_file() else {}
        except FileNotFoundError:
            return {}

    def create(self, name: str, text: str) -> bool:
        """Makes a file; False where there is one."""
        try:
            with (self._folder / name).open("x") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, text: str) -> None:
        """Writes over a file."""
        write_atomically(self._folder / name, text)

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        (self._folder / name).unlink(missing_ok=True)

    def sweep(self, number: int) -> None:
        """Removes smaller numbers."""
        for old in self.numbers():
            if old < number:
                with contextlib.suppress(OSError):
                    self.remove(f"{old}.json")


class OwnerObjects(OwnerFiles):
    """The same in a bucket, past the listings that the client keeps."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        import fsspec

        self._store = fsspec.filesystem("gcs", finalize_on_close=True)  # the one that etils takes

    def prepare(self) -> None:
        """A store has no folders."""

    def itself(self) -> None:
        """Whoever copies a bucket's objects is on another machine."""

    def numbers(self) -> list[int]:
        """Those that there are."""
        try:
            found = self._store.ls(str(self._folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return _numbers(path.rpartition("/")[2] for path in found)

    def read(self, name: str) -> dict[str, Any]:
        """What an owner says; nothing while that is being written."""
        try:
            return _content(self._store.cat_file(str(self._folder / name)))
        except FileNotFoundError:
            return {}

    def create(self, name: str, text: str) -> bool:
        """Makes a file; False where there is one."""
        try:  # with the condition that there is no such object
            self._store.pipe_file(str(self._folder / name), text.encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, text: str) -> None:
        """Writes over a file."""
        self._store.pipe_file(str(self._folder / name), text.encode())


def _numbers(names: Any) -> list[int]:
    return [int(found[1]) for found in map(re.compile(r"(\d+)\.json").fullmatch, names) if found]


def _content(data: bytes) -> dict[str, Any]:
    try:
        return checked(json.loads(data), Content, "owner")
    except ValueError:  # it is being written, or its writer was killed meanwhile
        return {}
