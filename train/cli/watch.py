"""`seqzoo watch DIR`: a comparison or a run while it works, in the terminal."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live

from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.folder.files import run_path
from seqzoo.train.out.console import redraws
from seqzoo.train.out.watch import look, shown

USAGE = "seqzoo watch DIR"


@dataclasses.dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """How to look."""

    every: float = 2.0  # seconds between looks
    once: bool = False  # look once and end, as where there is no terminal


def main(argv: Sequence[str]) -> int:
    """`seqzoo watch DIR`; ends when all is through, or by Ctrl-C."""
    about = "Curves, rows as they come, time left; reads files only."
    options = parse(WatchOptions, line := read(argv, place=True), USAGE, about)
    if not options.every > 0:
        raise ValueError(f"--every must be positive seconds; got {options.every}")
    folder, console = run_path(place_of(line, USAGE)), Console()
    found = look(folder)
    if options.once or not redraws(console):
        console.print(shown(found))
        return 0
    with Live(shown(found), console=console, auto_refresh=False) as live:
        try:
            while not found.through:
                time.sleep(options.every)
                found = look(folder)
                live.update(shown(found), refresh=True)
        except KeyboardInterrupt:
            return 0
    return 0
