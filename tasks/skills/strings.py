"""Copying of strings, whole or from an n-gram on (Jelassi et al. 2024, arXiv 2402.01032)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import (
    GeneratedTask,
    by_slice,
    check_true,
    labelled_at,
    lm_spec,
    measure_sequences,
    padded,
    rows_right,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import SOLVED, Example, Metrics, Split, check_count, example_weight

Variant = Literal["copy", "prefix_ngram", "suffix_ngram"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StringCopy(GeneratedTask):
    """Letters, then the same letters again; or those that follow an n-gram.

        copy           $abcdef|abcdef.
        prefix_ngram   $bcd|abcdef|ef.       the n-gram before the string
        suffix_ngram   $abcdef|bcdef.        after it

    Strings are `min_length` to `length` letters in training and exactly `length` or `test_lengths`
    in validation and testing; the n-gram is one that stands there once, at an even grid of depths
    in these. `accuracy` is the share of answers without a mistake, `token_accuracy` that of
    letters, the full stop included; the second is there by position too (`seqzoo evaluate`).
    Where ours differs: a row is one string (`--pack` joins them, as the published training does).
    """

    name: ClassVar[str] = "string_copy"
    description: ClassVar[str] = "a string again, or what follows an n-gram (Repeat After Me)"
    main_metric: ClassVar[str] = "accuracy"
    cite: ClassVar[str] = "Jelassi et al. 2024, arXiv 2402.01032"
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 1_000_000  # examples to train on
    variant: Variant = "copy"  # copy, prefix_ngram or suffix_ngram
    length: int = 20  # letters
    min_length: int = 5  # letters of the shortest string to train on
    test_lengths: tuple[int, ...] = ()  # of testing; none: `length`
    alphabet: int = 26  # letters that there are
    ngram: int = 3  # letters of what is asked by
    num_depths: int = 5  # of an n-gram, from 0 to 100 %

    def __post_init__(self) -> None:
        super().__post_init__()
        known = self.variant in get_args(Variant)
        rule = f"variant must be one of {', '.join(get_args(Variant))}"
        check_true(self, known, f"{rule}; got {self.variant!r}")
        check_count(self, "alphabet", least=2, most=10**4)
        check_count(self, "ngram", most=10**3)
        check_count(self, "num_depths")
        least = 1 if self.variant == "copy" else self.ngram + 2
        for n in (self.length, *self.test_lengths):
            valid = isinstance(n, int) and not isinstance(n, bool) and n >= least
            check_true(self, valid, f"lengths must be integers, at least {least}; got {n!r}")
        check_count(self, "min_length", least=least, most=self.length)
        longest = max(self.length, *self._tested)
        enough = self.variant == "copy" or self.alphabet**self.ngram >= longest
        rule = f"{self.alphabet} letters make too few {self.ngram}-grams for {longest} letters"
        check_true(self, enough, f"{rule}: one must stand there once; give a larger ngram")

    @property
    def _tested(self) -> tuple[int, ...]:
        return tuple(self.test_lengths) or (self.length,)

    @property
    def spec(self) -> ModelSpec:
        """Letters, then $, | and the full stop."""
        vocab = self.alphabet + 3
        longest = self._row(max(self.length, *self._tested))
        return lm_spec(vocab, vocab, longest, causal=True)

    def _row(self, length: int) -> int:
        # String twice, three signs, of which the last is only a label; n-gram and its sign.
        return 2 * length + 2 + (self.ngram + 1 if self.variant == "prefix_ngram" else 0)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        lengths = self._tested if split == "test" else (self.length,)
        depths = 1 if self.variant == "copy" else self.num_depths
        number = index % (len(lengths) * depths)
        place, depth = divmod(number, depths)
        length = lengths[place]
        if split == "train":
            length = self.min_length + draws.below(self.length - self.min_length + 1)
        begin, bar, end = (np.array([self.alphabet + i]) for i in range(3))
        if self.variant == "copy":
            string = answer = draws.integers(self.alphabet, length)
            parts = [begin, string, bar]
        else:
            share = draws.uniform(1)[0] if split == "train" else depth / max(1, depths - 1)
            string, at = self._with_ngram(draws, length, share)
            ngram, answer = string[at : at + self.ngram], string[at + self.ngram :]
            prefix = self.variant == "prefix_ngram"
            parts = [begin, ngram, bar, string, bar] if prefix else [begin, string, bar, ngram]
        answer = np.concatenate([answer, end])
        tokens = np.concatenate([*parts, answer]).astype(np.int32)
        targets = labelled_at(slice(-len(answer), None), answer, len(tokens) - 1)
        kind = np.int32(number if split == "test" else -1)
        return {**padded(tokens[:-1], targets, self._row(max(lengths))), "slice": kind}

    def _with_ngram(self, draws: Draws, length: int, share: float) -> tuple[np.ndarray, int]:
        """A string with an n-gram that stands there once, and where: at this share of such ones."""
        places = np.arange(length - self.ngram)[:, None] + np.arange(self.ngram)
        while True:
            string = draws.integers(self.alphabet, length)
            grams = string[np.concatenate([places, places[-1:] + 1])]
            same = grams[:, 0, None] == grams[:, 0]
            for i in range(1, self.ngram):
                same &= grams[:, i, None] == grams[:, i]
            once = np.flatnonzero(same.sum(1)[:-1] == 1)  # the last one has nothing after it
            if len(once):
                return string, int(once[round(share * (len(once) - 1))])

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Answers without a mistake, over the split and for each length and depth of testing."""
        measured = measure_sequences(outputs, batch, name="accuracy")
        right = rows_right(outputs, batch["targets"])[0].astype(jnp.float32)
        names = [str(n) for n in self._tested]
        if self.variant != "copy":
            depths = [100 * i // max(1, self.num_depths - 1) for i in range(self.num_depths)]
            names = [f"{n}_at_{d}" for n in names for d in depths]
        parts = by_slice("accuracy", right, example_weight(batch), batch["slice"], names)
        return {**measured, **parts}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any letters."""
        self.effective_seed(split, 0)
        # Of what follows an n-gram there may be one letter.
        fewest = min(self._tested) if self.variant == "copy" else 1
        return {"chance": float(self.alphabet) ** -fewest}

    def _symbol(self, token: int) -> str:
        sign = "$|."[token - self.alphabet] if token >= self.alphabet else ""
        return sign or (chr(97 + token) if self.alphabet <= 26 else str(token))

    _label = _symbol
