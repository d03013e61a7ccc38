"""MAD, mechanistic architecture design (Poli et al. 2024, arXiv 2403.17844): six small tasks.

Each has a baseline setting, the defaults here, and axes along which one option at a time is made
harder (`settings`). The published score of a task is the mean over its settings of the best test
accuracy of a sweep (AdamW, learning rate 1e-4, 5e-4 or 1e-3, weight decay 0 or 0.1, cosine to 1e-6,
batches of 128, 200 epochs). The accuracy is a mean over classes, those of the test labels. Three of
them, in-context recall, are in `mad_recall.py`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, check_true, fill, labelled_at, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)

CITE = "Poli et al. 2024, arXiv 2403.17844"
LENGTHS, SIZES = (256, 512, 1024), (6_400, 3_200, 1_600, 800)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MADTask(GeneratedTask):
    """What the six share; the published sets are a train and a test set, ours add a validation."""

    cite: ClassVar[str] = CITE
    axes: ClassVar[dict[str, tuple]] = {}  # option -> the harder values
    next_tokens: ClassVar[bool] = False  # training labels every next token

    train_size: int = 12_800  # examples to train on
    validation_size: int = 1_280  # examples of the validation split
    test_size: int = 1_280  # examples of the test split
    vocab_size: int = 16  # tokens, special ones included
    length: int = 128  # tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "vocab_size", least=4)
        check_count(self, "length", least=4)

    @classmethod
    def settings(cls) -> tuple[dict[str, Any], ...]:
        """Options of every published setting: the baseline, then each axis alone."""
        return ({}, *({name: value} for name, values in cls.axes.items() for value in values))

    @property
    def spec(self) -> ModelSpec:
        """A token at every position."""
        size = self.vocab_size
        return lm_spec(size, size, self.length, causal=self.next_tokens)

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy; `accuracy` is a mean over classes, `token_accuracy` over tokens."""
        measured = measure_tokens(outputs, batch)
        targets = batch["targets"]
        weight = (targets != IGNORED) * example_weight(batch)[:, None]
        classes = jnp.arange(self.vocab_size)
        # One class after another would be slow, and one-hot rows large: segment sums.
        places = jnp.where(targets != IGNORED, targets, 0).ravel()
        right = weight * (jnp.argmax(outputs, -1) == targets)
        total, count = (
            jnp.zeros(classes.shape, jnp.float32).at[places].add(x.ravel()) for x in (right, weight)
        )
        return {**measured, "accuracy": (total, count)}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any one answer, which is right for one class of those that are asked for."""
        self.effective_seed(split, 0)
        return {"chance": 1 / self._answers}

    @property
    def _answers(self) -> int:
        """Classes among the test labels."""
        return self.vocab_size


@dataclasses.dataclass(frozen=True, kw_only=True)
class MADSelectiveCopying(MADTask):
    """Data tokens among blanks, to be repeated after a copy token.

    Blanks stand before data tokens, so the last data token is always next to the copy token, as
    published.
    """

    name: ClassVar[str] = "mad_selective_copying"
    description: ClassVar[str] = "MAD: copy the tokens, skip the blanks"
    axes: ClassVar[dict[str, tuple]] = {
        "vocab_size": (32, 64, 128),
        "length": (512, 1024),
        "train_size": SIZES,
        "num_tokens": (32, 64, 96),
    }

    length: int = 256  # tokens of a row
    num_tokens: int = 16  # to copy

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_tokens", most=(self.length - 2) // 2)

    @property
    def _answers(self) -> int:
        return self.vocab_size - 2

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        count, blank = self.num_tokens, self.vocab_size - 2
        data = draws.integers(self.vocab_size - 2, count)
        before = draws.integers(count, self.length - 2 * count - 1)
        places = np.arange(count) + np.cumsum(np.bincount(before, minlength=count))
        inputs = np.full(self.length, blank, np.int32)
        inputs[places] = data
        inputs[-count - 1] = self.vocab_size - 1
        return {"inputs": inputs, "targets": labelled_at(slice(-count, None), data, self.length)}

    def _symbol(self, token: int) -> str:
        return {self.vocab_size - 2: ".", self.vocab_size - 1: "copy"}.get(token, str(token))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression(MADTask):
    """A row of random tokens is to be restored from the model's output at its last token.

    The model's head is MAD's decoder: that vector, plus a fixed embedding of each position, through
    an MLP that all positions share.
    """

    name: ClassVar[str] = "mad_compression"
    description: ClassVar[str] = "MAD: restore a row from its last position's vector"
    axes: ClassVar[dict[str, tuple]] = {
        "vocab_size": (32, 64, 128),
        "length": (64, 128, 256),
        "train_size": SIZES,
    }

    length: int = 32  # tokens of a row

    @property
    def spec(self) -> ModelSpec:
        """All tokens from the last position's vector."""
        size = self.vocab_size
        return ModelSpec(
            head="autoencode", vocab_size=size, outputs=size, length=self.length, pooling="last"
        )

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        drawn = draws.integers(self.vocab_size - 1, self.length - 1)
        row = fill(drawn, self.length, self.vocab_size - 1)
        return {"inputs": row, "targets": row.copy()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memorisation(MADTask):
    """Values of a dictionary that is never shown and the same in all rows and splits.

    Where ours differs: the dictionary is another one than NumPy's generator makes of seed 12345.
    """

    name: ClassVar[str] = "mad_memorisation"
    description: ClassVar[str] = "MAD: learn a fixed dictionary by heart"
    axes: ClassVar[dict[str, tuple]] = {"vocab_size": (512, 1024, 2048, 4096, 8192)}

    train_size: int = 256  # examples to train on
    vocab_size: int = 256  # tokens, half keys, half values
    length: int = 32  # tokens of a row

    def __post_init__(self) -> None:
        super().__post_init__()
        check_true(self, self.length % 2 == 0, f"length must be even; got {self.length}")

    @property
    def _answers(self) -> int:
        return (self.vocab_size - 1) // 2

    def dictionary(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and their values."""
        return _dictionary(self.vocab_size)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        keys, values = self.dictionary()
        at = draws.integers(len(keys), self.length // 2)
        inputs = np.full(self.length, self.vocab_size - 1, np.int32)
        inputs[::2] = keys[at]
        targets = labelled_at(slice(1, None, 2), values[at], self.length)
        return {"inputs": inputs, "targets": targets}


@functools.cache
def _dictionary(vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    count, half = vocab_size - 1, (vocab_size - 1) // 2
    draws = Draws("mad_memorisation dictionary", 12345, vocab_size)
    return draws.permutation(half), half + draws.permutation(count - half)[:half]
