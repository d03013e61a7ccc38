"""`seqzoo evaluate RUN`: the whole test split; the last line is JSON.

By default of the checkpoint that the task's protocol selects: last, or best on validation.
Options of task and mixer may differ from those of training where no array changes its size.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqzoo import tasks
from seqzoo.models.errors import unknown
from seqzoo.tasks.data.positions import POSITIONS
from seqzoo.tasks.task import SPLITS
from seqzoo.train.cli.experiment import experiment_fields, named_code
from seqzoo.train.cli.flags import bare_field, parse, place_of, read
from seqzoo.train.config import Experiment
from seqzoo.train.evaluation.axes import CHUNK, axes_of
from seqzoo.train.evaluation.probe import probe_run
from seqzoo.train.evaluation.runs import evaluate_run
from seqzoo.train.folder.files import plain
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.out.console import words

HIDDEN = ("baselines", "axes", "main_metric", POSITIONS)  # of the first line
USAGE = "seqzoo evaluate RUN"
ABOUT = "With RUN there are its --data.* and --mixer.* flags too, to evaluate it on other terms."


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate."""

    checkpoint: str = "selected"  # selected (by the task's protocol), last, best or a step
    split: str = "test"  # train, validation or test
    # options of the task and values to test at: length=64,128 noise=0,0.5; position; streaming=1,16
    axes: tuple[str, ...] = ()
    streaming: bool = False  # measure the streaming form, which generates
    probe: bool = False  # what the encoder's vectors tell of classes, beside random weights
    code: str = ""  # of a run made with code from outside: where that lies now, mine.py:EMA


def main(argv: Sequence[str]) -> int:
    """`seqzoo evaluate RUN`."""
    line = read(argv, place=True)
    fields, own = [bare_field("own", EvaluateOptions())], None
    named_code(line)
    if line.place is not None and (line.asks or line.has_any("--data.", "--mixer.")):
        own = RunFolder(place_of(line, USAGE)).experiment()
        parts = experiment_fields(tasks.name_of(own.task), own.model, own)
        fields += [field for field in parts if field[0] in ("data", "mixer")]
    kind = dataclasses.make_dataclass("Evaluate", fields, kw_only=True)
    parsed = parse(kind, line, USAGE, ABOUT)
    if parsed.own.split not in SPLITS:
        raise unknown("value of --split", parsed.own.split, SPLITS)
    changed = own and dataclasses.replace(
        own, task=parsed.data, mixer=dataclasses.asdict(parsed.mixer)
    )
    if parsed.own.probe:
        return _probe(place_of(line, USAGE), parsed.own, changed)
    result = evaluate_run(
        place_of(line, USAGE),
        split=parsed.own.split,
        which=parsed.own.checkpoint,
        experiment=changed,
        axes=axes_of(parsed.own.axes),
        chunk=CHUNK if parsed.own.streaming else 0,
    )
    print(words({k: v for k, v in result.items() if k not in HIDDEN}))
    for name, curve in result.get("axes", {}).items():
        metric = result["main_metric"] if result["main_metric"] in curve else "accuracy"
        values = np.asarray(curve[metric]).T.tolist()  # of several seeds, those of each place
        for at, value in zip(curve["at"], values, strict=True):
            print(f"{name} {at:g}: {words({metric: value})}")
    print(f"baselines: {words(result['baselines'])}")
    print(json.dumps(plain(result), allow_nan=False))
    return 0


def _probe(run: Path, options: EvaluateOptions, changed: Experiment | None) -> int:
    """Raises ValueError for options that a probe has no use for."""
    if options.axes or options.streaming or changed is not None:
        raise ValueError(
            "--probe looks at the run as it is; leave out --axes, --streaming and what changes it"
        )
    result = probe_run(run, which=options.checkpoint, split=options.split)
    print(words(result))
    print(json.dumps(plain(result), allow_nan=False))
    return 0
