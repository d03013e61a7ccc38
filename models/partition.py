"""Which mesh axes divide which parameter.

One table maps parameter paths to mesh axes; it speaks of trailing dimensions, so that stacked
layers need no entry of their own. What no rule names is divided by shape: its largest dimension
that `fsdp` divides. Modules carry none of this.
"""

from __future__ import annotations

import math
import re

from jax.sharding import AbstractMesh, Mesh, PartitionSpec

SMALL = 2**12  # elements; below, dividing by shape costs more in messages than it saves

# Pattern of the path's end -> axes of the trailing dimensions; the first that matches counts.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"(position_)?embed(ding)?(/embedding)?", ("tensor", "fsdp")),
    (r"experts/(up|gate)_proj/kernel", ("expert", "fsdp", "tensor")),
    (r"experts/down_proj/kernel", ("expert", "tensor", "fsdp")),
    (r"(out|down)_proj/kernel", ("tensor", "fsdp")),
    (r"(\w+_proj|head\w*)/kernel", ("fsdp", "tensor")),
    (r"layers/\d+/kernel", ("fsdp", "tensor")),  # of the heads behind views
    (r"prototypes", ("tensor", "fsdp")),
    (r"hidden_kernel(/\d+)?", ("fsdp", "tensor")),  # one, or a list of them
    (r"experts/(up|gate)_proj/lora_a", ("expert", "fsdp", None)),  # as the kernels' own axes
    (r"experts/down_proj/lora_a", ("expert", "tensor", None)),
    (r"experts/(up|gate)_proj/lora_b", ("expert", None, "tensor")),
    (r"experts/down_proj/lora_b", ("expert", None, "fsdp")),
    (r"(out|down)_proj/lora_a", ("tensor", None)),
    (r"(out|down)_proj/lora_b", (None, "fsdp")),
    (r"\w+/lora_a", ("fsdp", None)),
    (r"\w+/lora_b", (None, "tensor")),
    (r"\w+/magnitude", (None,)),
    (r"(out|down)_proj/bias", (None,)),
    (r"(\w+_proj|head\w*)/bias", ("tensor",)),
    (r"(scale|bias|hidden_bias|hidden_scale|key_scale|distance_scale|dt_bias|initial)", (None,)),
    (r"conv(/kernel)?", (None, None)),
    (r"projection|calls|code_\w+", ()),  # random directions and their count; codebooks
    (r"queue|centre|followed", ()),  # targets of earlier batches
    (r"B_\w+", ("tensor", "fsdp")),  # LRU's dense maps into and out of the state
    (r"C_\w+", ("fsdp", "tensor")),
    (r"(log_\w+|\w+_log|decay(_\w+)?|bonus|mix|A_\w+|B_\w+|C_\w+|P_\w+|D)", ()),
)
_COMPILED = tuple((re.compile(rf"(?:.*/)?(?:{pattern})"), axes) for pattern, axes in RULES)


def partition(
    path: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh
) -> tuple[PartitionSpec, bool]:
    """The axes of a variable, and whether a rule named it."""
    for pattern, axes in _COMPILED:
        if pattern.fullmatch(path) and len(axes) <= len(shape):
            lead = len(shape) - len(axes)
            # An axis that does not divide its dimension is left out rather than padded.
            fits = [
                axis if axis in mesh.shape and n % mesh.shape.get(axis, 1) == 0 else None
                for axis, n in zip(axes, shape[lead:], strict=True)
            ]
            return PartitionSpec(*(None,) * lead, *fits), True
    return _by_shape(shape, mesh.shape.get("fsdp", 1)), False


def _by_shape(shape: tuple[int, ...], size: int) -> PartitionSpec:
    divisible = [(n, i) for i, n in enumerate(shape) if n % size == 0]
    if size == 1 or not divisible or math.prod(shape) < SMALL:
        return PartitionSpec()
    _, best = max(divisible)
    return PartitionSpec(*("fsdp" if i == best else None for i in range(len(shape))))
