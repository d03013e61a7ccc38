"""`seqzoo show RUN`: configuration, step, metrics, size and digest of the parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.cli.words import bare, words
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.program import Program, count_parameters, digest
from seqzoo.train.loop.state import TrainState

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
    train = config["train"]
    for i in range(replicas := train.get("replicas", 1)):
        seed = train["seed"] + i
        if replicas > 1:
            print(f"seed {seed}")
        _show(load_run(run, which=options.checkpoint, seed=seed), train["steps"])
    return 0


def _show(loaded: tuple[Program, TrainState, dict[str, Any]], steps: int) -> None:
    _, state, meta = loaded
    print(f"step        {meta['step']} of {steps}")
    print(f"training    {words(meta['train'])}")
    print(f"validation  {words(bare(meta['validation']))}")
    print(f"best        {words(meta['best'] or {})}")
    bytes_ = sum(p.nbytes for p in state.params.values())
    print(f"parameters  {count_parameters(state.params)} ({bytes_} bytes)")
    print(f"sha256      {digest(state.params)}")
