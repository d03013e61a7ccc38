"""`seqzoo report DIR`: one page of a comparison, of several, or of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.compare.page import write_report

USAGE = "seqzoo report DIR"


def main(argv: Sequence[str]) -> int:
    """`seqzoo report DIR`."""
    line = read(argv, place=True)
    about = "Writes DIR/report.html, one page that loads nothing."
    parse(dataclasses.make_dataclass("Report", []), line, USAGE, about)
    print(write_report(place_of(line, USAGE)))
    return 0
