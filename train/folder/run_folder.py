"""A run's folder: its configuration, who owns it, and its result."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqzoo.train.config import Difference, Experiment, differences
from seqzoo.train.folder.files import in_bucket, plain, run_path, write_atomically

CONFIG, RESULT, LOCK = "config.json", "result.json", "lock.json"
ABANDONED = 600.0  # seconds without a sign of life after which another host's lock is void
SETTLE = 3.0  # seconds after which of several who wrote a lock into a bucket at once one is left


class RunFolderError(ValueError):
    """A run folder that this run may not use."""


class RunFolder:
    """The files of a run, apart from metrics and checkpoints."""

    def __init__(self, path: Path | str):
        self.path = run_path(path)

    def exists(self) -> bool:
        """Whether a run was started there."""
        return (self.path / CONFIG).exists()

    def experiment(self) -> Experiment:
        """The configuration of the run. Raises RunFolderError where there is none."""
        return Experiment.from_dict(self.config())

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
            raise RunFolderError(_refusal(self.path, different))

    def adopt(self, experiment: Experiment) -> None:
        """Writes the configuration, which `check` has allowed."""
        text = json.dumps(experiment.to_dict(), indent=2) + "\n"
        if not self.exists() or self.config() != experiment.to_dict():
            write_atomically(self.path / CONFIG, text)

    def result(self) -> dict[str, Any] | None:
        """What the run reported that was finished, or failed; None if it has to go on."""
        try:
            return json.loads((self.path / RESULT).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def finish(self, result: dict[str, Any]) -> None:
        """Writes the result."""
        text = json.dumps(plain(result), indent=2, allow_nan=False)
        write_atomically(self.path / RESULT, text + "\n")

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Keeps the folder to this process. Raises RunFolderError while another one runs in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self.path / LOCK
        _take_in_bucket(lock) if in_bucket(lock) else _take(lock)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Gives the folder back, if it is this process's."""
        lock = self.path / LOCK
        with contextlib.suppress(FileNotFoundError, ValueError):
            if _is_own(json.loads(lock.read_text())):
                lock.unlink(missing_ok=True)

    def sign_of_life(self) -> None:
        """Tells other hosts that the owner is alive."""
        lock = self.path / LOCK
        with contextlib.suppress(OSError):
            if in_bucket(lock):
                lock.write_text(json.dumps(_self() | {"alive": time.time()}))
            else:
                os.utime(lock)


def say_on_stderr(text: str) -> None:
    """One line for the user, apart from results."""
    print(text, file=sys.stderr, flush=True)


def _take(lock: Path) -> None:
    own = lock.with_name(f".{lock.name}.{os.getpid()}")
    own.write_text(json.dumps(_self()))
    try:
        for _ in range(3):
            try:
                os.link(own, lock)  # appears with its content or not at all
                return
            except FileExistsError:
                _refuse_if_alive(lock)
                _move_away(lock)
    finally:
        own.unlink(missing_ok=True)
    raise RunFolderError(f"{lock} cannot be taken: others start in the same folder")


def _take_in_bucket(lock: Path) -> None:
    """The last to write is the owner: nobody writes who has seen a living one."""
    _refuse_if_alive(lock)
    lock.write_text(json.dumps(_self() | {"alive": time.time()}))
    time.sleep(SETTLE)
    if not lock.exists() or not _is_own(json.loads(lock.read_text())):
        raise RunFolderError(f"{lock} cannot be taken: others start in the same folder")


def _is_own(owner: dict[str, Any]) -> bool:
    own = _self()
    return all(owner.get(key) == own[key] for key in ("pid", "host", "started"))


def _move_away(lock: Path) -> None:
    """Removes a dead owner's lock, of several that try only once."""
    dead = lock.with_name(f".{lock.name}.{os.getpid()}.dead")
    try:
        lock.rename(dead)
        _refuse_if_alive(dead)  # another process was faster and this is its lock
    except FileNotFoundError:
        return
    except RunFolderError:
        os.link(dead, lock)
        raise
    finally:
        dead.unlink(missing_ok=True)


def _refuse_if_alive(lock: Path) -> None:
    owner = _owner(lock)
    if owner is not None:
        raise RunFolderError(
            f"{lock.parent} is in use by process {owner['pid']} on {owner['host']} since "
            f"{owner['time']}; stop it first, or give another folder"
        )


def _self() -> dict[str, Any]:
    pid = os.getpid()
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"pid": pid, "host": socket.gethostname(), "time": now, "started": _started(pid)}


def _owner(lock: Path) -> dict[str, Any] | None:
    """The living owner of a lock."""
    try:
        owner = json.loads(lock.read_text())
        alive = owner["alive"] if in_bucket(lock) else lock.stat().st_mtime
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):  # damaged: a lock appears with its content
        return None
    if owner["host"] != socket.gethostname():
        return owner if time.time() - alive < ABANDONED else None
    running = owner["pid"] != os.getpid() and _alive(owner["pid"])
    same = owner.get("started") == _started(owner["pid"])  # a number may be given again
    return owner if running and same else None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where that cannot be read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _refusal(path: Path, different: list[Difference]) -> str:
    lines = [f"  {d.key}: {d.old!r} there, {d.new!r} here" for d in different]
    hint = ""
    if any(d.key == "train.steps" for d in different):
        hint = (
            "\nAnother number of steps is another learning-rate schedule; --change-steps continues "
            "under the new one from the newest checkpoint."
        )
    return "\n".join([f"{path} holds a run of a different configuration:", *lines]) + hint
