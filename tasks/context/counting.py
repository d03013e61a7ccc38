"""RULER's common and frequent words: which words stand most often in a list or a text."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np

from seqzoo.tasks.context.asking import Asked, AskingTask, with_answer
from seqzoo.tasks.context.ruler import CITE
from seqzoo.tasks.context.tokens import codec
from seqzoo.tasks.context.words import words
from seqzoo.tasks.data.generated import check_true
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Split

COMMON = (
    b"Below is a numbered list of words. In these words, some appear more often than others. "
    b"Memorize the ones that appear most often.\n",
    b"\nQuestion: What are the 10 most common words in the above list? "
    b"Answer: The top 10 words that appear most often in the list are:",
)
FREQUENT = (
    b"Read the following coded text and track the frequency of each coded word. "
    b"Find the three most frequently appeared coded words. ",
    b"\nQuestion: Do not provide any explanation. Please ignore the dots '....'. "
    b"What are the three most frequently appeared words in the above coded text? "
    b"Answer: According to the coded text above, the three most frequently appeared words are:",
)
PER_TOKEN = (4, 1)  # bytes of a token of a file's, of a byte
LONG = 4096  # tokens from which common words are the 30 of 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulerCommonWords(AskingTask):
    """The ten words of a numbered list that stand there most often.

    Each of them stands there 30 times, every other word 3 times; 6 times and once in rows of less
    than 4096 tokens. There are as many other words as have room. The answer has the ten in the
    order in which they first appear. Where ours differs: the list of words; no worked example.
    """

    name: ClassVar[str] = "ruler_cwe"
    description: ClassVar[str] = "the ten most common words of a list (RULER)"
    cite: ClassVar[str] = CITE
    COUNT: ClassVar[int] = 10

    length: int = 2048  # tokens

    @property
    def _least(self) -> int:
        # Entries "60. word " of a dozen letters, and the answer.
        return sum(map(len, COMMON)) + 80 * 18 + 12 * self.COUNT

    @property
    def _strings(self) -> int:
        return self.COUNT

    def _ask(self, draws: Draws, split: Split, length: int, depth: float | None) -> Asked:
        common, other = (30, 3) if length >= LONG else (6, 1)
        most = max(1, (PER_TOKEN[self.tokenizer == "byte"] * length) // (9 * other))
        known = words()
        chosen = draws.some(_pool(self.COUNT + most), self.COUNT + most).tolist()
        order = draws.uniform(common * self.COUNT + other * most)
        count = self._fitting([known[i] for i in chosen], common, other, length)
        while True:
            entries = np.repeat(chosen[: self.COUNT + count], [common] * 10 + [other] * count)
            # The first numbers of one draw, so that fewer words are in random order too.
            entries = entries[np.argsort(order[: len(entries)], kind="stable")]
            listed = [known[i] for i in entries.tolist()]
            top = {known[i] for i in chosen[: self.COUNT]}
            text = b" ".join(map(b"%d. %s".__mod__, enumerate(listed, 1)))
            answers = [word for word in dict.fromkeys(listed) if word in top]
            asked = Asked(COMMON[0] + text + COMMON[1], answers)
            if self.codec.counts([with_answer(asked)[0]])[0] <= length or count == 0:
                return asked
            count -= max(1, count // 50)

    def _fitting(self, chosen: list[bytes], common: int, other: int, length: int) -> int:
        """How many other words have room: exactly in bytes, about that in tokens."""
        size = self.codec.counts([b" " + word for word in chosen])
        top, more = int(size[: self.COUNT].sum()), size[self.COUNT :].cumsum()
        around = int(self.codec.counts([b"".join(COMMON)])[0])
        entries = common * self.COUNT + other * np.arange(1, len(more) + 1)
        numbers = _numbers(self.tokenizer, int(entries[-1]))[entries]
        # The answer has the ten with ten separators; the list begins without a blank.
        whole = around + (common + 1) * top + self.COUNT + other * more + numbers - 1
        return int(np.searchsorted(whole, length, side="right"))

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """A common word in any place of the answer."""
        self.effective_seed(split, 0)
        return {"any of the ten": 1 / self.COUNT}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulerFrequentWords(AskingTask):
    """The three most frequent words of a coded text, the dots left out.

    Words are six random letters; the word of rank k stands there N k^-alpha / zeta(alpha) times,
    rounded down, and that of rank 1 is "...". N is as large as has room. The answer has ranks 2, 3
    and 4 in that order.
    """

    name: ClassVar[str] = "ruler_fwe"
    description: ClassVar[str] = "the three most frequent words of a coded text (RULER)"
    cite: ClassVar[str] = CITE

    alpha: float = 2.0  # of the zeta distribution, above 1

    def __post_init__(self) -> None:
        valid = isinstance(self.alpha, int | float) and 1.1 <= self.alpha <= 4
        check_true(self, valid, f"alpha must be in 1.1 to 4; got {self.alpha!r}")
        super().__post_init__()
        for length in (self.length, *self.test_lengths):
            counts = self._counts(length)
            rule = f"{length} tokens are too few to tell ranks 2 to 5 apart; give longer rows"
            check_true(self, len(set(counts[1:5].tolist())) == 4, rule)

    @property
    def _least(self) -> int:
        return sum(map(len, FREQUENT)) + 200

    @property
    def _strings(self) -> int:
        return 3

    def _counts(self, length: int) -> np.ndarray:
        return _counts(_number(self.tokenizer, self.alpha, length), self.alpha, length)

    def _ask(self, draws: Draws, split: Split, length: int, depth: float | None) -> Asked:
        number = _number(self.tokenizer, self.alpha, length)
        coded = [b"...", *_coded(draws, len(self._counts(length)) - 1)]
        order = draws.words(number)
        while True:
            counts = _counts(number, self.alpha, length)
            ranks = np.repeat(np.arange(len(counts)), counts)
            ranks = ranks[order[: len(ranks)].argsort(kind="stable")]
            text = b" ".join([coded[i] for i in ranks.tolist()])
            asked = Asked(FREQUENT[0] + text + FREQUENT[1], coded[1:4])
            size = int(self.codec.counts([with_answer(asked)[0]])[0])
            if size <= length:
                return asked
            number = int(number * min(0.99, length / size))  # this row's words are longer

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """One of the words that stand in the text."""
        self.effective_seed(split, 0)
        return {"any word": 1 / max(1, int((self._counts(max(self._tested)) > 0).sum()) - 1)}


@functools.lru_cache(maxsize=16)
def _numbers(tokenizer: str, most: int) -> np.ndarray:
    """Tokens of the numbers "1. " and so on of a list, by its length."""
    made = codec(tokenizer).counts([b" %d." % i for i in range(1, most + 1)])
    return np.concatenate([[0], made.cumsum()])


@functools.cache
def _pool(least: int) -> int:
    """How many words of the list there are to choose from: single ones while they are enough."""
    single = sum(b"-" not in word for word in words()[:1000])
    if least > len(words()):
        raise ValueError(f"rows have room for {least} words; there are {len(words())}")
    return single if least <= single else len(words())


def _coded(draws: Draws, count: int) -> list[bytes]:
    """Distinct words of six letters."""
    found: dict[bytes, None] = {}
    while len(found) < count:
        drawn = (97 + draws.integers(26, 6 * (count - len(found)))).astype(np.uint8).tobytes()
        found.update(dict.fromkeys(drawn[i : i + 6] for i in range(0, len(drawn), 6)))
    return list(found)


@functools.lru_cache(maxsize=64)
def _number(tokenizer: str, alpha: float, length: int) -> int:
    """N of a text of at most `length` tokens, words of mean length."""
    made = codec(tokenizer)
    word = float(made.counts([b" " + word for word in _coded(Draws("words"), 100)]).mean())
    around = int(made.counts([b"".join(FREQUENT)])[0]) + math.ceil(3 * (word + 1)) + 1
    low, high = 1, 2 * length
    while low < high:
        middle = (low + high + 1) // 2
        counts = _counts(middle, alpha, length)
        size = around + int(made.counts([b" ..."])[0]) * counts[0] + word * counts[1:].sum()
        low, high = (middle, high) if size <= length else (low, middle - 1)
    return low


def _counts(number: int, alpha: float, length: int) -> np.ndarray:
    """How often the word of each rank stands in a text of N words; as many ranks as published."""
    import scipy.special  # late: it is imported slowly, and few need it

    ranks = np.arange(1, max(8, length // 50) + 1, dtype=np.float64)
    return (number * ranks**-alpha / scipy.special.zeta(alpha)).astype(int)
