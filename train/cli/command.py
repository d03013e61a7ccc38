"""The command `seqzoo`; exit codes are those of `errors`."""

from __future__ import annotations

import atexit
import gc
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TextIO

import seqzoo
from seqzoo.train.cli.errors import (
    CHECKPOINT,
    FAULT,
    INCOMPLETE,
    INTERRUPTED,
    PIPE,
    USAGE,
    debugging,
    exit_code,
    only_sentences,
    say,
    sentence,
)

# Each verb is a module of its name beside this one, imported when it is asked for.
VERBS = {
    "list": "architectures and tasks, one line each",
    "train": "train a model on a task, or continue a run",
    "show": "configuration, step, metrics and digest of a run",
    "evaluate": "a run on the whole test split",
    "compare": "train several models and compare them",
    "new": "write a mixer or a task of your own to begin with, and its test",
    "check": "try a mixer of your own under the laws that all keep",
    "generate": "text from a language model, a run or published weights",
    "export": "a model as programs that run without this package",
    "report": "write the report of a comparison or a run",
    "watch": "a comparison or a run while it works",
    "bench": "measure speed, memory and compile time",
    "plan": "whether a configuration fits, and how fast it can be",
    "doctor": "versions, devices, bandwidth, and what is wrong",
    "demo": "a comparison in a few minutes",
    "data": "list, prepare, verify and show the tasks' data",
    "completion": "what lets a shell complete verbs, flags and names",
}
FORMER = {"sample": "generate"}  # verbs by the names that they once had
# Verbs that run programs of models again and again.
COMPUTING = ("train", "compare", "demo", "bench", "evaluate", "generate", "check")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one verb and exits."""
    words = list(sys.argv[1:] if argv is None else argv)
    only_sentences()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:  # closed: the next file would take its number
            setattr(sys, name, _nowhere("w" if number else "r"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # a terminal may not know all signs
    code = 0
    try:
        code = dispatch(words, _begin)
        print(end="", flush=True)
    except BrokenPipeError:  # who read our output, `head` say, has seen enough
        code = PIPE
    except OSError as error:  # of what the output is written to
        if not code:
            say(f"seqzoo: the output cannot be written: {error}")
        code = code or exit_code(error)
    if code in (PIPE, CHECKPOINT) and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if code == INCOMPLETE:  # threads may still make examples, and would be waited for
        atexit._run_exitfuncs()
        os._exit(code)
    sys.exit(code)


def _nowhere(mode: str) -> TextIO:
    """What reads and writes nothing; in memory where no file can be opened."""
    try:
        return open(os.devnull, mode)
    except OSError:
        return io.TextIOWrapper(io.BytesIO())


def dispatch(argv: Sequence[str], begin: Callable[[str], None] = lambda verb: None) -> int:
    """Runs one verb, after `begin` has heard which, and returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if argv else sys.stderr)
        return 0 if argv else USAGE
    if argv[0] in ("-V", "--version", "version"):
        print(f"seqzoo {seqzoo.__version__}")
        return 0
    verb, *rest = argv
    verb = FORMER.get(verb, verb)
    try:
        if verb not in VERBS:
            from seqzoo.models.errors import unknown  # models take a second to import

            raise unknown("verb", verb, VERBS)
        begin(verb)
        return importlib.import_module(f"seqzoo.train.cli.{verb}").main(rest)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        say(f"seqzoo {verb}: interrupted")
        return INTERRUPTED
    except Exception as error:
        if debugging():
            traceback.print_exception(error)
        say(f"seqzoo {verb}: {sentence(error)}")
        return exit_code(error) or FAULT


def _begin(verb: str) -> None:
    """What a process of its own does first."""
    # Most of what imports and traces make stays; looking for garbage in it takes a twelfth of both.
    gc.set_threshold(20_000, 20, 20)
    from seqzoo.train.devices import backend

    backend.check_flags()
    if verb in COMPUTING:
        backend.reuse_memory()


def _overview() -> str:
    lines = [f"  {verb:10} {words}" for verb, words in VERBS.items()]
    return "\n".join(["usage: seqzoo VERB [options]; seqzoo VERB --help", "", *lines])
