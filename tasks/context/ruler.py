"""RULER's needles and chains (Hsieh et al. 2024, arXiv 2404.06654; NVIDIA/RULER).

The prompts are the published ones, without a worked example before them: a model is trained here.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np

from seqzoo.tasks.context.asking import Asked, with_answer
from seqzoo.tasks.context.haystack import NOISE, Group, HaystackTask, Story
from seqzoo.tasks.context.words import pairs
from seqzoo.tasks.data.generated import check_true
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Split, check_count

LONGEST = 8  # letters that a key may have more than another
TEXT = "no kind of this task has one"
ONE = (
    b"A special magic %(what)s is hidden within the following text. Make sure to memorize it. "
    b"I will quiz you about the %(what)s afterwards.\n",
    b"\nWhat is the special magic %(what)s for %(query)s mentioned in the provided text? "
    b"The special magic %(what)s for %(query)s mentioned in the provided text is",
)
SEVERAL = (
    b"Some special magic %(what)s are hidden within the following text. Make sure to memorize it. "
    b"I will quiz you about the %(what)s afterwards.\n",
    b"\nWhat are all the special magic %(what)s for %(query)s mentioned in the provided text? "
    b"The special magic %(what)s for %(query)s mentioned in the provided text are",
)
VARIABLES = (
    b"Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
    b"\nQuestion: Find all variables that are assigned the value %(query)s in the text above. "
    b"Answer: According to the chain(s) of variable assignment in the text above, %(count)s "
    b"variables are assigned the value %(query)s, they are:",
)
CITE = "Hsieh et al. 2024 (RULER), arXiv 2404.06654"
Kind = Literal[
    "single_1",
    "single_2",
    "single_3",
    "multikey_1",
    "multikey_2",
    "multikey_3",
    "multivalue",
    "multiquery",
]


class Needles(NamedTuple):
    """A published kind: what it hides where."""

    haystack: str  # noise, text (published: essays), or needles
    keys: str = "words"
    values: str = "numbers"
    num_keys: int = 1
    num_values: int = 1
    num_queries: int = 1


KINDS: dict[str, Needles] = {
    "single_1": Needles("noise"),
    "single_2": Needles("text"),
    "single_3": Needles("text", values="uuids"),
    "multikey_1": Needles("text", num_keys=4),
    "multikey_2": Needles("needles"),
    "multikey_3": Needles("needles", keys="uuids", values="uuids"),
    "multivalue": Needles("text", num_values=4),
    "multiquery": Needles("text", num_keys=4, num_queries=4),
}
assert tuple(KINDS) == get_args(Kind)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulerNeedles(HaystackTask):
    """A key's value, told once in a long text: the eight kinds of needles.

    "One of the special magic numbers for KEY is: VALUE." Keys are adjective-noun words or uuids,
    values numbers of seven digits or uuids. The haystack is five sentences again and again, a
    text, or other needles. Where ours differs: essays only as a file of one's own (`text`);
    values are given in the order of the queries, several of a key in the order of the text.
    """

    name: ClassVar[str] = "ruler_niah"
    description: ClassVar[str] = "needles in a haystack: RULER's eight kinds"
    cite: ClassVar[str] = CITE

    kind: Kind = "single_1"  # of needles and haystack, as published

    def __post_init__(self) -> None:
        known = self.kind in KINDS
        check_true(self, known, f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}")
        textual = not self.text or KINDS[self.kind].haystack == "text"
        rule = "its haystack is no text, so leave `text` out"
        check_true(self, textual, f"kind={self.kind}: {rule}; got {self.text!r}")
        super().__post_init__()

    @property
    def _least(self) -> int:
        story = self._story(Draws("one of them"))
        facts = [fact for group in story.groups for fact in group.facts]
        asked = Asked(story.head + b"\n".join(facts) + story.tail, story.answers)
        # A key stands in its needles and twice in the question.
        longer = (len(facts) + 2 * self._needles.num_queries) * LONGEST
        return len(with_answer(asked)[0]) + longer

    @property
    def _strings(self) -> int:
        return self._needles.num_values * self._needles.num_queries

    @property
    def _needles(self) -> Needles:
        return KINDS[self.kind]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the text is, of kinds that have one."""
        return super().notes if self._needles.haystack == "text" else ()

    @property
    def _between(self) -> bytes:
        return b" " if self._needles.haystack == "text" else b"\n"

    def _pieces(self, draws: Draws, split: Split, room: int, story: Story) -> Sequence[bytes]:
        kind = self._needles
        if kind.haystack == "noise":
            return [NOISE] * (room // len(NOISE) + 1)
        if kind.haystack == "text":
            return super()._pieces(draws, split, room, story)
        count = room // len(_needle(kind.values, b"", b"")) + 1
        keys = [key for key in drawn(draws, kind.keys, count) if key not in story.keys]
        values = drawn(draws, kind.values, len(keys))
        return list(map(_needle, [kind.values] * len(keys), keys, values))

    def _story(self, draws: Draws) -> Story:
        kind = self._needles
        keys = _distinct(draws, kind.keys, kind.num_keys)
        values = drawn(draws, kind.values, kind.num_keys * kind.num_values)
        of_key = [values[i :: kind.num_keys] for i in range(kind.num_keys)]
        asked = [int(i) for i in draws.permutation(kind.num_keys)[: kind.num_queries]]
        groups = [
            Group([_needle(kind.values, key, value) for value in of_key[i]], i in asked)
            for i, key in enumerate(keys)
        ]
        queries = [keys[i] for i in asked]
        query = b", and ".join([*filter(None, [b", ".join(queries[:-1])]), queries[-1]])
        head, tail = ONE if self._strings == 1 else SEVERAL
        what = kind.values[: -1 if self._strings == 1 else None].encode()
        said = {b"what": what, b"query": query}
        answers = [value for i in asked for value in of_key[i]]
        return Story(head % said, groups, tail % said, answers, frozenset(keys))

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """A random value; where the text has several, any of them in any place of the answer."""
        self.effective_seed(split, 0)
        kind = self._needles
        told = kind.num_keys * kind.num_values
        if kind.haystack == "needles":
            told = max(self._tested) // len(_needle(kind.values, *2 * (b"longer key",)))
        chance = 1 / (9 * 10**6) if kind.values == "numbers" else 2.0**-122
        return {"chance": chance, **({"any value": 1 / told} if told > 1 else {})}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RulerVariables(HaystackTask):
    """Chains of variables: which have the value that is asked for, directly or by assignment?

    "VAR ABCDE = 12345", then "VAR FGHIJ = VAR ABCDE " and so on, hidden in order in the five
    sentences; of several chains the first one's value is asked for. The answer names the variables
    in the order of the chain.
    """

    name: ClassVar[str] = "ruler_vt"
    description: ClassVar[str] = "variable tracking through a chain of assignments (RULER)"
    cite: ClassVar[str] = CITE

    num_chains: int = 1  # chains of variables, of which one is asked for
    num_hops: int = 4  # assignments of a variable to another, in each chain

    def __post_init__(self) -> None:
        check_count(self, "num_chains", most=1000)
        check_count(self, "num_hops", most=1000)
        check_true(self, not self.text, f"its haystack is no text, so leave `text` out; {TEXT}")
        super().__post_init__()

    @property
    def _least(self) -> int:
        story = self._story(Draws("one of them"))  # all are as long
        facts = [fact for group in story.groups for fact in group.facts]
        asked = Asked(story.head + b"\n".join(facts) + story.tail, story.answers)
        return len(with_answer(asked)[0]) + 1

    @property
    def _strings(self) -> int:
        return self.num_hops + 1

    @property
    def notes(self) -> tuple[str, ...]:
        """None: the haystack is the published one."""
        return ()

    @property
    def _between(self) -> bytes:
        return b"\n"

    def _pieces(self, draws: Draws, split: Split, room: int, story: Story) -> Sequence[bytes]:
        return [NOISE] * (room // len(NOISE) + 1)

    def _story(self, draws: Draws) -> Story:
        size = self.num_hops + 1
        names = _variables(draws, size * self.num_chains)
        values = [b"%d" % (10_000 + draws.below(89_999)) for _ in range(self.num_chains)]
        groups = []
        for i, value in enumerate(values):
            own = names[i * size : (i + 1) * size]
            told = (b"VAR %s = VAR %s " % (new, old) for old, new in itertools.pairwise(own))
            groups.append(Group([b"VAR %s = %s" % (own[0], value), *told], i == 0))
        said = {b"query": values[0], b"count": b"%d" % size}
        return Story(VARIABLES[0], groups, VARIABLES[1] % said, names[:size])

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any variable in any place of the answer."""
        self.effective_seed(split, 0)
        return {"any variable": 1 / (self.num_chains * (self.num_hops + 1))}


def _needle(what: str, key: bytes, value: bytes) -> bytes:
    return b"One of the special magic %s for %s is: %s." % (what.encode(), key, value)


def drawn(draws: Draws, kind: str, count: int) -> list[bytes]:
    """Keys or values of a kind: words, numbers or uuids."""
    if kind == "words":
        known = pairs()
        return [known[i] for i in draws.integers(len(known), count).tolist()]
    if kind == "numbers":
        return [b"%d" % (10**6 + i) for i in draws.integers(9 * 10**6, count).tolist()]
    bits = draws.words(4 * count).reshape(count, 4).copy()
    bits[:, 1] = bits[:, 1] & 0xFFFF0FFF | 0x4000  # version 4
    bits[:, 2] = bits[:, 2] & 0x3FFFFFFF | 0x80000000  # its variant
    whole = bits.astype(">u4").tobytes().hex().encode()
    cuts = ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32))
    return [b"-".join(whole[i + a : i + b] for a, b in cuts) for i in range(0, len(whole), 32)]


def _distinct(draws: Draws, kind: str, count: int) -> list[bytes]:
    found: dict[bytes, None] = {}
    while len(found) < count:
        found.update(dict.fromkeys(drawn(draws, kind, count - len(found))))
    return list(found)


def _variables(draws: Draws, count: int) -> list[bytes]:
    """Distinct names of five capitals."""
    found: dict[bytes, None] = {}
    while len(found) < count:
        letters = (65 + draws.integers(26, 5 * (count - len(found)))).astype(np.uint8).tobytes()
        found.update(dict.fromkeys(letters[i : i + 5] for i in range(0, len(letters), 5)))
    return list(found)
