"""How near each mixer comes to three budgets of each cost: the table of docs/matching.md.

python docs/matching.py parameters state flops      # into docs/matching.json, row by row
python docs/matching.py time
python docs/matching.py                             # writes the table
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.mixers import MIXERS
from seqzoo.models.registry import mixer
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.cost.match import WORDS, matched
from seqzoo.train.devices.backend import reuse_memory

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "matching.json", HERE / "matching.md"
START = "\n<!-- made by docs/matching.py -->\n"
BUDGETS = {
    "parameters": (60_000, 150_000, 600_000),
    "state": (4_096, 16_384, 65_536),
    "flops": (5e7, 2e8, 8e8),
    "time": (0.01, 0.02, 0.04),
}


def experiment(name: str) -> Experiment:
    """Two blocks of width 64 on rows of 64 tokens."""
    return Experiment(
        task=tasks.build("mqar", length=64, num_pairs=8, vocab_size=80),
        model=name,
        backbone=BackboneConfig(causal=mixer(name).causal_form),
        train=TrainConfig(batch_size=4),
    )


def measure(metrics: list[str]) -> None:
    """Adds the rows that are not there yet."""
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    for asked in metrics:
        metric, _, names = asked.partition(":")
        for name in names.split(",") if names else MIXERS:
            for budget in BUDGETS[metric]:
                key = f"{metric} {name} {budget:g}"
                if key in rows:
                    continue
                try:
                    (found,) = matched({name: experiment(name)}, metric, budget).values()
                    rows[key] = [found.difference, found.words(metric)]
                except ValueError as error:
                    rows[key] = [None, str(error)]
                ROWS.write_text(json.dumps(rows, indent=0))


def table(rows: dict) -> str:
    """The residuals, a line for each mixer, and what they come to."""
    columns = [(m, b) for m in BUDGETS for b in BUDGETS[m]]
    out = ["## How near each mixer comes", "", summary(rows), ""]
    if any(f"{m} {name} {b:g}" not in rows for m, b in columns for name in MIXERS):
        out += ["Cells without a number are not measured yet; the script goes on where it was.", ""]
    out += ["| mixer | " + " | ".join(f"{m} {b:g}" for m, b in columns) + " |"]
    out += ["|---|" + "---:|" * len(columns)]
    for name in MIXERS:
        cells = (cell(rows.get(f"{m} {name} {b:g}")) for m, b in columns)
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def cell(row: list | None) -> str:
    """A relative difference, or why there is none."""
    if row is None:
        return ""
    if row[0] is None:
        return "no state" if "no state" in row[1] else "none near"
    return f"{100 * row[0]:+.1f}%"


def summary(rows: dict) -> str:
    """How many of each cost are within 3%."""
    parts = []
    for metric in BUDGETS:
        own = [abs(d) for k, (d, _) in rows.items() if k.startswith(f"{metric} ") and d is not None]
        if own:
            near = sum(d <= 0.03 for d in own)
            middle = statistics.median(own)
            text = f"{near} of {len(own)} within 3%, median {middle:.2%}, largest {max(own):.1%}"
            parts.append(f"{WORDS[metric]}: {text}")
    return "; ".join(parts) + "."


if __name__ == "__main__":
    if sys.argv[1:]:
        reuse_memory()
        measure(sys.argv[1:])
    else:
        head = PAGE.read_text().partition(START)[0]
        PAGE.write_text(head + START + "\n" + table(json.loads(ROWS.read_text())))
