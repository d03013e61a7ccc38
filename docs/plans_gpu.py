"""The table of docs/plans_gpu.md: a train step of every mixer, compiled for eight H100.

    python docs/plans_gpu.py [NAME ...]     # every mixer; needs the extra `plan-gpu`, and no GPU

A row takes a minute. Each is kept in docs/plans_gpu.json as it is made, with the page, and the same
command goes on with what is missing; a row to be made again is one taken out of that file.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

from seqzoo.models.mixers import MIXERS
from seqzoo.train.bench.atlas import FIRST
from seqzoo.train.cli.command import dispatch
from seqzoo.train.folder.files import write_atomically

HERE = Path(__file__).parent
ROWS, PAGE = HERE / "plans_gpu.json", HERE / "plans_gpu.md"
SIZE = {
    "--task": "listops",
    "--topology": "h100:8",
    "--backbone.depth": "24",
    "--backbone.d-model": "1024",
    "--backbone.dtype": "bfloat16",
    "--backbone.remat": "full",
    "--length": "2048",
    "--batch-size": "64",
    "--mesh.data": "1",
    "--mesh.fsdp": "-1",
}


def main(names: list[str]) -> None:
    """Makes the rows that are missing, and the page after each."""
    rows = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    wanted = [name for name in names or dict.fromkeys((*FIRST, *MIXERS)) if name not in rows]
    with tempfile.TemporaryDirectory() as made:
        for name, row in rows.items():
            (Path(made) / f"{name}.json").write_text(json.dumps(row))
        for name in wanted:
            flags = [word for pair in SIZE.items() for word in pair]
            table = ["--models", name, "--out", made, "--page", str(PAGE.relative_to(HERE.parent))]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.chdir(HERE.parent):
                if dispatch(["plan", "--all", *flags, *table]):
                    sys.exit(1)
            row = rows[name] = json.loads((Path(made) / f"{name}.json").read_text())
            lines = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
            write_atomically(ROWS, "{\n" + ",\n".join(lines) + "\n}\n")
            print(name, row.get("error", "done"), f"{row['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
