"""MQAR, multi-query associative recall (Arora et al. 2023, "Zoology", arXiv 2312.04927).

A row shows D pairs of key and value, and later asks for each key once; the label is the key's
value, at the position of the query. Keys are distinct draws from 1..V/2-1, values from V/2..V-1.

`mqar` leaves every option open; `mqar_zoology` (that paper's grid) and `mqar_based` (the mixture of
"Based") have the published points fixed, so that tables do not mix.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import (
    GeneratedSource,
    GeneratedTask,
    by_slice,
    labelled_at,
    lm_spec,
    padded,
    real,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    SOLVED,
    Example,
    Metrics,
    Source,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)

_LONG = 1000  # numbers from which a partition beats a sort


@dataclasses.dataclass(frozen=True, kw_only=True)
class MQAR(GeneratedTask):
    """Recall of all key-value pairs of a context; rows have no padding.

    With random fillers the published rule vocab_size > length is kept: fillers and distinct keys
    then leave most tokens of the vocabulary unseen in a row, so that recall cannot be replaced by
    exclusion. Zeros between the queries show none, so they go with any length.
    """

    name: ClassVar[str] = "mqar"
    description: ClassVar[str] = "associative recall of key-value pairs (Zoology)"
    cite: ClassVar[str] = "Arora et al. 2023, arXiv 2312.04927"
    solved_at: ClassVar[float | None] = SOLVED

    vocab_size: int = 80  # even, above length with random fillers; half keys (and 0), half values
    num_pairs: int = 8  # D, at most length / 4
    length: int = 64  # tokens, even
    # query slot j of 1, 2, ... has a probability proportional to j ** (power - 1)
    power: float = 0.01
    random_non_queries: bool = True  # random tokens, not 0, between the queries
    test_size: int = 3_000  # examples of the test split

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_pairs")
        check_count(self, "length", least=4 * self.num_pairs)
        # Distinct keys without 0, and as many values, must be there to draw.
        fillers = self.length + 1 if self.random_non_queries else 0
        check_count(self, "vocab_size", least=max(2 * self.num_pairs + 2, fillers))
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

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
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

    @functools.cached_property
    def _rates(self) -> np.ndarray:
        slots = (self.length - 2 * self.num_pairs) // 2
        return np.arange(1, slots + 1) ** (self.power - 1)


ZOOLOGY = {64: 4, 128: 8, 256: 16, 512: 64}  # length -> pairs, figure 2 of the paper


@dataclasses.dataclass(frozen=True, kw_only=True)
class MQARZoology(MQAR):
    """One column of Zoology's figure 2: (length, pairs) of the published four, zeros as fillers.

    Published with it: depth 2, d_model 64, 128, 256 or 512, no feed-forward, learning rate the best
    of logspace(-4, -2, 4), 64 epochs, batches of 512, 512, 256, 128 rows.
    """

    name: ClassVar[str] = "mqar_zoology"
    description: ClassVar[str] = "MQAR at the four published lengths (Zoology, figure 2)"
    cite: ClassVar[str] = "Arora et al. 2023, arXiv 2312.04927, figure 2"

    vocab_size: int = 8_192  # tokens, half keys, half values
    length: int = 64  # tokens: 64, 128, 256 or 512
    num_pairs: int = 4  # with them: 4, 8, 16 or 64
    random_non_queries: bool = False  # random tokens, not 0, between the queries

    def __post_init__(self) -> None:
        super().__post_init__()
        if ZOOLOGY.get(self.length) != self.num_pairs:
            pairs = ", ".join(f"{n} with {d}" for n, d in ZOOLOGY.items())
            raise ValueError(
                f"task mqar_zoology: length and num_pairs are published together ({pairs}); got "
                f"{self.length} with {self.num_pairs} (`mqar` takes any)"
            )


class Segment(NamedTuple):
    """Rows of one length and number of pairs within a mixture."""

    length: int
    pairs: int
    size: int


BASED_TRAIN = (
    *(Segment(64, 4, 100_000), Segment(128, 8, 20_000), Segment(256, 16, 20_000)),
    *(Segment(256, 32, 20_000), Segment(256, 64, 20_000)),
)
BASED_TEST = (
    *(Segment(64, 4, 1_000), Segment(64, 8, 1_000), Segment(64, 16, 1_000)),
    *(Segment(128, 32, 1_000), Segment(256, 64, 1_000), Segment(512, 128, 1_000)),
    Segment(1_024, 256, 1_000),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MQARBased(GeneratedTask):
    """Training on a mixture of lengths, testing on longer rows with more pairs ("Based").

    Where ours differs: a batch mixes the parts of the mixture, so rows are padded to 256 tokens in
    training and 1024 in testing. Sizes below the published ones keep the mixture's shares.
    """

    name: ClassVar[str] = "mqar_based"
    description: ClassVar[str] = "MQAR, trained on a mixture up to 256 tokens, tested up to 1024"
    cite: ClassVar[str] = "Arora et al. 2024, arXiv 2402.18668"
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 180_000  # examples to train on
    validation_size: int = 7_000  # examples of the validation split
    test_size: int = 7_000  # examples of the test split
    vocab_size: int = 8_192  # even and above 1024
    random_non_queries: bool = False  # random tokens, not 0, between the queries

    def __post_init__(self) -> None:
        super().__post_init__()
        for split, segments in (("train", BASED_TRAIN), ("test", BASED_TEST)):
            check_count(self, f"{split}_size", most=sum(s.size for s in segments))
        check_count(self, "validation_size", most=sum(s.size for s in BASED_TEST))
        check_count(self, "vocab_size", least=1_025)
        _ = self._parts("test")  # checks the rest

    @property
    def spec(self) -> ModelSpec:
        """A token at every position; only queries are labelled."""
        return lm_spec(self.vocab_size, self.vocab_size, 1_024)

    def _parts(self, split: Split) -> tuple[GeneratedSource, ...]:
        segments = BASED_TRAIN if split == "train" else BASED_TEST
        return tuple(
            GeneratedSource(
                MQAR(
                    vocab_size=self.vocab_size,
                    length=s.length,
                    num_pairs=s.pairs,
                    random_non_queries=self.random_non_queries,
                    **{f"{split}_size": s.size},
                ),
                split,
                0,
                f"{self.name} {s.length}x{s.pairs}",
            )
            for s in segments
        )

    def _source(self, split: Split, seed: int) -> Source:
        parts = [dataclasses.replace(part, seed=seed) for part in self._parts(split)]
        return MixtureSource(self, tuple(parts), split)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        raise NotImplementedError("the parts of the mixture make the examples")

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """As for MQAR, and the accuracy of each (length, pairs) of the test set."""
        targets = batch["targets"]
        labelled = targets != IGNORED
        right = (jnp.argmax(outputs, -1) == targets) & labelled
        rows = right.sum(1) / jnp.maximum(labelled.sum(1), 1)
        names = [f"{s.length}x{s.pairs}" for s in BASED_TEST]
        parts = by_slice("accuracy", rows, example_weight(batch), batch["slice"], names)
        return {**measure_tokens(outputs, batch), **parts}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Chance among the values shown, averaged over the mixture, and among all values."""
        self.effective_seed(split, 0)
        segments = BASED_TRAIN if split == "train" else BASED_TEST
        shares = np.array([s.size for s in segments]) / sum(s.size for s in segments)
        shown = float(np.sum(shares / [s.pairs for s in segments]))
        return {"value of the context": shown, "any value": 2 / self.vocab_size}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The pairs, then what is asked where."""
        asked = np.asarray(example["targets"]) != IGNORED
        task = MQAR(
            num_pairs=int(asked.sum()), length=max(4 * int(asked.sum()), 64), vocab_size=4096
        )
        return task.decode({name: real(example, name) for name in ("inputs", "targets")})


@dataclasses.dataclass(frozen=True)
class MixtureSource:
    """Rows of several MQAR sources, padded to the longest.

    Fewer examples than the parts have are spread evenly over them.
    """

    task: MQARBased
    parts: tuple[GeneratedSource, ...]
    split: Split

    def __len__(self) -> int:
        return getattr(self.task, f"{self.split}_size")

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        ends, length = self._sizes
        place = int(index) * int(ends[-1]) // len(self)
        number = int(np.searchsorted(ends, place, side="right"))
        part = self.parts[number]
        row = part[place - int(ends[number]) + len(part)]
        example = padded(row["inputs"], row["targets"], length)
        kinds = [(s.length, s.pairs) for s in BASED_TEST]
        kind = (part.task.length, part.task.num_pairs)
        return {**example, "slice": np.int32(kinds.index(kind) if kind in kinds else -1)}

    @functools.cached_property
    def _sizes(self) -> tuple[np.ndarray, int]:
        """Where each part ends, and the longest row."""
        ends = np.cumsum([len(part) for part in self.parts])
        return ends, max(part.task.length for part in self.parts)


def _smallest(x: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` smallest numbers, in rising order of number."""
    if len(x) < _LONG:
        return x.argsort(kind="stable")[:count]
    chosen = np.argpartition(x, count - 1)[:count]
    return chosen[x[chosen].argsort(kind="stable")]
