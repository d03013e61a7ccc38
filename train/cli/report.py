"""`seqzoo report DIR`: one page of a comparison, of several, of a run; tables and figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.compare.page import comparisons_in, write_report
from seqzoo.train.folder.files import run_path
from seqzoo.train.out.report import write_figures, write_tables

USAGE = "seqzoo report DIR"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """What to write besides the page."""

    csv: bool = False  # results.csv, a row a run
    latex: bool = False  # results.tex, a table a task
    svg: bool = False  # figures/*.svg
    png: bool = False  # figures/*.png; needs the extra `png`


def main(argv: Sequence[str]) -> int:
    """`seqzoo report DIR`."""
    line = read(argv, place=True)
    about = "Writes DIR/report.html, one page that loads nothing, and what is asked for beside it."
    options = parse(ReportOptions, line, USAGE, about)
    folder = run_path(place_of(line, USAGE))
    made = []
    if options.csv or options.latex or options.svg or options.png:
        found = comparisons_in(folder)
        made = write_figures(found, folder, svg=options.svg, png=options.png)
        made += write_tables(found, folder, csv=options.csv, latex=options.latex)
    for path in (write_report(folder), *made):
        print(path)
    return 0
