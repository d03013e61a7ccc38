"""How a picture becomes a row: its pixels one by one, as tokens or as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.stored import StoredTask
from seqzoo.tasks.protocols import ProtocolTask
from seqzoo.tasks.task import Example

Pixels = Literal["continuous", "tokens"]


def check_pixels(task: StoredTask) -> None:
    """Raises ValueError for another kind of pixels."""
    if task.pixels not in get_args(Pixels):
        raise ValueError(
            f"task {task.name}: pixels must be 'continuous' or 'tokens'; got {task.pixels!r}"
        )


def pixel_spec(task: ProtocolTask, length: int, classes: int) -> ModelSpec:
    """A picture as 256 tokens, or as one number a step; a token in front where it is read out."""
    common = {"head": "classify", "outputs": classes, "pooling": task._pooling}
    if task.setting("pixels") == "tokens":
        return ModelSpec(vocab_size=256 + task.cls, length=length + task.cls, **common)
    return ModelSpec(features=1, length=length, **common)


def pixel_example(
    task: ProtocolTask, grey: UInt8[np.ndarray, "L"], target: int, mean: float, std: float
) -> Example:
    """Grey values as `pixel_spec` says."""
    if task.setting("pixels") == "tokens":
        inputs = grey.astype(np.int32)
        inputs = np.concatenate([[256], inputs]).astype(np.int32) if task.cls else inputs
    else:
        inputs = (grey.astype(np.float32)[:, None] / 255 - np.float32(mean)) / np.float32(std)
    return {"inputs": inputs, "targets": np.int32(target)}


def pixel_values(
    task: ProtocolTask, example: Mapping[str, np.ndarray], mean: float, std: float
) -> Float32[np.ndarray, "L"]:
    """The grey values of `pixel_example`, in [0, 1]."""
    inputs = np.asarray(example["inputs"])
    if task.setting("pixels") == "tokens":
        return inputs[int(task.cls) :].astype(np.float32) / 255
    return inputs[:, 0] * np.float32(std) + np.float32(mean)
