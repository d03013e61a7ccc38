"""`seqzoo show RUN`: configuration, step, metrics, size and digest of the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqzoo.tasks.data.identity import in_short
from seqzoo.train import code
from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.config import DATA
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_run, look_into
from seqzoo.train.loop.program import count_parameters, digest
from seqzoo.train.loop.state import Arrays
from seqzoo.train.out.console import bare, words

USAGE = "seqzoo show RUN"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """What to look at."""

    checkpoint: str = "last"  # last, best or a step


def main(argv: Sequence[str]) -> int:
    """`seqzoo show RUN`."""
    line = read(argv, place=True)
    options = parse(ShowOptions, line, USAGE)
    run = place_of(line, USAGE)
    config = RunFolder(run).config()
    print(f"run         {run}")
    print(f"task        {config['task']['name']}")
    print(f"model       {config['model']}")
    for part in ("task", "mixer", "backbone", "optim", "train"):
        print(f"{part:11} {words({k: v for k, v in config[part].items() if k != 'name'})}")
    for split, text in in_short(config.get(DATA, {})).items():
        print(f"{split + ' files':16}  {text}")
    for name, own in config.get("code", {}).items():
        print(f"code        {name} of {own['file']} (sha256 {own['sha256'][:12]})")
    train, swept = config["train"], config.get("swept", {})
    replicas = train.get("replicas", 1)
    seeds = replicas // len(next(iter(swept.values()), (None,)))  # of each trial
    for i in range(replicas):
        if replicas > 1:
            own = words({name: values[i // seeds] for name, values in swept.items()})
            print(f"seed {train['seed'] + i % seeds}{own and f', {own}'}")
        _show(*_looked_at(run, config, options.checkpoint, train["seed"] + i), train["steps"])
    return 0


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
