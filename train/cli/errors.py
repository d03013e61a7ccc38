"""Exit codes, and which of them an error has."""

from __future__ import annotations

import errno

USAGE, NONFINITE, CHECKPOINT, LOST = 2, 3, 4, 5
INTERRUPTED = 128 + 2  # as a shell counts SIGINT
PIPE = 128 + 13  # as a shell counts SIGPIPE


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is the user's to mend; None for a fault of ours."""
    name = type(error).__name__
    if name == "NonFiniteError":
        return NONFINITE
    if name == "CheckpointError":
        return CHECKPOINT
    if name == "ProcessLostError":
        return LOST
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CHECKPOINT
    return USAGE if isinstance(error, ValueError | FileNotFoundError | PermissionError) else None
