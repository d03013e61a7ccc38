"""The report of a device as one page of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
TITLES = {
    "forward_backward": "Forward and backward of one mixer",
    "train": "A train step of two blocks, embedding, head and AdamW included",
}
COLUMNS = ("", "ms", "tokens/s", "at least, ms", "by", "share", "MiB planned", "held", "launches")
ABOUT = """\
Times are the least of several calls behind a first one. "At least" is what `seqzoo plan` says of
the same program: the largest of products, memory and, on GPUs, half a microsecond a kernel, at the
chip's published peaks; "share" is that over the time, 100% where nothing could be faster.
"Planned" is the compiler's peak of memory, "held" the most that the process had of the device.
Layers of other packages have their names in front; ours over theirs is the ratio of speeds, above 1
where ours is faster.
"""
KERNELS = """\
A kernel against the plain form of its op, in the mixer named: the distance from exact numbers of
outputs and gradients, the farthest of them, with the kernel / without. A kernel may be four times
as far as the plain form; one that fails is not used by the rows below. SEQZOO_FORMS="OP=FORM"
keeps it from other commands.
"""


def page(found: Mapping[str, Any]) -> str:
    """What is known so far."""
    settings = dict(found["settings"])
    absent = settings.pop("absent", {})
    rows = found["rows"]
    lines = [
        f"# {settings['device']}, measured beside its plan",
        "",
        "    seqzoo bench --atlas --device-report DIR",
        "",
        ", ".join(f"{name} {value}" for name, value in settings.items() if value) + ".",
        *(f"No layers of {name}: {why}." for name, why in absent.items()),
        "",
        ABOUT,
    ]
    kernels = [row for row in rows if row["what"] == "check"]
    if kernels:
        lines += ["## Kernels", "", KERNELS, *_kernels(kernels), ""]
    timed = [row for row in rows if row["what"] == "time"]
    groups = dict.fromkeys(_group(row) for row in timed)
    for what, length, batch in groups:
        own = [row for row in timed if _group(row) == (what, length, batch)]
        lines += [f"## {TITLES[what]}, {batch} x {length:,} tokens", "", *_times(own), ""]
    return "\n".join(lines)


def _group(row: Row) -> tuple[str, int, int]:
    return row["cell"]["what"], row["cell"]["length"], row["cell"]["batch"]


def _kernels(rows: Sequence[Row]) -> list[str]:
    lines = ["| mixer | op | form |  | distances |", "|---" * 5 + "|"]
    for row in rows:
        distances = ", ".join(
            f"{name} {_short(own)} / {_short(plain)}"
            for name, (own, plain) in row.get("distances", {}).items()
        )
        verdict = row.get("error") or ("right" if row["ok"] else "WRONG")
        op, form = row["check"]["op"], row.get("form", "")
        verdict = verdict.replace("|", "/")
        lines.append(f"| `{row['name']}` | {op} | {form} | {verdict} | {distances} |")
    return lines


def _times(rows: Sequence[Row]) -> list[str]:
    best = {row["cell"]["model"]: row.get("best_seconds") for row in rows}
    beside: dict[str, list[str]] = {}
    for row in rows:
        package, _, model = row["cell"]["model"].partition(" ")
        if row.get("peer") and row.get("best_seconds") and best.get(model):
            ratio = row["best_seconds"] / best[model]
            beside.setdefault(model, []).append(f"{package} {ratio:.2f}")
    lines = [f"| {' | '.join(COLUMNS)} | ours over theirs |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in rows:
        name = row["cell"]["model"]
        shown = name if row.get("peer") else f"`{name}`"
        if row["forms"]:
            shown += f" (plain {', '.join(row['forms'])})"
        if "error" in row:
            empty = "| " * len(COLUMNS)
            lines.append(f"| {shown} | {row['error'].replace('|', '/')} {empty}|")
            continue
        cells = [shown, *_cells(row), ", ".join(beside.get(name, ()))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _cells(row: Row) -> list[str]:
    bound, best, bounds = row.get("bound_seconds"), row["best_seconds"], row.get("bounds") or {}
    return [
        _short(1e3 * best),
        f"{row['tokens_per_second']:,.0f}",
        _short(None if bound is None else 1e3 * bound),
        max(bounds, key=bounds.get) if bounds else "",
        "" if bound is None else f"{bound / best:.0%}",
        _mib(row.get("peak_bytes")),
        _mib(row.get("held_bytes")),
        "" if "launches" not in row else f"{row['launches']:,.0f}",
    ]


def _mib(size: float | None) -> str:
    return "" if size is None else f"{size / 2**20:,.0f}"


def _short(x: float | None) -> str:
    return "" if x is None else f"{x:.3g}"
