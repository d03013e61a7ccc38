"""What a program for a GPU starts: its kernels by kind, and how many of them a step has.

Read from the compiled text, loops as often as they run. A fusion is a kernel, so is a call of a
library, a copy and a collective; XLA may start a run of them as one CUDA graph, where each still
takes its turn.
"""

from __future__ import annotations

import collections
import re

from seqzoo.train.plan.hlo import COLLECTIVES, STILL, Instruction, Module

KINDS = ("triton", "cudnn", "library", "loop", "reduction", "copy", "collective", "other")
_FUSIONS = {"kLoop": "loop", "kInput": "reduction", "kOutput": "loop"}
_COPIES = ("copy", "dynamic-update-slice", "dynamic-slice", "slice", "concatenate")


def kernels(module: Module) -> dict[str, float]:
    """Kind -> kernels that one step starts on a device."""
    found: dict[str, float] = collections.Counter()
    for name in module.control:
        for instruction in module.computations[name]:
            kind = _kind(instruction)
            if kind:
                found[kind] += module.times[name]
    return {kind: found[kind] for kind in KINDS if found[kind]}


def _kind(i: Instruction) -> str:
    """The kind of a kernel; nothing where an instruction starts none."""
    opcode = i.opcode.removesuffix("-start")
    if opcode in STILL or opcode.endswith(("-done", "-update")):
        return ""
    if opcode in COLLECTIVES:
        return "collective"
    if opcode == "fusion":
        return _kind_of_fusion(i.rest)
    if opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', i.rest)
        return _kind_of_call(target[1] if target else "")
    return "copy" if opcode in _COPIES else "other"


def _kind_of_fusion(rest: str) -> str:
    own = re.search(r'"fusion_backend_config":\{[^}]*?"kind":"([^"]*)"', rest)
    if own and "triton" in own[1]:
        return "triton"
    if own and "cudnn" in own[1]:
        return "cudnn"
    kind = re.search(r"\bkind=(\w+)", rest)
    return _FUSIONS.get(kind[1] if kind else "", "other")


def _kind_of_call(target: str) -> str:
    if "triton" in target:
        return "triton"
    return "cudnn" if target.startswith("__cudnn") else "library"
