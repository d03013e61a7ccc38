"""The command `seqzoo`.

Exit codes: 0 done (also after SIGTERM or Ctrl-C, all saved), 2 a request that cannot be,
3 a step that was not finite, 4 a full disk, a checkpoint that cannot be written, or none that can
be read, 5 another process of the run is gone. Set SEQZOO_DEBUG=1 to see where an error arose.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from seqzoo.models.errors import unknown
from seqzoo.train.cli.errors import PIPE, USAGE, exit_code

# Each verb is a module of its name beside this one, imported when it is asked for.
VERBS = {
    "list": "architectures and tasks, one line each",
    "train": "train a model on a task, or continue a run",
    "show": "configuration, step, metrics and digest of a run",
    "evaluate": "a run on the whole test split",
    "compare": "train several models and compare them",
    "sample": "text from a trained language model",
    "report": "write the report of a comparison or a run",
    "bench": "measure speed, memory and compile time",
    "plan": "whether a configuration fits, and how fast it can be",
    "doctor": "versions, devices, bandwidth, and what is wrong",
    "demo": "a comparison in a few minutes",
    "data": "list, prepare, verify and show the tasks' data",
}
# Verbs that run programs of models again and again.
COMPUTING = ("train", "compare", "demo", "bench", "evaluate", "sample")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one verb and exits."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] and words[0] in COMPUTING:
        from seqzoo.train.devices.backend import reuse_memory

        reuse_memory()
    try:
        code = dispatch(words)
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE
    sys.exit(code)


def dispatch(argv: Sequence[str]) -> int:
    """Runs one verb and returns the exit code."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if argv else USAGE
    verb, *rest = argv
    try:
        if verb not in VERBS:
            raise unknown("verb", verb, VERBS)
        return importlib.import_module(f"seqzoo.train.cli.{verb}").main(rest)
    except Exception as error:
        code = exit_code(error)
        if code is None or os.environ.get("SEQZOO_DEBUG"):
            raise
        print(f"seqzoo {verb}: {error}", file=sys.stderr)
        return code


def _overview() -> str:
    lines = [f"  {verb:10} {words}" for verb, words in VERBS.items()]
    return "\n".join(["usage: seqzoo VERB [options]; seqzoo VERB --help", "", *lines])
