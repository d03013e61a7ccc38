"""The command `seqzoo`.

Exit codes: 0 done (also after SIGTERM or Ctrl-C, all saved), 2 a request that cannot be,
3 a step that was not finite, 4 a full disk, a checkpoint that cannot be written, or none that can
be read, 5 another process of the run is gone. Set SEQZOO_DEBUG=1 to see where an error arose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from seqzoo.train.cli.errors import UsageError, take, unknown
from seqzoo.train.folder.files import run_path

USAGE, NONFINITE, CHECKPOINT, LOST = 2, 3, 4, 5
PIPE = 128 + 13  # as a shell counts SIGPIPE

# Verbs with a module of their own have a function main(argv) there.
MODULES = {
    "compare": ("seqzoo.train.compare.comparison", "train several models and compare them"),
    "sample": ("seqzoo.train.cli.sample", "text from a trained language model"),
    "report": ("seqzoo.train.compare.page", "write the report of a comparison or a run"),
    "bench": ("seqzoo.train.bench.training", "measure speed, memory and compile time"),
    "plan": ("seqzoo.train.plan.plan", "whether a configuration fits, and how fast it can be"),
    "doctor": ("seqzoo.train.cli.doctor", "versions, devices, bandwidth, and what is wrong"),
    "demo": ("seqzoo.train.cli.demo", "a comparison in a few minutes"),
    "data": ("seqzoo.train.cli.data", "list, prepare, verify and show the tasks' data"),
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


def dispatch(argv: list[str]) -> int:
    """Runs one verb and returns the exit code."""
    verbs = _verbs()
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(verbs))
        return 0 if argv else USAGE
    verb, rest = argv[0], argv[1:]
    try:
        if verb not in verbs:
            raise unknown("verb", verb, verbs)
        return verbs[verb][0](rest) or 0
    except Exception as error:
        code = _exit_code(error)
        if code is None or os.environ.get("SEQZOO_DEBUG"):
            raise
        print(f"seqzoo {verb}: {error}", file=sys.stderr)
        return code


def list_main(argv: Sequence[str]) -> int:
    """`seqzoo list`: architectures and tasks, one line each."""
    from seqzoo import tasks
    from seqzoo.models.registry import MIXERS, PRESETS
    from seqzoo.train.cli.flags import parse
    from seqzoo.train.published import PUBLISHED

    parse(dataclasses.make_dataclass("List", []), argv, "seqzoo list")
    width = max(map(len, (*MIXERS, *PRESETS, *tasks.names()))) + 2
    print("mixers (--model NAME, or NAME,NAME,... for a pattern)")
    for name, entry in MIXERS.items():
        print(f"  {name:{width}}{_first_line(entry.module)}")
    print("presets (--model NAME)")
    for name, preset in PRESETS.items():
        print(f"  {name:{width}}{', '.join(preset.pattern)}: {preset.source}")
    print("published configurations (train --published NAME)")
    for family, members in itertools.groupby(PUBLISHED, lambda name: name.partition("/")[0]):
        found = [name.partition("/")[2] for name in members]
        source = PUBLISHED[f"{family}/{found[0]}"].source
        print(f"  {family + '/':{width}}{', '.join(found)}: {source}")
    print("tasks (--task NAME)")
    for name, task in tasks.TASKS.items():
        print(f"  {name:{width}}{task.description}")
    return 0


def train_main(argv: Sequence[str]) -> int:
    """`seqzoo train`: starts a run, or continues it; on several processes, all do so together."""
    from seqzoo.train.cli.flags import bare_field, experiment_fields, experiment_of, parse
    from seqzoo.train.devices.backend import prepare
    from seqzoo.train.devices.processes import Processes, joined

    base = _published(argv)
    task, model = (base.task.name, base.model) if base else _chosen(argv)
    fields = [
        ("task", str, task),  # what to learn; see seqzoo list
        ("model", str, model),
        ("published", str, dataclasses.field(default="")),  # a configuration, for task and model
        ("out", Path),
        ("change_steps", bool, dataclasses.field(default=False)),
        ("deterministic", bool, dataclasses.field(default=False)),  # on a GPU, at some cost
        *experiment_fields(task, model, base),
        bare_field("processes", Processes()),
    ]
    kind = dataclasses.make_dataclass("Train", _with_defaults(fields), kw_only=True)
    parsed = parse(kind, argv, "seqzoo train")
    out = run_path(parsed.out)
    prepare(parsed.deterministic)
    with joined(parsed.processes, _exit_code):
        return _train(experiment_of(parsed, model), out, parsed.change_steps)


def show_main(argv: Sequence[str]) -> int:
    """`seqzoo show RUN`: configuration, step, metrics, size and digest of the parameters."""
    run, options = _run_and_options(argv, {"checkpoint": "last"}, "show")
    from seqzoo.train.folder.run_folder import RunFolder
    from seqzoo.train.loop.evaluate import load_run
    from seqzoo.train.loop.program import count_parameters, digest

    config = RunFolder(run).config()
    _, state, meta = load_run(run, which=options["checkpoint"])
    print(f"run         {run}")
    print(f"task        {config['task']['name']}")
    print(f"model       {config['model']}")
    for part in ("task", "mixer", "backbone", "optim", "train"):
        print(f"{part:11} {_words({k: v for k, v in config[part].items() if k != 'name'})}")
    print(f"step        {meta['step']} of {config['train']['steps']}")
    print(f"training    {_words(meta['train'])}")
    print(f"validation  {_words(_bare(meta['validation']))}")
    print(f"best        {_words(meta['best'] or {})}")
    bytes_ = sum(p.nbytes for p in state.params.values())
    print(f"parameters  {count_parameters(state.params)} ({bytes_} bytes)")
    print(f"sha256      {digest(state.params)}")
    return 0


def evaluate_main(argv: Sequence[str]) -> int:
    """`seqzoo evaluate RUN`: the whole test split; the last line is JSON.

    By default of the checkpoint that the task's protocol selects: last, or best on validation.
    Options of task and mixer may differ from those of training where no array changes its size.
    """
    run, options, experiment = _run_and_changes(argv)
    from seqzoo.tasks.task import SPLITS
    from seqzoo.train.loop.evaluate import evaluate_run

    if options["split"] not in SPLITS:
        raise unknown("value of --split", options["split"], SPLITS)
    result = evaluate_run(
        run, split=options["split"], which=options["checkpoint"], experiment=experiment
    )
    print(_words({k: v for k, v in result.items() if k != "baselines"}))
    print(f"baselines: {_words(result['baselines'])}")
    print(json.dumps(result))
    return 0


def _train(experiment: Any, out: Path, change_steps: bool) -> int:
    from seqzoo.train.cli.console import ProgressBars
    from seqzoo.train.devices.processes import is_first
    from seqzoo.train.loop.runner import finished, run

    before = finished(experiment, out, change_steps=change_steps)
    if not before:
        with contextlib.closing(ProgressBars()) as bars:
            result = run(experiment, out, change_steps=change_steps, progress=bars)
    if not is_first():
        return 0
    if before:
        print(f"{out} is already complete at step {before['step']}: {_results(before)}")
    elif result["complete"]:
        print(f"{out}: {result['step']} steps, {_results(result)}")
    else:
        print(
            f"{out}: stopped and saved at step {result['step']} of {experiment.train.steps}; "
            "the same command continues"
        )
    return 0


def _published(argv: Sequence[str]) -> Any:
    """The experiment that --published names, in place of --task and --model; None without it."""
    from seqzoo.train.published import published

    name = take(argv, "--published")
    if name is None:
        return None
    for flag in ("--task", "--model"):
        if take(argv, flag) is not None:
            raise UsageError(
                f"--published {name} has a task and a model of its own; leave out {flag}"
            )
    return published(name).experiment()


def _chosen(argv: Sequence[str]) -> tuple[str, str]:
    """Task and model, which decide what other flags there are."""
    from seqzoo.train.cli.flags import check_model, check_task

    chosen = {}
    for flag, check, default in (
        ("--task", check_task, "listops"),
        ("--model", check_model, "attention"),
    ):
        value = take(argv, flag)
        if value is None and not {"-h", "--help"} & set(argv):
            raise UsageError(f"{flag} is needed; `seqzoo list` shows what there is")
        chosen[flag] = value or default
        check(chosen[flag])
    return chosen["--task"], chosen["--model"]


def _with_defaults(fields: list[tuple]) -> list[tuple]:
    return [
        (name, kind, dataclasses.field(default=rest[0]))
        if rest and not isinstance(rest[0], dataclasses.Field)
        else (name, kind, *rest)
        for name, kind, *rest in fields
    ]


def _run_and_options(
    argv: Sequence[str], defaults: dict[str, str], verb: str
) -> tuple[Path, dict[str, str]]:
    """A run's folder, which comes first or last, and text options."""
    from seqzoo.train.cli.flags import parse

    folders = [arg for i, arg in enumerate(argv) if _is_folder(argv, i)]
    fields = [(name, str, dataclasses.field(default=value)) for name, value in defaults.items()]
    rest = [arg for i, arg in enumerate(argv) if not _is_folder(argv, i)]
    kind = dataclasses.make_dataclass(verb.capitalize(), fields, kw_only=True)
    parsed = parse(kind, rest, f"seqzoo {verb} RUN")
    if len(folders) != 1:
        raise UsageError(f"give one run folder: seqzoo {verb} RUN")
    return run_path(folders[0]), dataclasses.asdict(parsed)


def _run_and_changes(argv: Sequence[str]) -> tuple[Path, dict[str, str], Any]:
    """A run's folder, the options of `evaluate`, and an experiment if --data or --mixer differ."""
    defaults = {"checkpoint": "selected", "split": "test"}
    changing = [a for a in argv if a.startswith(("--data.", "--mixer."))]
    folders = [arg for i, arg in enumerate(argv) if _is_folder(argv, i)]
    if not changing or len(folders) != 1:
        return *_run_and_options(argv, defaults, "evaluate"), None
    from seqzoo.train.cli.flags import experiment_fields, parse
    from seqzoo.train.folder.run_folder import RunFolder

    own = RunFolder(folders[0]).experiment()
    parts = [f for f in experiment_fields(own.task.name, own.model, own) if f[0] in _CHANGED]
    fields = [(n, str, dataclasses.field(default=value)) for n, value in defaults.items()]
    kind = dataclasses.make_dataclass("Evaluate", [*fields, *parts], kw_only=True)
    parsed = parse(kind, [a for a in argv if a != folders[0]], "seqzoo evaluate RUN")
    changed = dataclasses.replace(own, task=parsed.data, mixer=dataclasses.asdict(parsed.mixer))
    return run_path(folders[0]), {name: getattr(parsed, name) for name in defaults}, changed


_CHANGED = ("data", "mixer")


def _is_folder(argv: Sequence[str], i: int) -> bool:
    follows_flag = i > 0 and argv[i - 1].startswith("--") and "=" not in argv[i - 1]
    return not argv[i].startswith("-") and not follows_flag


def _exit_code(error: BaseException) -> int | None:
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


def _verbs() -> dict[str, tuple[Callable[[Sequence[str]], int | None], str]]:
    own = {
        "list": (list_main, "architectures and tasks, one line each"),
        "train": (train_main, "train a model on a task, or continue a run"),
        "show": (show_main, "configuration, step, metrics and digest of a run"),
        "evaluate": (evaluate_main, "a run on the whole test split"),
    }
    return own | {verb: (_module_main(name), words) for verb, (name, words) in MODULES.items()}


def _module_main(name: str) -> Callable[[Sequence[str]], int | None]:
    def call(argv: Sequence[str]) -> int | None:
        return importlib.import_module(name).main(argv)

    return call


def _overview(verbs: dict[str, tuple[Callable, str]]) -> str:
    lines = [f"  {verb:10} {words}" for verb, (_, words) in verbs.items()]
    return "\n".join(["usage: seqzoo VERB [options]; seqzoo VERB --help", "", *lines])


def _first_line(kind: type) -> str:
    line = (kind.__doc__ or "").strip().partition("\n")[0]
    return line.removesuffix("; see the module docstring.").removesuffix(".")


def _bare(metrics: dict[str, float]) -> dict[str, float]:
    return {name.rpartition("/")[2]: value for name, value in metrics.items()}


def _results(result: dict[str, Any]) -> str:
    loss = f"loss {result['train'].get('loss', float('nan')):.4g}"
    return f"{loss}; validation {_words(_bare(result['validation']))}"


def _words(values: dict[str, Any]) -> str:
    def word(value: Any) -> str:
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name} {word(value)}" for name, value in values.items())
