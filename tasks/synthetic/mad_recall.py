"""MAD's recall: in context, among noise, with keys and values of several tokens (see `mad.py`)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np

from seqzoo.tasks.data.generated import check_true
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.synthetic.mad import LENGTHS, SIZES, MADTask
from seqzoo.tasks.task import IGNORED, Example, Split, check_count


@dataclasses.dataclass(frozen=True, kw_only=True)
class InContextRecall(MADTask):
    """Pairs of key and value, the value fixed per key within a row; the last pair is a probe.

    Training labels every next token; validation and test label the values of keys seen before.
    Without `multi_query` a copy token precedes the probe and only its value is tested. A row holds
    `length` tokens of which the last is only a label.
    """

    name: ClassVar[str] = "mad_recall"
    description: ClassVar[str] = "MAD: in-context recall"
    next_tokens: ClassVar[bool] = True
    axes: ClassVar[dict[str, tuple]] = {
        "vocab_size": (32, 64, 128),
        "length": LENGTHS,
        "train_size": SIZES,
    }

    multi_query: bool = True  # every key seen before is asked, not only the last
    noise_vocab: int = 0  # tokens of the vocabulary that are noise
    frac_noise: float = 0.0  # share of pairs that are noise, in [0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "noise_vocab", least=0, most=self.vocab_size - 4)
        check_true(self, self.length % 2 == 0, f"length must be even; got {self.length}")
        valid = isinstance(self.frac_noise, int | float) and 0 <= self.frac_noise < 1
        check_true(self, valid, f"frac_noise must be in [0, 1); got {self.frac_noise!r}")
        check_true(
            self,
            self.noise_vocab > 0 or self.frac_noise == 0,
            "noise_vocab must be positive where frac_noise is",
        )

    @property
    def _usable(self) -> int:
        return self.vocab_size - self.noise_vocab - (not self.multi_query)

    @property
    def _answers(self) -> int:
        return self._usable - self._usable // 2

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        pairs, half = self.length // 2 - 1, self._usable // 2
        keys = draws.integers(half, pairs)
        value_of = half + draws.integers(self._usable - half, half)
        values = value_of[keys]
        noise = draws.uniform(pairs) < self.frac_noise
        noise[draws.below(pairs)] = False  # so that there is a key to ask for
        shown = np.flatnonzero(np.bincount(keys[~noise]))
        probe = shown[draws.below(len(shown))]
        body = np.stack([keys, values], 1)
        if noise.any():
            at = np.flatnonzero(noise)
            drawn = self._usable + draws.integers(self.noise_vocab, 2 * len(at))
            body[at] = drawn.reshape(-1, 2)
        asked = np.full((pairs, 2), IGNORED, np.int32)
        if self.multi_query:
            again = ~noise & ~_first_of_each(np.where(noise, half, keys))
            asked[again, 1] = values[again]
        prefix = [] if self.multi_query else [self.vocab_size - 1]
        tokens = np.concatenate([body.ravel(), prefix, [probe, value_of[probe]]]).astype(np.int32)
        tail = [IGNORED] * (len(prefix) + 1)
        labels = np.concatenate([asked.ravel(), tail, [value_of[probe]]]).astype(np.int32)
        return _shifted(tokens, labels, split)


def _first_of_each(x: np.ndarray) -> np.ndarray:
    """Whether no earlier one of these small numbers is the same."""
    places = np.arange(len(x))
    first = np.empty(x.max() + 1, np.int64)
    first[x[::-1]] = places[::-1]  # of equal indices the last one written stays
    return first[x] == places


def _shifted(tokens: np.ndarray, labels: np.ndarray, split: Split) -> Example:
    """Inputs are one token behind; training is plain language modelling."""
    targets = tokens if split == "train" else labels
    return {"inputs": tokens[:-1].copy(), "targets": targets[1:].copy()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisyRecall(InContextRecall):
    """In-context recall in which a pair is replaced by two noise tokens now and then."""

    name: ClassVar[str] = "mad_noisy_recall"
    description: ClassVar[str] = "MAD: in-context recall among noise tokens"
    axes: ClassVar[dict[str, tuple]] = {
        "vocab_size": (48, 80, 144),
        "length": LENGTHS,
        "train_size": SIZES,
        "frac_noise": (0.4, 0.6, 0.8),
    }

    vocab_size: int = 32  # tokens, noise included
    noise_vocab: int = 16  # tokens that are noise
    frac_noise: float = 0.2  # share of pairs that are noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class FuzzyRecall(MADTask):
    """In-context recall with keys and values of one to three tokens, none twice within one.

    Keys have three tokens outside training. Rows are filled on the left with a token of its own,
    which training labels like any other. Where ours differs: the probe pair is always shown; by the
    published draw it is missing from about one row in a hundred.
    """

    name: ClassVar[str] = "mad_fuzzy_recall"
    description: ClassVar[str] = "MAD: in-context recall with keys and values of several tokens"
    next_tokens: ClassVar[bool] = True
    axes: ClassVar[dict[str, tuple]] = InContextRecall.axes

    key_tokens: int = 3  # at most
    value_tokens: int = 3  # at most

    def __post_init__(self) -> None:
        super().__post_init__()
        half = (self.vocab_size - 1) // 2
        check_count(self, "key_tokens", most=half)
        check_count(self, "value_tokens", most=self.vocab_size - 1 - half)
        check_count(self, "length", least=3 * (self.key_tokens + self.value_tokens) + 1)

    @property
    def _answers(self) -> int:
        return self.vocab_size - 1 - (self.vocab_size - 1) // 2

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        half, pad = (self.vocab_size - 1) // 2, self.vocab_size - 1
        most = self.key_tokens + self.value_tokens

        def motif(size: int, first: int, high: int) -> tuple[int, ...]:
            drawn: list[int] = []
            while len(drawn) < size:
                token = first + draws.below(high - first)
                if token not in drawn:
                    drawn.append(token)
            return tuple(drawn)

        def key() -> tuple[int, ...]:
            size = 1 + draws.below(self.key_tokens) if split == "train" else self.key_tokens
            return motif(size, 0, half)

        def value() -> tuple[int, ...]:
            return motif(1 + draws.below(self.value_tokens), half, pad)

        probe = key()
        value_of = {probe: value()}
        size = len(probe) + len(value_of[probe])
        body = self.length - size - most
        place, shown = draws.below(body - most + 1), set()
        tokens: list[int] = []
        labels: list[int] = []
        while len(tokens) < body:
            chosen = probe if len(tokens) >= place and probe not in shown else key()
            if chosen not in value_of:
                value_of[chosen] = value()
            answer = value_of[chosen]
            tokens += chosen + answer
            labels += [IGNORED] * len(chosen)
            labels += answer if chosen in shown else [IGNORED] * len(answer)
            shown.add(chosen)
        tokens += probe + value_of[probe]
        labels += [IGNORED] * len(probe) + list(value_of[probe])
        missing = self.length + 1 - len(tokens)
        return _shifted(
            np.array([pad] * missing + tokens, np.int32),
            np.array([IGNORED] * missing + labels, np.int32),
            split,
        )
