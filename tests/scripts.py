"""Scripts of docs/: what they define, and that the pictures kept there are theirs."""

import runpy
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from unittest import mock

import numpy as np

DOCS = Path(__file__).parents[1] / "docs"


def script(name: str) -> dict:
    """What docs/NAME.py defines."""
    return runpy.run_path(str(DOCS / f"{name}.py"))


def redrawn(name: str, folder: Path) -> int:
    """How many lines the picture of docs/NAME.py has; each is the kept one's to 0.2 of a pixel."""
    program, target = str(DOCS / f"{name}.py"), folder / f"{name}.svg"
    with mock.patch.object(sys, "argv", [program, str(target)]):  # as typed
        runpy.run_path(program, run_name="__main__")
    drawn, kept = (_polylines(path) for path in (target, DOCS / f"{name}.svg"))
    assert len(drawn) == len(kept)
    for ours, theirs in zip(drawn, kept, strict=True):
        assert np.abs(ours - theirs).max() < 0.2
    return len(drawn)


def _polylines(path: Path) -> list[np.ndarray]:
    lines = ElementTree.parse(path).getroot().findall(".//{*}polyline")
    return [np.array(line.get("points").replace(",", " ").split(), float) for line in lines]
