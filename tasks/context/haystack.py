"""Facts somewhere in a text that does not matter: what fills it, and where the facts stand."""

from __future__ import annotations

import abc
import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqzoo.tasks.context.asking import Asked, DepthTask, with_answer
from seqzoo.tasks.context.words import phrases
from seqzoo.tasks.data.places import place
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Split

NOISE = b"The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
PER_TOKEN = 8  # bytes that are made for a token of a tokenizer's; fewer leave a row shorter
PARTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1.0)}  # of a user's text
PHRASES, MEAN = 4, 48  # of a sentence; bytes of a shorter one


class Group(NamedTuple):
    """Facts that stand in this order; those that are asked for obey the depth."""

    facts: Sequence[bytes]
    asked: bool = True


class Story(NamedTuple):
    """What stands around a haystack, in it, and the answers."""

    head: bytes
    groups: Sequence[Group]
    tail: bytes
    answers: Sequence[bytes]
    keys: frozenset[bytes] = frozenset()  # that nothing in the haystack may have


@dataclasses.dataclass(frozen=True, kw_only=True)
class HaystackTask(DepthTask):
    """Facts in a haystack.

    One fact asked for stands at the depth itself; of several, all stand in a window whose width is
    one part of `num_depths`, which slides with the depth from the beginning to the end. `text` is
    a file of one's own, cut into sentences: train, validation and test have parts of their own, of
    80, 10 and 10 % of the sentences, in order, from a random one on.
    """

    text: str = ""  # a file of sentences to hide facts in; none: sentences of random words

    @abc.abstractmethod
    def _story(self, draws: Draws) -> Story:
        """Facts and question."""

    @property
    def _between(self) -> bytes:
        """What stands between the pieces of the text."""
        return b" "

    def _pieces(self, draws: Draws, split: Split, room: int, story: Story) -> Sequence[bytes]:
        """Sentences of at least `room` bytes in all."""
        if self.text:
            return own_sentences(self.text, split, draws, room)
        return word_sentences(draws, room)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the text is, where it may be another."""
        return () if self.text else ("Text: sentences of random words, made here.",)

    def data_files(self, split: Split) -> Sequence[Path]:
        """The tokenizer's file and the text's, those that are used."""
        return (*super().data_files(split), *((text_file(self.text),) if self.text else ()))

    def _ask(self, draws: Draws, split: Split, length: int, depth: float | None) -> Asked:
        story = self._story(draws)
        facts = [fact for group in story.groups for fact in group.facts]
        bare = Asked(story.head + self._between.join(facts) + story.tail, story.answers)
        codec, between = self.codec, self._between
        room = length - int(codec.counts([with_answer(bare)[0]])[0]) - 1
        bytes_a_token = 1 if self.tokenizer == "byte" else PER_TOKEN
        pieces = self._pieces(draws, split, max(0, room) * bytes_a_token, story)
        ends = np.cumsum(codec.counts([piece + between for piece in pieces]))
        count = int(np.searchsorted(ends, room, side="right"))
        spots = draws.uniform(len(facts))
        while True:
            places = self._places(story.groups, spots, count, depth)
            context = between.join(_inserted(pieces[:count], facts, places))
            asked = Asked(story.head + context + story.tail, story.answers)
            # Tokens at borders may differ from those of pieces alone.
            if self.tokenizer == "byte" or count == 0:
                return asked
            over = int(codec.counts([with_answer(asked)[0]])[0]) - length
            if over <= 0:
                return asked
            count = max(0, min(count - 1, int(np.searchsorted(ends, ends[count - 1] - over))))

    def _places(
        self, groups: Sequence[Group], spots: np.ndarray, count: int, depth: float | None
    ) -> list[int]:
        """How many pieces stand before each fact; `spots` are numbers in (0, 1)."""
        alone = sum(len(group.facts) for group in groups if group.asked) == 1
        width = 0.0 if alone else 1 / self.num_depths
        places, used = [], 0
        for group in groups:
            own = np.sort(spots[used : used + len(group.facts)])
            used += len(own)
            if group.asked and depth is not None:
                own = depth * (1 - width) + own * width
                places += np.rint(own * count).astype(int).tolist()
            else:
                places += (own * (count + 1)).astype(int).tolist()
        return places


def _inserted(
    pieces: Sequence[bytes], facts: Sequence[bytes], places: Sequence[int]
) -> list[bytes]:
    """Pieces with facts between them; facts of one place keep their order."""
    found, before = [], 0
    for at, fact in sorted(zip(places, facts, strict=True), key=lambda pair: pair[0]):
        found += pieces[before:at]
        found.append(fact)
        before = at
    return [*found, *pieces[before:]]


def word_sentences(draws: Draws, room: int) -> list[bytes]:
    """Sentences of eight random words, more than `room` bytes in all."""
    known, sentences, size = phrases(), [], 0
    while size <= room:
        drawn = draws.integers(len(known), PHRASES * ((room - size) // MEAN + 1)).tolist()
        for i in range(0, len(drawn), PHRASES):
            words = [known[k] for k in drawn[i : i + PHRASES]]
            sentences.append(b" ".join(words).capitalize() + b".")
            size += len(sentences[-1]) + 1
    return sentences


def own_sentences(file: str, split: Split, draws: Draws, room: int) -> list[bytes]:
    """Sentences of a user's text one after another, at least `room` bytes in all."""
    whole = _sentences(file)
    begin, end = (int(share * len(whole)) for share in PARTS[split])
    own = whole[begin:end]
    at, found, size = draws.below(len(own)), [], 0
    while size <= room:
        found.append(own[at])
        size += len(own[at]) + 1
        at = (at + 1) % len(own)
    return found


def text_file(text: str) -> Path:
    """The file of a text. Raises FileNotFoundError where there is none."""
    path = place(text)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; give a plain text (UTF-8), as of books or essays, or leave the "
            "option out for sentences of random words"
        )
    return path


@functools.lru_cache(maxsize=4)
def _sentences(file: str) -> tuple[bytes, ...]:
    """All sentences of a file, white space between words one blank."""
    text = b" ".join(text_file(file).read_bytes().split())
    found = tuple(s for s in re.split(rb"(?<=[.!?]) ", text) if s)
    if len(found) < 10:
        raise ValueError(
            f"{file} has {len(found)} sentences; it needs at least 10, for three splits"
        )
    return found
