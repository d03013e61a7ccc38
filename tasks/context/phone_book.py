"""Phone books (Jelassi et al. 2024, arXiv 2402.01032): a number by its name."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from seqzoo.tasks.context.asking import Asked, DepthTask
from seqzoo.tasks.context.words import FIRST_NAMES, LAST_NAMES, people
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Split, check_count

DIGITS = 10  # of a number, the first from 6 to 9
LONGEST = max(map(len, FIRST_NAMES)) + len(" ") + max(map(len, LAST_NAMES))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhoneBook(DepthTask):
    """Names and numbers, two of the entries again as a pattern, and a third name: its number?

    `length` counts entries; the depth is the place of the one asked for. Where ours differs: the
    list of names (`names`, a package, has the published one), and no person stands there twice.
    """

    name: ClassVar[str] = "phone_book"
    description: ClassVar[str] = "a phone number by its name, any length of the book"
    cite: ClassVar[str] = "Jelassi et al. 2024, arXiv 2402.01032"

    length: int = 20  # entries

    def __post_init__(self) -> None:
        check_count(self, "length", most=len(people()))
        super().__post_init__()

    @property
    def _least(self) -> int:
        return 3

    @property
    def _strings(self) -> int:
        return 1

    def _tokens(self, length: int) -> int:
        # Lines of book and pattern, two line ends more, question and answer: never more tokens.
        return (length + 2) * (LONGEST + DIGITS + 3) + 2 + LONGEST + DIGITS + 3

    def _ask(self, draws: Draws, split: Split, length: int, depth: float | None) -> Asked:
        known = people()
        chosen = [known[i] for i in draws.some(len(known), length).tolist()]
        digits = 48 + draws.integers(10, DIGITS * length).reshape(length, DIGITS)
        digits[:, 0] = 54 + digits[:, 0] % 4
        numbers = digits.astype("u1").tobytes()
        numbers = [numbers[i : i + DIGITS] for i in range(0, len(numbers), DIGITS)]
        lines = list(map(b"%s: %s".__mod__, zip(chosen, numbers, strict=True)))
        place = draws.below(length) if depth is None else round(depth * (length - 1))
        others = [(place + 1 + i) % length for i in draws.subset(length - 1, 2).tolist()]
        if draws.below(2):
            others.reverse()
        shown = [lines[i] for i in others]
        prompt = b"\n".join([*lines, b"", *shown, b"", chosen[place] + b":"])
        return Asked(prompt, [numbers[place]])

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any number of the book."""
        self.effective_seed(split, 0)
        return {"any number": 1 / max(self._tested)}
