"""A run's folder: its configuration, who owns it, and its result."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from seqzoo.tasks.data.identity import Identity
from seqzoo.train import code, toml
from seqzoo.train.checked import checked, read_json
from seqzoo.train.config import Experiment
from seqzoo.train.differences import DATA, DataChange, Difference, differences
from seqzoo.train.folder.files import plain, run_path, write_atomically
from seqzoo.train.folder.lease import LOCK, Lease
from seqzoo.train.shapes import checked_run

CONFIG, RESULT = "config.json", "result.json"
CHANGES = 4  # lines of changed code that an error shows
DIGEST = 64  # hexadecimal digits of a sha256


class RunFolderError(ValueError):
    """A run folder that this run may not use."""


class Failure(TypedDict):
    """Where a run was not finite, too often."""

    step: int
    groups: NotRequired[list[str]]
    loss: NotRequired[float | None]
    skipped: NotRequired[int]
    reason: NotRequired[str]  # of a run that was not begun


class RunResult(TypedDict):
    """What is read of a result; of several replicas lists."""

    step: int
    complete: bool
    train: NotRequired[Mapping[str, Any]]
    validation: NotRequired[Mapping[str, Any]]
    failure: NotRequired[Failure | list[Failure | None] | None]
    skipped: NotRequired[int | list[int]]
    stopped: NotRequired[int | list[int | None] | None]  # before the last step, by patience
    seconds: NotRequired[float]
    compile_seconds: NotRequired[float]


class RunFolder:
    """The files of a run, apart from metrics and checkpoints."""

    def __init__(self, path: Path | str):
        self.path = run_path(path)
        self._lease = Lease(self.path, say_on_stderr)

    def exists(self) -> bool:
        """Whether a run was started there."""
        return (self.path / CONFIG).exists()

    def experiment(self) -> Experiment:
        """The configuration of the run.

        Raises RunFolderError where there is none, ValueError for code from outside that may not run
        (`train/code.py`); what may is said.
        """
        config = self.config()
        for line in code.admit(config):
            say_on_stderr(line)
        return Experiment.from_dict(config, str(self.path / CONFIG))

    def config(self) -> dict[str, Any]:
        """The configuration as plain data, with what its data hold (`differences.DATA`).

        Raises RunFolderError where there is none.
        """
        path = self.path / CONFIG
        if not path.exists():
            raise RunFolderError(f"{self.path} is no run: it has no {CONFIG}")
        return checked_run(read_json(path), str(path))

    def check(
        self, experiment: Experiment, held: Identity | None = None, *, change_steps: bool = False
    ) -> None:
        """Raises RunFolderError if the folder belongs to another configuration or to no run.

        `held` is what the data hold; where it is not known, their place is compared.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; give a folder for the run")
        if not self.exists():
            there = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            leftover = any(name != LOCK and not name.startswith(".") for name in there)
            if leftover:
                raise RunFolderError(f"{self.path} is not empty and no run; give another folder")
            return
        different = differences(self.config(), _form(experiment, held))
        if change_steps:
            different = [d for d in different if d.key != "train.steps"]
        if different:
            names = experiment.to_dict().get("code", ())
            raise RunFolderError(_refusal(self.path, different, names))

    def adopt(self, experiment: Experiment, held: Identity | None = None) -> None:
        """Writes the configuration, which `check` has allowed, with what is `held` by its data."""
        before = self.config() if self.exists() else None
        known = {**(before or {}).get(DATA, {}), **(held or {})}  # a moved test split is known
        now = _form(experiment, known)
        if before != now:
            write_atomically(self.path / CONFIG, json.dumps(now, indent=2) + "\n", self.guard)
            write_atomically(self.path / toml.FILE, toml.as_toml(now), self.guard)
            for name, content in code.texts(now.get("code", ())):
                write_atomically(self.path / code.FOLDER / name, content.decode(errors="replace"))

    def result(self) -> dict[str, Any] | None:
        """What the run reported that was finished, or failed; None if it has to go on."""
        try:
            return checked(read_json(self.path / RESULT), RunResult, str(self.path / RESULT))
        except (FileNotFoundError, ValueError):
            return None

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result."""
        text = json.dumps(plain(result), indent=2, allow_nan=False)
        write_atomically(self.path / RESULT, text + "\n", self.guard)

    @contextlib.contextmanager
    def owned(self, *, wait: bool = True) -> Iterator[None]:
        """Keeps the folder to this process (see `lease`).

        Raises LeaseError while another one has it, or without `wait` while that is not known.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._lease.acquire(wait)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Gives the folder back, if it is this process's."""
        self._lease.release()

    def guard(self) -> None:
        """Before each write of an owner. Raises LeaseLostError if another one has the folder."""
        self._lease.guard()

    def lost(self) -> bool:
        """Whether another process has the folder, as far as the lease knows."""
        return self._lease.lost()


def say_on_stderr(text: str) -> None:
    """One line for the user, apart from results."""
    print(text, file=sys.stderr, flush=True)


def _form(experiment: Experiment, held: Identity | None) -> dict[str, Any]:
    return {**experiment.to_dict(), **({DATA: held} if held else {})}


def _refusal(path: Path, different: list[Difference], names: Iterable[str]) -> str:
    lines = [f"  {_line(d)}" for d in different]
    hint = ""
    if any(d.key == "train.steps" for d in different):
        hint = (
            "\nAnother number of steps is another learning-rate schedule; --change-steps continues "
            "under the new one from the newest checkpoint."
        )
    changed = itertools.islice(_changed_code(path, names), CHANGES)
    return "\n".join([f"{path} holds a run of a different configuration:", *lines, *changed]) + hint


def _changed_code(run: Path, names: Iterable[str]) -> Iterator[str]:
    """Lines of the code from outside that differ from the copies in a run's folder."""
    for name, content in code.texts(names):
        kept = run / code.FOLDER / name
        if not kept.is_file():
            continue
        old, new = kept.read_text(), content.decode(errors="replace")
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""):
            if not line.startswith(("---", "+++", "@@")):
                yield f"    {name}: {line}"


def _line(difference: Difference) -> str:
    if isinstance(difference, DataChange):
        return str(difference)
    return f"{difference.key}: {_word(difference.old)} there, {_word(difference.new)} here"


def _word(value: Any) -> str:
    digest = isinstance(value, str) and len(value) == DIGEST
    return value[:12] if digest else repr(value)
