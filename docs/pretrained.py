"""Writes the table of docs/pretrained.md: loaded models beside what the published library gave.

    python docs/pretrained.py

Small models with random weights, in tests/golden/hf; float32 on this machine's CPU.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for tests/, which is no part of the package

from tests.models.pretrained.published import FORMS, NAMES, differences  # noqa: E402

PAGE = ROOT / "docs" / "pretrained.md"
BEGIN, END = "<!-- written by docs/pretrained.py -->", "<!-- end -->"


def table() -> str:
    """One line a model, one column a form."""
    head = ["model", *FORMS]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in NAMES:
        found = differences(name)
        cells = [f"{found[form]:.1e}" if form in found else "" for form in FORMS]
        lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
        print(lines[-1])
    return "\n".join(lines)


def main() -> None:
    """Puts the table between its marks."""
    jax.config.update("jax_default_matmul_precision", "highest")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
