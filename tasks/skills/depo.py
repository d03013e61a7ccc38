"""Depo: the k-th successor of a word on a cycle, k hops in one step of thought."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.answers import strings_met
from seqzoo.tasks.data.generated import (
    GeneratedTask,
    check_true,
    fill,
    lm_spec,
    measure_sequences,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.skills.words import CITE, distinct_words, number_of_words, size
from seqzoo.tasks.task import (
    IGNORED,
    SOLVED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
)

BOS = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depo(GeneratedTask):
    """Pairs of word and next word on a cycle, in random order; then up to ten questions.

    A question is "k hops from this word: which?", its answer given after it. Training has 3 to
    `num_nodes` words, most often few, and k uniform on 1 to `num_hops`; validation and testing have
    all words, and k a power of two or `num_hops`. Published: Depo1, 375, 300 or 225 words of 1 or 2
    tokens out of 50, 8 hops, as the defaults; Depo2, 125, 100 or 75 words of 5 to 7 tokens out of
    3 (`symbols=3 min_word=5 max_word=7`), 16 hops. Where ours differs: the token before an answer,
    which is always the same, has no label.
    """

    name: ClassVar[str] = "depo"
    description: ClassVar[str] = "the k-th next word on a cycle of pairs (Physics of LMs 4.1)"
    cite: ClassVar[str] = CITE
    solved_at: ClassVar[float | None] = SOLVED

    num_nodes: int = 225  # words of the longest cycle
    test_nodes: int = 0  # of validation and testing; 0: as many
    num_hops: int = 8  # most words further on that a question asks for
    num_queries: int = 10  # questions of a row, at most
    symbols: int = 50  # tokens that words are made of; as many again end them
    min_word: int = 1  # tokens
    max_word: int = 2  # tokens

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_nodes", least=3, most=10**6)
        check_count(self, "test_nodes", least=0, most=10**6)
        for field in ("num_hops", "num_queries", "symbols"):
            check_count(self, field, most=10**4)
        check_count(self, "max_word", most=16)
        check_count(self, "min_word", most=self.max_word)
        room = number_of_words(self.symbols, self.min_word, self.max_word)
        most = max(self.num_nodes, self.test_nodes)
        rule = f"{room} words can be made of these tokens; {most} need twice as many"
        check_true(self, room >= 2 * most, rule)

    @property
    def tested_hops(self) -> tuple[int, ...]:
        """Powers of two, and the most."""
        powers = {2**i for i in range(self.num_hops.bit_length())}
        return tuple(sorted({k for k in powers if k <= self.num_hops} | {self.num_hops}))

    @property
    def spec(self) -> ModelSpec:
        """Beginning, words' tokens, hops 1 and on, the token before answers."""
        vocab = 2 + 2 * self.symbols + self.num_hops
        longest = max(self._row("train"), self._row("test"))
        return lm_spec(vocab, vocab, longest, causal=True)

    def _nodes(self, split: Split) -> int:
        return self.num_nodes if split == "train" else self.test_nodes or self.num_nodes

    def _row(self, split: Split) -> int:
        # Of the last answer the last token is only a label.
        return 2 * self._nodes(split) * self.max_word + self.num_queries * (2 + 2 * self.max_word)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        most = self._nodes(split)
        count = size(draws, most) if split == "train" else most
        words = distinct_words(draws, count, self.symbols, self.min_word, self.max_word)
        first = draws.permutation(count)
        edges = np.concatenate([words[first], words[(first + 1) % count]], 1)
        asked = draws.some(count, min(count, self.num_queries))
        hops = self._hops(draws, split, len(asked))
        answers = words[(asked + hops) % count]
        mark = np.full((len(asked), 1), 1 + 2 * self.symbols)
        questions = np.concatenate([mark + hops[:, None], words[asked], mark, answers], 1)
        number = np.zeros_like(questions)
        number[:, -self.max_word :] = 1 + np.arange(len(asked))[:, None]
        used = questions > 0
        edges = edges[edges > 0]
        tokens = np.concatenate([[BOS], edges, questions[used]]).astype(np.int32)
        part = np.concatenate([np.zeros(len(edges), np.int32), number[used]])
        row = self._row(split)
        return {
            "inputs": fill(tokens[:-1], row, 0),
            "targets": fill(np.where(part > 0, tokens[1:], IGNORED), row, IGNORED),
            "part": fill(part, row, 0),
            "hops": fill(hops, self.num_queries, 0),
            "segment_ids": fill(np.ones(len(part), np.int32), row, 0),
        }

    def _hops(self, draws: Draws, split: Split, count: int) -> np.ndarray:
        if split == "train":
            return 1 + draws.integers(self.num_hops, count)
        return np.asarray(self.tested_hops)[draws.integers(len(self.tested_hops), count)]

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Answers without a mistake, over rows, and for each number of hops that is tested."""
        measured = measure_sequences(outputs, batch)
        met, there = strings_met(outputs, batch, self.num_queries)
        weight, count = example_weight(batch), there.sum(1)
        share = (met & there).sum(1) / jnp.maximum(count, 1)
        total = (jnp.sum(jnp.where(weight > 0, share, 0) * weight), weight.sum())
        parts = {}
        for k in self.tested_hops:
            own = weight[:, None] * (there & (batch["hops"] == k))
            parts[f"accuracy_{k}_hops"] = (jnp.sum(own * met), own.sum())
        return {**measured, "accuracy": total, **parts}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any word of the cycle."""
        self.effective_seed(split, 0)
        return {"any word": 1 / self._nodes(split)}
