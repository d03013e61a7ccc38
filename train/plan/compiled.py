"""What a compiled program says of itself: memory, traffic and time."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax

from seqzoo.train.checked import checked, read_json
from seqzoo.train.devices.chips import Chip
from seqzoo.train.plan.hlo import Module, by_kind
from seqzoo.train.plan.kernels import kernels

Row = dict[str, Any]


class StoredRow(TypedDict):
    """What is read again of a row: why there is none, or what the tables show."""

    model: NotRequired[str]
    op: NotRequired[str]
    form: NotRequired[str]
    topology: NotRequired[str]
    length: NotRequired[int]
    error: NotRequired[str]
    seconds: NotRequired[float]
    fits: NotRequired[bool | None]
    flops: NotRequired[float]
    flops_per_token: NotRequired[float]
    peak_bytes: NotRequired[float | None]
    temporary_bytes: NotRequired[float | None]
    cycles_seconds: NotRequired[float | None]
    compiler_seconds: NotRequired[float | None]
    bound_seconds: NotRequired[float | None]
    bounds: NotRequired[Mapping[str, float] | None]
    collectives: NotRequired[Mapping[str, tuple[float, float]]]
    launches: NotRequired[float]
    without_triton: NotRequired[Mapping[str, float] | None]


def read_row(path: Path, named: Collection[str], measured: Collection[str]) -> Row:
    """A row that was written before: what it is of, and what was found or the error.

    Raises ValueError for what is none.
    """
    row = checked(read_json(path), StoredRow, str(path))
    needed = {*named} if "error" in row else {*named, *measured}
    if lacking := sorted(needed - row.keys()):
        raise ValueError(
            f"{path} has no {', '.join(lacking)}: remove it, and the row is made again"
        )
    return row


def no_memory(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether the compiler refused a program because it does not fit."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error)


def memory_of(compiled: Any, chip: Chip | None) -> Row:
    """What the program holds of a device's memory, and whether that fits."""
    memory = compiled.memory_analysis()
    temporary = memory.temp_size_in_bytes
    output = memory.output_size_in_bytes - memory.alias_size_in_bytes
    held = memory.argument_size_in_bytes + output
    found = getattr(memory, "peak_memory_in_bytes", 0) or 0
    if chip and not chip.launch and found:
        # A TPU's compiler adds up more temporaries than it allocates: of a program that it refuses
        # it names the peak, and that is what it holds against the chip.
        peak = max(held, found)
        temporary = min(temporary, peak - held)
    else:
        peak = max(held + temporary + memory.generated_code_size_in_bytes, found)
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": output,
        "temporary_bytes": temporary,
        "peak_bytes": peak,
        "fits": None if chip is None else peak <= chip.memory,
    }


def estimates(module: Module, compiled: Any, chip: Chip | None) -> Row:
    """Traffic with memory, and the compiler's two estimates of the time; None where it has none."""
    optimal = (compiled.cost_analysis() or {}).get("optimal_seconds", -1)
    cycles = module.cycles()
    return {
        "traffic_bytes": module.traffic(),
        # The compiler marks what it cannot estimate by negative numbers.
        "compiler_seconds": optimal if optimal > 0 else None,
        "cycles_seconds": cycles / chip.clock if chip and chip.clock and cycles else None,
    }


def times_of(compiled: Any, chip: Chip | None, row: Row) -> Row:
    """Collectives, estimates, and bounds from the operations in `row`."""
    module = Module(compiled.as_text())
    collectives = {kind: (count, sent) for kind, count, sent in by_kind(module.collectives())}
    out: Row = {
        "compiler_flops": (compiled.cost_analysis() or {}).get("flops"),  # bodies of loops once
        "collectives": collectives,
        "largest": module.largest(),
        "bound_seconds": None,
        **estimates(module, compiled, chip),
    }
    if chip is None:
        return out
    bounds = {
        "products": row["product_flops"] / row["devices"] / chip.flops,
        "memory": out["traffic_bytes"] / chip.bandwidth,
        "links": sum(sent for _, sent in collectives.values()) / chip.link,
    }
    if chip.launch:
        out |= launches_of(module)
        bounds["launches"] = out["launches"] * chip.launch
    bound = max(bounds.values())
    # As MFU is usually defined: of all operations, products alone count.
    return {
        **out,
        "bounds": bounds,
        "bound_seconds": bound,
        "utilisation": bounds["products"] / bound,
    }


def launches_of(module: Module) -> Row:
    """Kernels that a step starts, by kind and in all."""
    found = kernels(module)
    return {"kernels": found, "launches": sum(found.values())}


def refused(message: str) -> Row:
    """What the compiler says of a program that does not fit."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}

    def number(found: re.Match | None) -> float | None:
        return float(found[1]) * units[found[2]] if found else None

    largest = []
    for block in re.split(r"\n\s+\d+\. (?=Size:)", message)[1:6]:
        size = number(re.match(r"Size: ([\d.]+)([KMGT]?)", block))
        label = re.search(r'op_name="([^"]*)"', block) or re.search(r"Shape: (\S+)", block)
        largest.append((size or 0.0, label[1] if label else ""))
    return {
        "fits": False,
        "peak_bytes": number(re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)", message)),
        "largest": largest,
        "refusal": message.partition("\n")[0][:300],
    }
