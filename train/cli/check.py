"""`seqzoo check mine.py:EMA`: all laws of a mixer, one screen; exit code 1 where one is broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqzoo.models.foreign.address import short
from seqzoo.models.foreign.plain import PlainMixer
from seqzoo.models.registry import mixer, resolve
from seqzoo.train import code
from seqzoo.train.cli.experiment import mixer_options
from seqzoo.train.cli.flags import bare_field, parse, read
from seqzoo.train.loop.claims import examine, maker, means

USAGE = "seqzoo check MIXER"
ABOUT = (
    "Tries a mixer, ours or one by its address, under the laws of seqzoo.testing. With MIXER there "
    "are its --mixer.* flags too."
)
BROKEN = 1
WIDTH = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """How to try it."""

    width: int = 16  # d_model to build it with
    length: int = 128  # of the rows behind which tokens are put; at most 128
    both_ways: bool = False  # with causal=False, as in tasks that look at whole rows


def main(argv: Sequence[str]) -> int:
    """`seqzoo check MIXER`."""
    line = read(argv, place=True)
    fields = [bare_field("own", CheckOptions())]
    if line.place is None and not line.asks:
        raise ValueError(f"name a mixer: {USAGE}")
    name = line.place
    if name is not None:
        if "," in name:
            raise ValueError(f"check tries one mixer at a time; got {name!r}")
        code.name(*code.foreign(name, "").values())
        resolve(name)
        options = mixer_options(name, {})
        fields.append(("mixer", type(options), dataclasses.field(default=options)))
    parsed = parse(dataclasses.make_dataclass("Check", fields, kw_only=True), line, USAGE, ABOUT)
    causal = False if parsed.own.both_ways else None
    make = maker(name, dataclasses.asdict(parsed.mixer), causal=causal)
    report = examine(make, parsed.own.width, length=parsed.own.length)
    plain = issubclass(mixer(name), PlainMixer)
    claim = "looks both ways" if parsed.own.both_ways or not mixer(name).causal else "causal"
    print(f"{short(name)} ({claim}{', a plain module: it does not stream' if plain else ''})")
    for law, kept, expected, seen in report.results:
        seen = seen.replace("largest relative rms error", "error")
        if kept:
            print(f"  kept    {law:16} {expected[:WIDTH]} [{seen}]")
        else:
            print(f"  BROKEN  {law:16} {expected}\n{'':27}seen: {seen}\n{'':27}means: {means(law)}")
    broken = [result.law for result in report.broken]
    kept = len(report.results) - len(broken)
    print(
        f"{kept} of {len(report.results)} laws kept"
        + (f"; broken: {', '.join(broken)}" * bool(broken))
    )
    return BROKEN if broken else 0
