"""SIGTERM and Ctrl-C become a request that the loop obeys between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from seqzoo.train.folder.run_folder import say_on_stderr

UNSAVED = 4  # exit code where there was no time to save


class Interrupted(BaseException):
    """A request that came while there was nothing to finish; no error, and none is made of it."""


class StopRequest:
    """A context in which the first signal sets `requested`; a second Ctrl-C ends the process.

    Args:
        seconds: after the first signal at which the process ends (code 4), saved or not; 0: never.
        release: called before that end.
    """

    def __init__(self, seconds: float = 0.0, release: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self._seconds, self._release = seconds, release
        self._clock: threading.Timer | None = None
        self._before: dict[int, object] = {}
        self._interrupts = False

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread alone; elsewhere the caller has his own.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        if self._clock is not None:
            self._clock.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: set by no Python code

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """For a wait that may be long: inside, a request raises `Interrupted`."""
        if self.requested:
            raise Interrupted
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            os._exit(130)  # checkpoints are whole or absent, so nothing needs tidying
        if self._seconds and not self.requested:
            self._clock = threading.Timer(self._seconds, self._too_late)
            self._clock.daemon = True
            self._clock.start()
        first, self.requested = not self.requested, True
        say_on_stderr("stopping: this step is finished and saved (Ctrl-C again: at once)")
        if first and self._interrupts:
            raise Interrupted

    def _too_late(self) -> None:
        say_on_stderr(
            f"not saved within {self._seconds:g} s; the newest whole checkpoint is what is left"
        )
        self._release()
        os._exit(UNSAVED)
