"""`seqzoo export RUN`: a model as programs that run without this package; see docs/pretrained.md.

seqzoo export runs/source --out exported
seqzoo export ~/mamba-130m-hf --out exported --length 512 --platforms tpu
seqzoo export runs/tuned --out tuned --form published        # config.json and safetensors again
seqzoo export runs/tuned --out change --form adapter         # what --adapter has learned
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from seqzoo.models import EncoderDecoder, from_pretrained, save_pretrained
from seqzoo.models.pretrained.adapters import is_adapted, merged
from seqzoo.models.pretrained.export import PLATFORMS, export_model
from seqzoo.models.pretrained.folder import CONFIG, find, is_published
from seqzoo.models.pretrained.header import is_regular
from seqzoo.models.whole.sequence_model import SequenceModel
from seqzoo.train.cli.experiment import named_code
from seqzoo.train.cli.flags import Run, parse, place_of, read
from seqzoo.train.loop.evaluate import load_run

USAGE = "seqzoo export RUN"
TEXT = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
ABOUT = "RUN: a run, or a folder of config.json and safetensors (or OWNER/NAME)."


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to write, and where."""

    out: Run  # a new or empty folder
    # programs: StableHLO; published: config.json and safetensors, of a run from published weights;
    # adapter: what its adapter has learned, as PEFT keeps it
    form: Literal["programs", "published", "adapter"] = "programs"
    length: int = 128  # tokens of a row or chunk, of programs that cannot leave it open
    batch: int = 1  # rows, of programs that cannot leave that open
    # of published weights: tokens that attention's state holds; 0: as the config says
    max_length: int = 0
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
        origin = find(place)
        model = from_pretrained(origin, max_length=options.max_length or None)
        if isinstance(model, EncoderDecoder) and options.form == "programs":
            raise ValueError(
                f"{origin} holds an encoder-decoder, which reads one text and writes another; the "
                "programs here take one: export its start and extend by jax.export yourself"
            )
    else:
        model, origin = _of_run(place, options)
    if options.form != "programs":
        return _save(model, origin, options)
    sizes = {"length": options.length, "batch": options.batch}
    said = export_model(merged(model), options.out, platforms=options.platforms, **sizes)
    for name, takes in said["programs"].items():
        inputs = takes.get("inputs", [""])
        print(f"{name}: {' '.join(inputs)} on {', '.join(said['platforms'])}")
    print(f"{options.out}: run it by load.py, which needs none of this package")
    return 0


def _of_run(place: Path, options: ExportOptions) -> tuple[SequenceModel, Path | None]:
    """A run's model, and the published weights that it started from."""
    program, state, _ = load_run(place, which=options.checkpoint)
    start = program.experiment.train.init_from
    origin = Path(start) if start and is_published(start) else None
    return program.plan.merge(state.params, state.rest), origin


def _save(model: SequenceModel, origin: Path | None, options: ExportOptions) -> int:
    """The files of the published form, with the origin's tokenizer, or of the adapter alone."""
    if origin is None:
        raise ValueError(
            f"--form {options.form} needs a run that started from published weights (--init), "
            "whose config says what the files mean; --form programs is for all"
        )
    if options.form == "adapter" and not is_adapted(model):
        raise ValueError("--form adapter: nothing here was trained with --adapter")
    config = json.loads((origin / CONFIG).read_text())
    save_pretrained(model, options.out, config=config, merge=options.form == "published")
    for name in TEXT if options.form == "published" else ():
        if is_regular(origin / name):
            (options.out / name).write_bytes((origin / name).read_bytes())
    print(f"{options.out}: {', '.join(sorted(path.name for path in options.out.iterdir()))}")
    return 0
