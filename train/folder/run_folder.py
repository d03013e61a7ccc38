"""A run's folder: its configuration, who owns it, and its result."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqzoo.train import code
from seqzoo.train.config import Difference, Experiment, differences
from seqzoo.train.folder.files import plain, run_path, write_atomically
from seqzoo.train.folder.lease import LOCK, Lease

CONFIG, RESULT = "config.json", "result.json"
CHANGES = 4  # lines of changed code that an error shows
DIGEST = 64  # hexadecimal digits of a sha256


class RunFolderError(ValueError):
    """A run folder that this run may not use."""


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
        return Experiment.from_dict(config)

    def config(self) -> dict[str, Any]:
        """The configuration as plain data. Raises RunFolderError where there is none."""
        try:
            return json.loads((self.path / CONFIG).read_text())
        except FileNotFoundError:
            raise RunFolderError(f"{self.path} is no run: it has no {CONFIG}") from None
        except ValueError as error:
            raise RunFolderError(f"{self.path / CONFIG} is damaged: {error}") from error

    def check(self, experiment: Experiment, *, change_steps: bool = False) -> None:
        """Raises RunFolderError if the folder belongs to another configuration or to no run."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file; give a folder for the run")
        if not self.exists():
            there = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
            leftover = any(name != LOCK and not name.startswith(".") for name in there)
            if leftover:
                raise RunFolderError(f"{self.path} is not empty and no run; give another folder")
            return
        different = differences(self.config(), experiment.to_dict())
        if change_steps:
            different = [d for d in different if d.key != "train.steps"]
        if different:
            names = experiment.to_dict().get("code", ())
            raise RunFolderError(_refusal(self.path, different, names))

    def adopt(self, experiment: Experiment) -> None:
        """Writes the configuration, which `check` has allowed."""
        self.guard()
        text = json.dumps(experiment.to_dict(), indent=2) + "\n"
        if not self.exists() or self.config() != experiment.to_dict():
            write_atomically(self.path / CONFIG, text)
            for name, content in code.texts(experiment.to_dict().get("code", ())):
                write_atomically(self.path / code.FOLDER / name, content.decode(errors="replace"))

    def result(self) -> dict[str, Any] | None:
        """What the run reported that was finished, or failed; None if it has to go on."""
        try:
            return json.loads((self.path / RESULT).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result."""
        self.guard()
        text = json.dumps(plain(result), indent=2, allow_nan=False)
        write_atomically(self.path / RESULT, text + "\n")

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


def _refusal(path: Path, different: list[Difference], names: Iterable[str]) -> str:
    lines = [f"  {d.key}: {_word(d.old)} there, {_word(d.new)} here" for d in different]
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
        if not kept.exists():
            continue
        old, new = kept.read_text(), content.decode(errors="replace")
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm=""):
            if not line.startswith(("---", "+++", "@@")):
                yield f"    {name}: {line}"


def _word(value: Any) -> str:
    digest = isinstance(value, str) and len(value) == DIGEST
    return value[:12] if digest else repr(value)
