"""One writer in a folder: a lease that its owner renews, and a word before each write.

    FOLDER/lock/N.json      the N-th owner; the largest N counts, smaller ones are swept away

Who wants the folder makes the file of the next number, which only one can make: on any file system,
and in a bucket by a condition on the write. Ownership so never goes back, and the owner of N is the
owner as long as there is no N + 1. It rewrites its own file again and again, from a thread, with a
count. Whether an owner is alive is known at once where its process can be seen (the same kernel and
the same process namespace); otherwise it is dead when its count has not changed for the time of a
lease on the clock of who looks. No clock is ever compared with another one.

An owner that stood still for longer than that (a stopped process, a machine asleep) must make the
next number itself before it goes on: it cannot if somebody else has. It asks before it writes, so
one that has lost its folder writes nothing more; what is left is a write that was on its way when
the process stood still.
"""

from __future__ import annotations

import contextlib
import functools
import json
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from seqzoo.train.folder.alive import is_this_one, runs, this_process
from seqzoo.train.folder.owner_files import OwnerFiles, owner_files

LOCK = "lock"
LEASE = 60.0  # seconds without a sign of life after which an owner that cannot be seen is dead
RENEWALS = 6  # in that time
LATE = 0.5  # share of it after which somebody could be about to conclude that
LOOKS = 20  # in that time, of who waits


class LeaseError(ValueError):
    """A folder that another process has."""


class LeaseLostError(LeaseError):
    """A folder that another process has taken over while this one stood still."""


class Owner(NamedTuple):
    """The newest owner that a folder had."""

    number: int
    content: dict[str, Any]  # empty while it is being written


_held: set[str] = set()  # tokens of the leases of this process
_seen: dict[str, tuple[Any, float]] = {}  # folder -> sign of life, and when it was new to us


def now() -> float:
    """Seconds on this machine's own clock, which goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """The lease of one folder, for one process.

    Args:
        folder: of a run.
        say: hears why there is a wait.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = print):
        self._folder, self._say = folder, say
        self._token = secrets.token_hex(8)
        self._number = self._count = 0
        self._renewed = 0.0
        self._lost = False
        self._mutex, self._ended = threading.RLock(), threading.Event()

    def acquire(self, wait: bool = True) -> None:
        """Takes the folder; it is renewed from now on.

        Where it cannot be seen whether the owner is alive this takes up to `LEASE` seconds, or
        without `wait` it fails until that is known.

        Raises LeaseError while another process has the folder.
        """
        said = False
        while True:
            owner = self._newest()
            alive = self._alive(owner) if owner else False
            if alive or (alive is None and not wait):
                raise LeaseError(_in_use(self._folder, owner))
            if alive is False and self._take(owner.number + 1 if owner else 1):
                break
            if alive is None:
                if not said:
                    self._say(f"{_in_use(self._folder, owner)} {_WAITING.format(LEASE)}")
                said = True
                time.sleep(LEASE / LOOKS)
        _held.add(self._token)
        self._files.sweep(self._number)
        self._ended = threading.Event()
        threading.Thread(target=self._keep, args=(self._ended,), name="lease", daemon=True).start()

    def guard(self) -> None:
        """To be called before each write. Raises LeaseLostError if another process has the folder.

        Does nothing where the lease has not been acquired.
        """
        if self._number == 0:
            return
        with self._mutex:
            if self._lost or now() - self._renewed > LATE * LEASE:
                self._renew()
            else:
                self._check()

    def lost(self) -> bool:
        """Whether another process has the folder, as far as is known without looking."""
        return self._lost

    def release(self) -> None:
        """Gives the folder back, if it is still this process's."""
        self._ended.set()
        with self._mutex, contextlib.suppress(OSError, LeaseLostError):
            if self._number:
                self._check()
                self._write(released=True)
        self._number = 0
        _held.discard(self._token)

    @functools.cached_property
    def _files(self) -> OwnerFiles:
        return owner_files(self._folder / LOCK)

    def _keep(self, ended: threading.Event) -> None:
        """Renews the lease until it is given back or lost."""
        while not ended.wait(LEASE / RENEWALS):
            with self._mutex, contextlib.suppress(OSError):  # storage that is away comes back
                if ended.is_set() or self._lost:
                    return
                with contextlib.suppress(LeaseLostError):
                    self._renew()

    def _renew(self) -> None:
        started = now()
        if self._lost:
            self._check()
        # Nobody can have concluded that we are dead before this; later only the next number tells.
        if started - self._renewed <= LATE * LEASE:
            self._check()
            self._write()
        elif not self._take(self._number + 1):
            self._lost = True
        self._check()
        self._renewed = started

    def _take(self, number: int) -> bool:
        """Makes the file of a number; False if somebody else has."""
        started = now()
        self._files.prepare()
        if not self._files.create(f"{number}.json", self._text()):
            return False
        if max(self._files.numbers(), default=0) != number:
            # A small number, which had been swept away, could be made again; the largest counts.
            self._files.remove(f"{number}.json")
            return False
        self._number, self._renewed = number, started
        return True

    def _check(self) -> None:
        self._lost = self._lost or max(self._files.numbers(), default=0) != self._number
        if self._lost:
            raise LeaseLostError(
                f"{_in_use(self._folder, self._newest())} It took the folder over while this "
                "process stood still, which now writes nothing more there"
            )

    def _write(self, **more: Any) -> None:
        self._count += 1
        self._files.replace(f"{self._number}.json", self._text(**more))

    def _text(self, **more: Any) -> str:
        own = {"token": self._token, "count": self._count, "folder": self._files.itself()}
        return json.dumps({**own, **this_process(), **more})

    def _newest(self) -> Owner | None:
        numbers = self._files.numbers()
        if not numbers:
            return None
        return Owner(max(numbers), self._files.read(f"{max(numbers)}.json"))

    def _alive(self, owner: Owner) -> bool | None:
        """Whether an owner is; None while that is not known."""
        content = owner.content
        if content.get("released"):
            return False
        if content and is_this_one(content) and content["token"] not in _held:
            return False
        alive = runs(content) if content else None
        if alive and content.get("folder") not in (None, self._files.itself()):
            return False  # a copy of a folder whose owner is at work, but not in this one
        if alive is not None:
            return alive
        sign = owner.number, content.get("token"), content.get("count")
        before, since = _seen.get(str(self._folder), (None, 0.0))
        if before == sign:
            return False if now() - since > LEASE else None
        _seen[str(self._folder)] = sign, now()
        return True if before is not None and before[:2] == sign[:2] else None


_WAITING = "Its process cannot be seen from here: waiting up to {:g} s for a sign of life"


def _in_use(folder: Path, owner: Owner | None) -> str:
    content = owner.content if owner else {}
    if not content:
        return f"{folder} is in use by another process."
    return (
        f"{folder} is in use by process {content.get('pid')} on {content.get('host')} since "
        f"{content.get('since')}; stop it first, or give another folder."
    )
