"""The files that `seqzoo report` writes beside the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from seqzoo.train.compare.overview import drawing
from seqzoo.train.compare.page import alone
from seqzoo.train.compare.results import Comparison
from seqzoo.train.folder.files import write_atomically
from seqzoo.train.out.figures import figures
from seqzoo.train.out.tables import csv_text, latex_text

CSV, LATEX, FIGURES, OVERVIEW = "results.csv", "results.tex", "figures", "overview"
SCALE = 3  # pixels of a PNG for a unit of its SVG


def write_tables(
    comparisons: Sequence[Comparison], folder: Path, *, csv: bool, latex: bool
) -> list:
    """Writes the tables that are asked for; their paths."""
    made = []
    for wanted, name, text in ((csv, CSV, csv_text), (latex, LATEX, latex_text)):
        if wanted:
            write_atomically(folder / name, text(comparisons))
            made.append(folder / name)
    return made


def write_figures(
    comparisons: Sequence[Comparison], folder: Path, *, svg: bool, png: bool
) -> list[Path]:
    """Writes the figures in the forms that are asked for; their paths.

    Raises ValueError for PNG without the extra that draws it, before anything is written.
    """
    if not (svg or png):
        return []
    draw = _renderer() if png else None
    made, several = [], drawing(comparisons)
    drawn = [figure for comparison in comparisons for figure in figures(comparison)]
    drawn += [(OVERVIEW, alone(several))] if several else []
    for name, text in drawn:
        path = folder / FIGURES / re.sub(r"[^\w.-]+", "_", name)
        path.parent.mkdir(exist_ok=True)
        if svg:
            write_atomically(path.with_name(f"{path.name}.svg"), text)
            made.append(path.with_name(f"{path.name}.svg"))
        if draw:
            place = path.with_name(f"{path.name}.png")
            place.write_bytes(bytes(draw(svg_string=text, zoom=SCALE)))
            made.append(place)
    return made


def _renderer() -> object:
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise ValueError(
            "--png needs a renderer: pip install 'seqzoo[png]', or take --svg, which needs none"
        ) from None
    return svg_to_bytes
