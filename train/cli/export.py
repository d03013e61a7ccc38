"""`seqzoo export RUN`: a model as programs that run without this package; see docs/pretrained.md.

seqzoo export runs/source --out exported
seqzoo export ~/mamba-130m-hf --out exported --length 512 --platforms tpu
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqzoo.models import from_pretrained
from seqzoo.models.pretrained.export import PLATFORMS, export_model
from seqzoo.models.pretrained.folder import is_published
from seqzoo.train.cli.experiment import named_code
from seqzoo.train.cli.flags import Run, parse, place_of, read
from seqzoo.train.loop.evaluate import load_run

USAGE = "seqzoo export RUN"
ABOUT = "RUN: a run, or a folder of config.json and safetensors (or OWNER/NAME)."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write, and where."""

    out: Run  # a new or empty folder
    length: int = 128  # tokens of a row or chunk, of programs that cannot leave it open
    batch: int = 1  # rows, of programs that cannot leave that open
    max_length: int = (
        0  # of published weights: tokens that attention's state holds; 0: the config's
    )
    platforms: tuple[str, ...] = PLATFORMS  # on which the programs run: cpu, cuda, tpu, rocm
    checkpoint: str = "last"  # of a run: last, best or a step
    code: str = ""  # of a run made with code from outside: where that lies now, mine.py:EMA


def main(argv: Sequence[str]) -> int:
    """`seqzoo export RUN`."""
    line = read(argv, place=True)
    named_code(line)
    options = parse(ExportOptions, line, USAGE, ABOUT)
    place = place_of(line, USAGE)
    if is_published(place, hub=True):
        model = from_pretrained(place, max_length=options.max_length or None)
    else:
        program, state, _ = load_run(place, which=options.checkpoint)
        model = program.plan.merge(state.params, state.rest)
    sizes = {"length": options.length, "batch": options.batch}
    said = export_model(model, options.out, platforms=options.platforms, **sizes)
    for name, takes in said["programs"].items():
        inputs = takes.get("inputs", [""])
        print(f"{name}: {' '.join(inputs)} on {', '.join(said['platforms'])}")
    print(f"{options.out}: run it by load.py, which needs none of this package")
    return 0
