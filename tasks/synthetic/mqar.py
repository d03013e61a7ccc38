"""MQAR, multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927).

A row shows D pairs of key and value, and later asks for each key once; the label is the key's
value, at the position of the query. Keys are distinct draws from 1..V/2-1, values from V/2..V-1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import ClassVar

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, labelled_at, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import IGNORED, Example, Split, check_count

_LONG = 1000  # numbers from which a partition beats a sort


@dataclasses.dataclass(frozen=True, kw_only=True)
class MQAR(GeneratedTask):
    """Recall of all key-value pairs of a context; rows have no padding.

    The published rule vocab_size > length is kept: random fillers and distinct keys then leave
    most tokens of the vocabulary unseen in a row, so that recall cannot be replaced by exclusion.
    """

    name: ClassVar[str] = "mqar"
    description: ClassVar[str] = "associative recall of key-value pairs (Zoology)"
    cite: ClassVar[str] = "Arora et al. 2023, arXiv 2312.04927"

    vocab_size: int = 80  # even and above length; half keys (and 0), half values
    num_pairs: int = 8  # D, at most length / 4
    length: int = 64  # tokens, even
    power: float = (
        0.01  # query slot j of 1, 2, ... has probability proportional to j ** (power - 1)
    )
    random_non_queries: bool = True  # random tokens, not 0, between the queries
    test_size: int = 3_000

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_pairs")
        check_count(self, "length", least=4 * self.num_pairs)
        check_count(self, "vocab_size", least=self.length + 1)
        for field in ("length", "vocab_size"):
            if getattr(self, field) % 2:
                raise ValueError(f"task mqar: {field} must be even; got {getattr(self, field)}")
        if not isinstance(self.power, int | float) or not 0 < self.power <= 1:
            raise ValueError(f"task mqar: power must be in (0, 1]; got {self.power!r}")
        if not isinstance(self.random_non_queries, bool):
            raise ValueError(
                f"task mqar: random_non_queries must be true or false; got "
                f"{self.random_non_queries!r}"
            )

    @property
    def spec(self) -> ModelSpec:
        """A token at every position; only queries are labelled."""
        return lm_spec(self.vocab_size, self.vocab_size, self.length)

    def baselines(self, split: Split = "test") -> dict[str, float]:
        """Chance among the values shown, and among all values."""
        self.effective_seed(split, 0)
        return {"value of the context": 1 / self.num_pairs, "any value": 2 / self.vocab_size}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The pairs, then what is asked where."""
        inputs, targets = (np.asarray(example[name]).tolist() for name in ("inputs", "targets"))
        context = inputs[: 2 * self.num_pairs]
        pairs = [f"{k}={v}" for k, v in zip(context[::2], context[1::2], strict=True)]
        asked = [
            f"{key}?{value} at {place}"
            for place, (key, value) in enumerate(zip(inputs, targets, strict=True))
            if value != IGNORED
        ]
        return f"{' '.join(pairs)} | {', '.join(asked)}"

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        pairs, half = self.num_pairs, self.vocab_size // 2
        keys = 1 + _smallest(draws.words(half - 1), pairs)
        values = half + _smallest(draws.words(half), pairs)
        # The first of exponential waiting times: draws without replacement by these rates.
        waiting = -np.log(draws.uniform(len(self._rates))) / self._rates
        queries = 2 * pairs + 2 * _smallest(waiting, pairs)
        inputs = draws.integers(self.vocab_size if self.random_non_queries else 1, self.length)
        inputs[: 2 * pairs : 2] = keys
        inputs[1 : 2 * pairs : 2] = values
        inputs[queries] = keys
        return {"inputs": inputs, "targets": labelled_at(queries, values, self.length)}

    @cached_property
    def _rates(self) -> np.ndarray:
        slots = (self.length - 2 * self.num_pairs) // 2
        return np.arange(1, slots + 1) ** (self.power - 1)


def _smallest(x: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` smallest numbers, in rising order of number."""
    if len(x) < _LONG:
        return x.argsort(kind="stable")[:count]
    chosen = np.argpartition(x, count - 1)[:count]
    return chosen[x[chosen].argsort(kind="stable")]
