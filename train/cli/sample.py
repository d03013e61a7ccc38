"""`seqzoo sample RUN`: text from a trained language model.

seqzoo sample runs/source --prompt "def " --length 200 --temperature 0.8 --top-p 0.95
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.models.sampling import sample
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.train.cli.experiment import named_code
from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.state import seed_key

USAGE = "seqzoo sample RUN"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What to draw."""

    prompt: str = "\n"  # the text that is continued
    length: int = 200  # tokens to draw
    count: int = 1  # continuations
    temperature: float = 1.0  # 0: the likeliest token
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 1.0  # only the likeliest tokens with this probability together
    seed: int = 0
    checkpoint: str = "last"  # last, best or a step
    code: str = ""  # of a run made with code from outside: where that lies now, mine.py:EMA


def continuations(run: Path, options: SampleOptions) -> list[str]:
    """The prompt with what the model of a run makes of it, `count` times.

    Raises ValueError for a run without text, an empty prompt, and what `sample` refuses.
    """
    task = RunFolder(run).experiment().task
    if not isinstance(task, LanguageModelling):
        raise ValueError(f"{run} is a run of {task.name}; only models of text can be sampled")
    if options.count < 1:
        raise ValueError(f"count must be at least 1; got {options.count}")
    tokenizer = task.make_tokenizer()
    ids = tokenizer.encode(options.prompt.encode())
    if len(ids) == 0:
        raise ValueError("an empty prompt cannot be continued; give --prompt")
    program, state, _ = load_run(run, which=options.checkpoint)
    model = program.plan.merge(state.params, state.rest)
    prompt = jnp.tile(jnp.asarray(ids, jnp.int32), (options.count, 1))
    how: dict[str, Any] = {n: getattr(options, n) for n in ("temperature", "top_k", "top_p")}
    tokens = sample(model, prompt, options.length, seed_key(options.seed), **how)
    texts = [tokenizer.decode(row) for row in jax.device_get(tokens)]
    return [options.prompt + text.decode(errors="replace") for text in texts]


def main(argv: Sequence[str]) -> int:
    """`seqzoo sample RUN`."""
    line = read(argv, place=True)
    named_code(line)
    options = parse(SampleOptions, line, USAGE)
    for i, text in enumerate(continuations(place_of(line, USAGE), options)):
        print(text if options.count == 1 else f"-- {i}\n{text}")
    return 0
