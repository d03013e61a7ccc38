"""SIGTERM and Ctrl-C become a request that the loop obeys between two steps."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

from seqzoo.train.folder import say_on_stderr


class StopRequest:
    """A context in which the first signal sets `requested`; a second Ctrl-C ends the process."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        # Python allows handlers in the main thread alone; elsewhere the caller has his own.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: set by no Python code

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            os._exit(130)  # checkpoints are whole or absent, so nothing needs tidying
        self.requested = True
        say_on_stderr("stopping: this step is finished and saved (Ctrl-C again: at once)")
