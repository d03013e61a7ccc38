"""What a command ends with: an exit code, and of an error one sentence.

    0    done
    1    a fault of seqzoo, or something wrong that `doctor` found
    2    a request that cannot be
    3    a step that was not finite
    4    a full or broken disk, a checkpoint that cannot be written, or none that can be read
    5    another process of the run is gone
    75   stopped and saved; the same command continues
    130  Ctrl-C before there was anything to save, or twice
    141  whoever read the output is gone

Any other signal ends a command as it ends others. SEQZOO_DEBUG=1 shows where an error arose.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
import traceback
import warnings

FAULT, USAGE, NONFINITE, CHECKPOINT, LOST = 1, 2, 3, 4, 5
INCOMPLETE = 75  # sysexits.h's EX_TEMPFAIL
INTERRUPTED = 128 + 2  # as a shell counts SIGINT
PIPE = 128 + 13  # as a shell counts SIGPIPE

_NAMED = {"NonFiniteError": NONFINITE, "CheckpointError": CHECKPOINT, "ProcessLostError": LOST}
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EFBIG)
_USERS = (ValueError, OSError, MemoryError, ImportError)
LINES, WIDTH = 9, 4000  # of an error that are shown; all options of `train` are 2,300
CODES = "docs/pods.md#recipes"
# Where an error arises -> the page that explains what belongs there; the longest name counts.
PAGES = {
    "seqzoo.models.foreign": "docs/extend.md#a-mixer-in-a-file",
    "seqzoo.models.pretrained": "docs/pretrained.md",
    "seqzoo.models.pretrained.adapters": "docs/pretrained.md#adapters",
    "seqzoo.models.pretrained.peft": "docs/pretrained.md#adapters",
    "seqzoo.models.pretrained.export": "docs/pretrained.md#export",
    "seqzoo.tasks.data.places": "docs/places.md",
    "seqzoo.tasks.language": "docs/language.md#corpora",
    "seqzoo.tasks.language.tokenizers": "docs/language.md#tokenizers",
    "seqzoo.tasks.pretraining": "docs/language.md#pretraining",
    "seqzoo.tasks.rows": "docs/extend.md#your-own-data-without-code",
    "seqzoo.train.code": "docs/extend.md#which-code-runs",
    "seqzoo.train.compare.results": "docs/results_format.md",
    "seqzoo.train.compare.sweep": "docs/tuning.md",
    "seqzoo.train.cost": "docs/matching.md",
    "seqzoo.train.devices.meeting": "docs/pods.md",
    "seqzoo.train.devices.processes": "docs/pods.md",
    "seqzoo.train.devices.sharding": "docs/parallel.md",
    "seqzoo.train.folder.files": "docs/places.md",
    "seqzoo.train.folder.lease": "docs/pods.md#one-writer",
    "seqzoo.train.folder.trackers": "docs/extend.md#files-of-flags-and-trackers",
    "seqzoo.train.loop.optimizer": "docs/extend.md#optimisers-and-schedules",
    "seqzoo.train.toml": "docs/extend.md#files-of-flags-and-trackers",
}


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error that is the user's to mend; None for a fault of ours."""
    if type(error).__name__ in _NAMED:
        return _NAMED[type(error).__name__]
    if isinstance(error, OSError) and error.errno in _DISK:
        return CHECKPOINT
    if isinstance(error, _USERS) or _no_memory(error) or _no_device(error) or _too_large(error):
        return USAGE
    return None


def sentence(error: BaseException) -> str:
    """What the user reads of an error: its own words, a fault's with its place."""
    if _no_memory(error):
        text = (
            "there is not enough memory for this: give a smaller --batch-size, --accumulate or "
            f"--backbone.remat full; `seqzoo plan` says what fits ({_first_line(error)})"
        )
    elif _too_large(error):
        text = f"a number is too large to count with ({_first_line(error)}); give smaller sizes"
    elif exit_code(error) is None:
        frame = traceback.extract_tb(error.__traceback__)[-1:]
        where = f" in {os.path.basename(frame[0].filename)}:{frame[0].lineno}" if frame else ""
        text = (
            f"a fault of seqzoo, not of the request: {type(error).__name__}: {_first_line(error)}"
            f"{where}; SEQZOO_DEBUG=1 shows more"
        )
    elif _no_device(error):
        text = (
            f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')} asks for what is not here "
            f"({_first_line(error) or 'JAX finds no such device'}); unset it, set "
            "JAX_PLATFORMS=cpu, or install what drives the device: seqzoo[cuda], seqzoo[tpu]"
        )
    elif isinstance(error, FileNotFoundError) and not _stands_somewhere():
        text = "the folder that this command was started in is gone; change to one that is there"
    else:
        text = str(error) or type(error).__name__
    lines = [line[:WIDTH] for line in text.splitlines()]
    if len(lines) > LINES:
        lines[LINES - 2 : -1] = [f"  ... {len(lines) - LINES + 1} more lines"]
    explained = page(error)
    return "\n".join(lines) + f" (see {explained})" * bool(explained)


def page(error: BaseException) -> str:
    """The page that explains an error of the user's, by where it arose; empty where none does."""
    if type(error).__name__ in _NAMED:
        return CODES
    frames = traceback.walk_tb(error.__traceback__)
    names = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    ours = [name for name in names if name.startswith("seqzoo.")]
    if not ours or exit_code(error) != USAGE:
        return ""
    there = [at for at in PAGES if f"{ours[-1]}.".startswith(f"{at}.")]
    return PAGES[max(there, key=len)] if there else ""


def say(text: str) -> None:
    """A line for whoever reads errors; where nobody can, the exit code is all that is left."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether whoever started the command wants to see where errors arise."""
    return bool(os.environ.get("SEQZOO_DEBUG"))


def only_sentences() -> None:
    """Keeps libraries from printing their tracebacks before and after an error's sentence.

    Threads of Orbax, TensorStore and asyncio print what they raise, tens of times on a full disk,
    and raise it in the caller too.
    """
    if debugging():
        return
    logging.getLogger().handlers[:] = [_OneLine(logging.WARNING)]
    sys.excepthook = sys.unraisablehook = lambda *_: None
    threading.excepthook = _of_thread
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)


class _OneLine(logging.Handler):
    """JAX's warnings, which speak of devices; of no other library's log."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] == "jax":
            print(record.getMessage().partition("\n")[0], file=sys.stderr)


def _of_thread(args: threading.ExceptHookArgs) -> None:
    """A line for what a thread of ours raises."""
    frames = (frame for frame, _ in traceback.walk_tb(args.exc_traceback))
    ours = any(frame.f_globals.get("__name__", "").startswith("seqzoo.") for frame in frames)
    if ours and args.exc_value is not None:
        print(f"seqzoo: {sentence(args.exc_value)}", file=sys.stderr)


def _stands_somewhere() -> bool:
    """Whether the working folder is there."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _no_memory(error: BaseException) -> bool:
    return type(error).__name__ == "JaxRuntimeError" and "RESOURCE_EXHAUSTED" in str(error)


def _no_device(error: BaseException) -> bool:
    """Whether JAX looked for devices and found none of those that it was told to use."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    looked = bool(last) and os.path.basename(last[0].filename) == "xla_bridge.py"
    looked = looked or str(error).startswith("Unable to initialize backend")
    looked = looked or (isinstance(error, AssertionError) and not str(error) and _finds_none())
    return looked and isinstance(error, RuntimeError | AssertionError)


def _finds_none() -> bool:
    """Whether JAX has no device; what it raises inside of an operation does not say so."""
    import jax

    try:
        return not jax.devices()
    except (RuntimeError, AssertionError):
        return True


def _too_large(error: BaseException) -> bool:
    """Whether a number is beyond what Python, NumPy or JAX can count."""
    text = str(error)
    # MLIR's answer to a shape beyond 2 ** 63
    shape = isinstance(error, TypeError) and "get(): incompatible" in text and "shape:" in text
    return isinstance(error, OverflowError) or "exceeding 2 ** 64" in text or shape


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
