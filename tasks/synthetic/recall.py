"""Induction heads: recall of what followed a trigger."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import ExtrapolationTask, check_true, labelled_at, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import SOLVED, Example, Split, check_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class InductionHeads(ExtrapolationTask):
    """What followed the trigger the first time? It is the row's last token again.

    Ordinary tokens are uniform on 0 to V - 3; V - 2 does nothing and is never drawn, V - 1 is the
    trigger. A row is `length` tokens, one of the first replaced by the trigger, then the trigger.

    Published with it (Mamba): depth 2, width 64, batches of 8, 8192 steps an epoch, Adam without
    decay at 2e-4 or 1e-3; tested at lengths 2**6 to 2**20.
    """

    name: ClassVar[str] = "induction_heads"
    description: ClassVar[str] = "the token that followed the trigger, any test length (Mamba)"
    cite: ClassVar[str] = "Gu & Dao 2023, arXiv 2312.00752, 4.1.2; Fu et al. 2023, arXiv 2212.14052"
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 1_000_000  # examples to train on
    vocab_size: int = 16  # tokens, the special one included
    length: int = 256  # ordinary tokens
    num_copied: int = 1  # tokens after the trigger to be given back

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "vocab_size", least=4)
        check_count(self, "num_copied")
        shortest = min(self.length, self.test_length or self.length)
        least = self.num_copied + 2
        check_true(self, shortest >= least, f"lengths must be at least {least}; got {shortest}")

    @property
    def spec(self) -> ModelSpec:
        """A token at every position; the last ones are labelled."""
        several = self.num_copied > 1
        longest = self._longest + self.num_copied
        return lm_spec(self.vocab_size, self.vocab_size, longest, causal=several)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        length, count, trigger = self._length(split), self.num_copied, self.vocab_size - 1
        tokens = np.empty(length + 1 + count, np.int32)
        tokens[:length] = draws.integers(self.vocab_size - 2, length)
        place = draws.below(length - 1 - count)
        tokens[[place, length]] = trigger
        answer = tokens[place + 1 : place + 1 + count]
        tokens[length + 1 :] = answer
        targets = labelled_at(slice(-count, None), answer, length + count)
        return {"inputs": tokens[:-1].copy(), "targets": targets}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Chance among the ordinary tokens."""
        self.effective_seed(split, 0)
        return {"chance": 1 / (self.vocab_size - 2)}

    def _symbol(self, token: int) -> str:
        return "!" if token == self.vocab_size - 1 else str(token)
