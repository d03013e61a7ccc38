"""One row of a report, made by a process of its own: what the device is, a check or a time."""

from __future__ import annotations

from typing import Any

import jax

from seqzoo.train import code
from seqzoo.train.bench.atlas import Cell, timed
from seqzoo.train.bench.options import Bench, kinds_of
from seqzoo.train.bench.peers import PACKAGES, absent, peers
from seqzoo.train.devices import backend
from seqzoo.train.devices.chips import chip_of
from seqzoo.train.devices.flops import operations
from seqzoo.train.measured.checks import Check, compared, plainly
from seqzoo.train.plan.apart import answered
from seqzoo.train.plan.compiled import memory_of, times_of

Row = dict[str, Any]
KEPT = ("peak_bytes", "bounds", "bound_seconds", "launches", "compiler_seconds", "cycles_seconds")


def answer(request: Row) -> Row:
    """The row of a request in plain data."""
    backend.keep_compiled()
    if request["what"] == "device":
        return _device()
    with plainly(request["forms"]):
        if request["what"] == "check":
            return compared(Check(**request["check"]))
        cell, own = Cell(**request["cell"]), request["bench"]
        code.name(*code.foreign(",".join(kinds_of(own["models"]).values()), "").values())
        row = timed(Bench(**own), cell, _against_plan)
    row["median_seconds"] = row.pop("seconds")  # those of the process have this name
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak and "peer" not in row:
        row["held_bytes"] = peak  # by this process: nothing else ran in it
    return row


def _device() -> Row:
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "peers": list(peers()),
        "absent": {name: why for name in PACKAGES if (why := absent(name))},
    }


def _against_plan(compiled: Any, function: Any, args: tuple) -> Row:
    """What `seqzoo plan` would say of the program that is timed."""
    counted, chip = operations(function, *args), chip_of(jax.devices()[0])
    row: Row = {"flops": counted.total, "product_flops": counted.products, "devices": 1}
    plan = memory_of(compiled, chip) | times_of(compiled, chip, row)
    return row | {name: plan[name] for name in KEPT if plan.get(name) is not None}


if __name__ == "__main__":
    answered(answer)
