"""RegBench: in-context learning of a regular language that no row has shown before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, lm_spec, padded
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    SOLVED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegBench(GeneratedTask):
    """Words of a random automaton, 0 between them; every letter is to be predicted.

    Each row has an automaton of its own: 4 to 12 states, an alphabet of 4 to all letters, from each
    state 1 to 3 letters to as many other states, all equally probable, words from the first state.
    A row has 10 to 19 words of 1 to 49 letters. What counts is whether a predicted letter may
    follow, as the automaton goes; the loss is that of the letters drawn. Published with it: 5000
    rows for training, batches of 32, 200 epochs.
    """

    name: ClassVar[str] = "regbench"
    description: ClassVar[str] = "words of a new regular language in each row (RegBench)"
    cite: ClassVar[str] = "Akyürek et al. 2024, arXiv 2401.12973"
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 5_000  # examples to train on
    validation_size: int = 250  # examples of the validation split
    test_size: int = 250  # examples of the test split
    letters: int = 18  # of the largest alphabet
    max_states: int = 12  # states of the largest automaton
    max_edges: int = 3  # from a state; an automaton has more states and more letters than that
    min_words: int = 10  # words of a row
    max_words: int = 19  # words of a row
    max_word: int = 49  # letters of a word

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "max_edges", most=100)
        check_count(self, "letters", least=self.max_edges + 1, most=10**4)
        check_count(self, "max_states", least=self.max_edges + 1, most=10**4)
        check_count(self, "max_word", most=10**6)
        check_count(self, "max_words", least=2, most=10**6)
        check_count(self, "min_words", least=2, most=self.max_words)

    @property
    def spec(self) -> ModelSpec:
        """Letters, and 0 between words."""
        return lm_spec(1 + self.letters, 1 + self.letters, self._row, causal=True)

    @property
    def _row(self) -> int:
        # Words with a token between each two; the last letter is only a label.
        return self.max_words * (self.max_word + 1) - 2

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        follows, allowed = self._automaton(draws)
        count = self.min_words + draws.below(self.max_words - self.min_words + 1)
        lengths = (1 + draws.integers(self.max_word, count)).tolist()
        chances = draws.words(sum(lengths)).tolist()
        tokens, states, at = [], [], 0
        for length in lengths:
            state = 0
            for chance in chances[at : at + length]:
                states.append(state)
                edges = follows[state]
                letter, state = edges[chance % len(edges)]
                tokens.append(letter)
            at += length
            tokens.append(0)
            states.append(0)
        row = np.array(tokens[:-1], np.int32)
        targets = np.where(row[1:] > 0, row[1:], IGNORED)
        held = np.zeros(self._row, np.int32)
        held[: len(targets)] = states[1:-1]
        return {**padded(row[:-1], targets, self._row), "state": held, "allowed": allowed}

    def _automaton(self, draws: Draws) -> tuple[list[list[tuple[int, int]]], np.ndarray]:
        """(letter, next state) of each state's edges, and which letters may follow each state."""
        least = self.max_edges + 1
        states = least + draws.below(self.max_states - least + 1)
        own = least + draws.below(self.letters - least + 1)
        alphabet = 1 + draws.some(self.letters, own)
        follows, allowed = [], np.zeros((self.max_states, 1 + self.letters), bool)
        for state in range(states):
            edges = 1 + draws.below(self.max_edges)
            letters = alphabet[draws.some(own, edges)].tolist()
            others = draws.some(states - 1, edges).tolist()
            follows.append([(a, s + (s >= state)) for a, s in zip(letters, others, strict=True)])
            allowed[state, letters] = True
        return follows, allowed

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy of the letters, and the share of predictions that the language allows."""
        measured = measure_tokens(outputs, batch)
        rows = jnp.arange(len(outputs))[:, None]
        may = batch["allowed"][rows, batch["state"], jnp.argmax(outputs, axis=-1)]
        labelled, weight = batch["targets"] != IGNORED, example_weight(batch)
        share = (may & labelled).sum(1) / jnp.maximum(labelled.sum(1), 1)
        total = (jnp.sum(jnp.where(weight > 0, share, 0) * weight), weight.sum())
        return {"loss": measured["loss"], "accuracy": total, "drawn": measured["token_accuracy"]}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any letter."""
        source, shares = self.source(split, seed), []
        for i in range(len(source)):
            row = source[i]
            may = row["allowed"][row["state"][row["targets"] != IGNORED]]
            shares.append(may.sum(1).mean() / self.letters)
        return {"any letter": float(np.mean(shares))}

    def _symbol(self, token: int) -> str:
        return chr(96 + token) if 0 < token < 27 else str(token or "|")

    _label = _symbol
