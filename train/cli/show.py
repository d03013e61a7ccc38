"""`seqzoo show RUN`: what differs from the defaults, configuration, step, metrics, digest."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.tasks.data.identity import in_short
from seqzoo.train import code
from seqzoo.train.cli.experiment import experiment_fields, experiment_of
from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.config import Experiment, train_of
from seqzoo.train.differences import DATA
from seqzoo.train.folder.run_folder import CONFIG, RunFolder
from seqzoo.train.loop.evaluate import load_run, look_into
from seqzoo.train.loop.program import count_parameters, digest
from seqzoo.train.loop.state import Arrays
from seqzoo.train.out.console import bare, words

USAGE = "seqzoo show RUN"
ABOUT = "The line `differs` has the flags that say what this run has other than the defaults."
PARTS = {
    "task": "data.",
    "mixer": "mixer.",
    "backbone": "backbone.",
    "optim": "optim.",
    "train": "",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What to look at."""

    checkpoint: str = "last"  # last, best or a step


def main(argv: Sequence[str]) -> int:
    """`seqzoo show RUN`."""
    line = read(argv, place=True)
    options = parse(ShowOptions, line, USAGE, ABOUT)
    run = place_of(line, USAGE)
    folder = RunFolder(run)
    config, where = folder.config(), str(folder.path / CONFIG)
    # A configuration that names code is not built: its code would have to be run.
    foreign = bool(code.of(config))
    train = train_of(config, where) if foreign else Experiment.from_dict(config, where).train
    print(f"run         {run}")
    print(f"task        {config['task']['name']}")
    print(f"model       {config['model']}")
    if not foreign:
        print(f"differs     {' '.join(_differing(config)) or 'in nothing'}")
    for part in PARTS:
        print(f"{part:11} {words({k: v for k, v in config[part].items() if k != 'name'})}")
    for split, text in in_short(config.get(DATA, {})).items():
        print(f"{split + ' files':16}  {text}")
    for name, own in config.get("code", {}).items():
        print(f"code        {name} of {own['file']} (sha256 {own['sha256'][:12]})")
    swept = config.get("swept", {})
    seeds = train.replicas // len(next(iter(swept.values()), (None,)))  # of each trial
    for i in range(train.replicas):
        if train.replicas > 1:
            own = words({name: values[i // seeds] for name, values in swept.items()})
            print(f"seed {train.seed + i % seeds}{own and f', {own}'}")
        _show(*_looked_at(run, config, options.checkpoint, train.seed + i), train.steps)
    return 0


def _differing(config: Mapping[str, Any]) -> Iterator[str]:
    """The flags of what a configuration has other than task and model have by default."""
    task, model = config["task"]["name"], config["model"]
    kind = dataclasses.make_dataclass("Defaults", experiment_fields(task, model), kw_only=True)
    usual = experiment_of(kind(), model).to_dict()
    for part, prefix in PARTS.items():
        yield from _flags(config[part], usual[part], prefix)


def _flags(values: Mapping[str, Any], usual: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        default, flag = usual.get(name), f"{prefix}{name}".replace("_", "-")
        if isinstance(value, dict) and isinstance(default, dict):
            yield from _flags(value, default, f"{flag}.")
        elif value != default:
            if isinstance(value, bool) and isinstance(default, bool):
                before, dot, last = flag.rpartition(".")
                yield f"--{flag}" if value else f"--{before}{dot}no-{last}"
                continue
            several = value if isinstance(value, list) else [value]
            yield f"--{flag} {shlex.join(map(str, several))}"


def _looked_at(
    run: Path, config: Mapping[str, Any], which: str, seed: int
) -> tuple[Arrays, dict[str, Any]]:
    """Parameters and checkpoint data; code from outside is not run for them."""
    if code.of(config):
        return look_into(run, which=which, seed=seed)
    _, state, meta = load_run(run, which=which, seed=seed)
    return state.params, meta


def _show(params: Arrays, meta: Mapping[str, Any], steps: int) -> None:
    print(f"step        {meta['step']} of {steps}")
    print(f"training    {words(meta.get('train', {}))}")
    print(f"validation  {words(bare(meta.get('validation', {})))}")
    print(f"best        {words(meta.get('best') or {})}")
    bytes_ = sum(p.nbytes for p in params.values())
    print(f"parameters  {count_parameters(params)} ({bytes_} bytes)")
    print(f"sha256      {digest(params)}")
