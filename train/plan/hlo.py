"""What a compiled program moves: its collectives and its traffic with memory, from its HLO text.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the loop runs.
"""

from __future__ import annotations

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "collective-broadcast",
)
# Operations without traffic of their own.
STILL = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional"),
    *("call", "after-all", "partition-id", "replica-id", "opt-barrier", "iota"),
}
KERNEL = 'custom_call_target="tpu_custom_call"'  # of Pallas, for TPUs
_SLICES = ("dynamic-slice", "gather", "slice")
_BITS = {"pred": 8, "token": 0, "opaque": 0, "c64": 64, "c128": 128, "bf16": 16}
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.-]+) = (.*)")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes
    root: bool


class Collective(NamedTuple):
    """One collective of the program, over one step."""

    kind: str
    sent: float  # bytes that a device sends, over all times that it runs
    times: float


class Module:
    """A compiled program."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self._parse(text)
        self.times: dict[str, float] = collections.Counter()  # runs of each computation
        self.control: set[str] = set()  # computations that no fusion contains
        self._visit(self.entry, 1.0, True)

    def collectives(self) -> list[Collective]:
        """All collectives; what is split into start, steps and end counts once."""
        seen: dict[str, Collective] = {}
        for name, times in self.times.items():
            for i in self.computations[name]:
                kind = i.opcode.removesuffix("-start")
                if kind not in COLLECTIVES:
                    continue
                channel = re.search(r"channel_id=(\d+)", i.rest)
                key = f"{kind} {channel[1]}" if channel else f"{name} {i.name}"
                sent = times * _sent(kind, _made(i), _group_size(i.rest))
                # Its parts may lie in loops that run beside it; it starts once.
                if key not in seen or seen[key].times > times:
                    seen[key] = Collective(kind, sent, times)
        return list(seen.values())

    def traffic(self) -> float:
        """Bytes that a device reads from and writes to its memory in one step."""
        return sum(moved for *_, moved in self.operations())

    def cycles(self) -> float:
        """The compiler's estimate of the cycles of one step, where it gives one (TPU); or 0.

        What it cannot estimate has 2^63 - 1 cycles, and then the step has no estimate either; nor
        has one with kernels, of which it says nothing.
        """
        found = self.operations()
        kernels = any(KERNEL in i.rest for i, *_ in found if i.opcode == "custom-call")
        total = sum(cycles for _, _, cycles, _ in found)
        return 0.0 if kernels or total >= 2**62 else total

    def operations(self) -> list[tuple[Instruction, float, float, float]]:
        """Each with the times it runs, and over all of them its cycles and the bytes it moves."""
        found = []
        for name in self.control:
            times, shapes = self.times[name], {i.name: i.shape for i in self.computations[name]}
            for i in self.computations[name]:
                cycles = re.search(r'"estimated_cycles":"(\d+)"', i.rest)
                own = float(cycles[1]) if cycles else 0.0
                found.append((i, times, times * own, times * self._moved(i, shapes)))
        return found

    def largest(self, count: int = 5) -> list[tuple[float, str]]:
        """The largest values in memory: bytes, and what computes them."""
        best: dict[str, float] = {}
        for name in self.control:
            for i in self.computations[name]:
                if i.opcode not in STILL or (i.opcode == "parameter" and name == self.entry):
                    source = re.search(r'op_name="([^"]*)"', i.rest)
                    label = f"{source[1] if source else i.opcode} {_ARRAY.sub(_short, i.shape)}"
                    size = max(_parts(i.shape), default=0)
                    best[label] = max(best.get(label, 0), size)
        return sorted(((n, label) for label, n in best.items()), reverse=True)[:count]

    def _parse(self, text: str) -> None:
        current: list[Instruction] = []
        for line in text.splitlines():
            if line.endswith("{") and "(" in line and not line.startswith(" "):
                words = line.split()
                name = words[1] if words[0] == "ENTRY" else words[0]
                current = self.computations.setdefault(name.lstrip("%"), [])
                if words[0] == "ENTRY":
                    self.entry = name.lstrip("%")
            elif found := _INSTRUCTION.match(line):
                current.append(_instruction(found[2], found[3], bool(found[1])))

    def _visit(self, name: str, times: float, control: bool) -> None:
        self.times[name] += times
        if control:
            self.control.add(name)
        for i in self.computations[name]:
            if i.opcode == "while":
                body, condition = _named(i.rest, "body")[0], _named(i.rest, "condition")[0]
                runs = times * self._trips(i.rest, condition)
                self._visit(body, runs, control)
                self._visit(condition, runs, False)
            elif i.opcode in ("conditional", "call", "fusion") or i.opcode.endswith("-start"):
                inner = control and i.opcode != "fusion"
                for key in (
                    "branch_computations",
                    "true_computation",
                    "false_computation",
                    "calls",
                    "called_computations",
                ):
                    for called in _named(i.rest, key):
                        self._visit(called, times, inner)
                if i.opcode == "call":
                    for called in _named(i.rest, "to_apply"):
                        self._visit(called, times, inner)

    def _trips(self, rest: str, condition: str) -> int:
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
        if known:
            return int(known[1])
        names = [condition]
        for i in self.computations[condition]:
            names += _named(i.rest, "calls")
        limits = [
            int(i.operands[0])
            for name in names
            for i in self.computations[name]
            if i.opcode == "constant" and i.shape.startswith("s32[]") and i.operands[0].isdigit()
        ]
        return max(limits, default=1)

    def _moved(self, i: Instruction, shapes: dict[str, str]) -> float:
        if i.opcode in STILL or i.opcode.endswith("-done"):
            return 0
        out = sum(_parts(i.shape, slow=True))
        if i.opcode in _SLICES:
            return 2 * out
        if i.opcode == "dynamic-update-slice":
            return 2 * _bytes_of(i.operands[1], shapes)
        if i.opcode.endswith("-start"):  # its result holds operand and result
            return out
        if i.opcode == "fusion":
            inner = _named(i.rest, "calls")[0]
            read = sum(
                self._read(inner, n, _bytes_of(name, shapes)) for n, name in enumerate(i.operands)
            )
            return read + (self._written(inner) if out else 0)
        return out + sum(_bytes_of(name, shapes) for name in i.operands)

    def _read(self, fusion: str, number: int, size: float) -> float:
        """What a fusion reads of an operand of `size` bytes: the slices that it takes of it."""
        if size == 0:  # in fast memory, or no operand at all
            return 0.0
        lines = self.computations[fusion]
        name = next(
            i.name for i in lines if i.opcode == "parameter" and i.operands[0] == str(number)
        )
        return min(size, self._used(lines, name, size))

    def _used(self, lines: list[Instruction], name: str, size: float) -> float:
        total = 0.0
        for i in lines:
            for place, operand in enumerate(i.operands):
                if operand != name or i.opcode == "parameter":
                    continue
                if i.opcode == "bitcast" or "output_to_operand_aliasing" in i.rest:
                    total += self._used(lines, i.name, size)
                elif i.opcode == "fusion":
                    total += self._read(_named(i.rest, "calls")[0], place, size)
                elif i.opcode in _SLICES and place == 0:
                    total += sum(_parts(i.shape))
                elif i.opcode in COLLECTIVES:  # a step of it in every turn of a loop
                    continue
                elif i.opcode != "tuple" and (i.opcode != "dynamic-update-slice" or place):
                    total += size
        return total

    def _written(self, fusion: str) -> float:
        """What a fusion writes: of a value that it updates in place only the new part."""
        lines = {i.name: i for i in self.computations[fusion]}

        def of(i: Instruction) -> float:
            if i.opcode == "tuple":
                return sum(of(lines[name]) for name in i.operands)
            if i.opcode == "bitcast" and i.operands[0] in lines:
                return of(lines[i.operands[0]])
            if i.opcode in COLLECTIVES or i.opcode == "parameter":  # stays where it is
                return 0
            if i.opcode == "dynamic-update-slice":
                return _bytes_of(i.operands[1], {n: own.shape for n, own in lines.items()})
            if i.opcode == "fusion":
                return self._written(_named(i.rest, "calls")[0])
            return sum(_parts(i.shape, slow=True))

        return of(next(i for i in lines.values() if i.root))


def _instruction(name: str, text: str, root: bool) -> Instruction:
    shape, text = _balanced(text) if text.startswith("(") else text.split(" ", 1)
    opcode, _, after = text.strip().partition("(")
    operands, rest = _balanced("(" + after)
    inside = operands[1:-1]
    names = re.findall(r"%([\w.-]+)", inside) or [inside]
    return Instruction(name, shape, opcode, tuple(names), rest, root)


def _balanced(text: str) -> tuple[str, str]:
    """The parenthesis that the text starts with, and what follows."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    return text, ""


def _made(i: Instruction) -> float:
    """Bytes that a collective makes, of one array or several joined; a start's operands are not."""
    starts = i.opcode.endswith("-start") and i.opcode != "all-reduce-start"
    return sum(_parts(_elements(i.shape)[1] if starts else i.shape))


def _elements(shape: str) -> list[str]:
    """The shapes that a tuple holds, tuples among them."""
    found, depth, start = [], 0, 1
    for place, char in enumerate(shape):
        depth += (char in "([{") - (char in ")]}")
        if (char == "," and depth == 1) or depth == 0:
            found.append(shape[start:place].strip())
            start = place + 1
    return found


def _parts(shape: str, *, slow: bool = False) -> list[float]:
    """Bytes of each array of a shape; `slow`: only of those that lie in the main memory."""
    return [
        _size(kind, dims)
        for kind, dims, layout in _ARRAY.findall(shape)
        if not (slow and re.search(r"S\([1-9]", layout))
    ] or [0.0]


def _size(kind: str, dims: str) -> float:
    found = re.search(r"\d+", kind)
    bits = _BITS[kind] if kind in _BITS else int(found[0]) if found else 0
    return math.prod(int(d.lstrip("<=")) for d in dims.split(",") if d) * bits / 8


def _bytes_of(name: str, shapes: dict[str, str]) -> float:
    return sum(_parts(shapes[name], slow=True)) if name in shapes else 0.0


def _named(rest: str, key: str) -> list[str]:
    """Computations that an attribute names."""
    found = re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.-]+)", rest)
    return re.findall(r"%?([\w.-]+)", found[1]) if found else []


def _short(array: re.Match) -> str:
    return f"{array[1]}[{array[2]}]"


def _group_size(rest: str) -> int:
    """Devices that take part in a collective together; written in one of three ways."""
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return len(found[1].split(","))
    return 2


def _sent(kind: str, size: float, n: int) -> float:
    """Bytes that a device sends for a result of `size` bytes among `n`, in a ring."""
    if kind == "all-reduce":
        return 2 * size * (n - 1) / n
    if kind == "reduce-scatter":
        return size * (n - 1)
    return size if "permute" in kind else size * (n - 1) / n


def by_kind(collectives: list[Collective]) -> Iterator[tuple[str, int, float]]:
    """Kind, how many of them run in a step, and bytes that a device sends for them."""
    for kind in COLLECTIVES:
        own = [c for c in collectives if c.kind == kind]
        if own:
            yield kind, round(sum(c.times for c in own)), sum(c.sent for c in own)
