"""How long a TPU's compiler takes what an op does there to last, kernels of Pallas included.

    python docs/kernels_tpu.py "dplr_delta_rule/chunks, walk" "dplr_delta_rule/chunks, mosaic"

Rows are those of `seqzoo plan --forms`, compiled for a v5e, which need not be here (libtpu must):
forward and backward over 2,048 tokens. For operations of XLA it sums the compiler's cycles.
Of a kernel the compiler gives no cycles, but it can write down the schedule: bundles, of what is
issued together. Those in the loop over its grid, and in a loop in that, count as often as they run,
and no wait for memory is in it. The largest operations follow, with how often they run and what
they move.
"""

from __future__ import annotations

import collections
import math
import os
import re
import sys
import tempfile
from pathlib import Path

DUMP = Path(tempfile.mkdtemp())
LENGTH, LARGEST, TOPOLOGY = 2048, 10, "v5e:1x1"
os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={DUMP} --xla_jf_dump_llo_text=true"

from seqzoo.train.devices.chips import chip_of  # noqa: E402
from seqzoo.train.plan.forms import lowered_form  # noqa: E402
from seqzoo.train.plan.hlo import KERNEL, Module  # noqa: E402
from seqzoo.train.plan.primitives import form_of  # noqa: E402
from seqzoo.train.plan.topology import Plan, devices_of  # noqa: E402


def bundles(module: Module) -> float:
    """That the kernels of the last program issue, those in loops as often as they run."""
    names = [i.name for i, *_ in module.operations() if KERNEL in i.rest]
    return sum(
        _in_loops(path) for name in names for path in DUMP.glob(f"*-{name}-??-final_bundles.txt")
    )


def _in_loops(path: Path) -> float:
    """Loops must be within one another: the grid's first."""
    own, times = collections.Counter(), {0: 1}
    for line in path.read_text().splitlines():
        if found := re.match(r"\s*0(?:x\w+)?\s+(?:\w\w)?\s*: (>*)", line):
            depth = len(found[1])
            own[depth] += 1
            if ends := re.search(r"totalorder %s\w+, (\d+) /\* loop exit test", line):
                if depth in times:
                    raise SystemExit(f"{path.name}: loops beside one another")
                times[depth] = int(ends[1])
    return sum(n * math.prod(times[d] for d in range(depth + 1)) for depth, n in own.items())


def main(rows: list[str]) -> None:
    """Prints a paragraph for each row."""
    device = devices_of(Plan(topology=TOPOLOGY))[0]
    clock = chip_of(device).clock
    for row in rows:
        for path in DUMP.iterdir():
            path.unlink()
        module = Module(lowered_form(form_of(row), LENGTH, device)[0].compile().as_text())
        found = sorted(module.operations(), key=lambda operation: -operation[2])
        rest, kernels = sum(cycles for _, _, cycles, _ in found) / clock, bundles(module) / clock
        print(f"{row}: {1e3 * (rest + kernels):.3f} ms, of it in kernels {1e3 * kernels:.3f}")
        for i, times, cycles, moved in found[:LARGEST]:
            source = re.search(r'op_name="([^"]*)"', i.rest)
            what = f"{i.opcode} {i.shape[:60]} {source[1][-60:] if source else ''}"
            print(
                f"    {1e3 * cycles / clock:.3f} ms x {times:.0f}, {moved / 2**20:.1f} MiB: {what}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
