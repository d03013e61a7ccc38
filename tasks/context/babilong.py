"""BABILong (Kuratov et al. 2024, arXiv 2406.10149): facts of bAbI within a long text."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from seqzoo.tasks.context import babi
from seqzoo.tasks.context.haystack import Group, HaystackTask, Story
from seqzoo.tasks.data.generated import check_true
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import Split, check_count

MOST = {"qa1": 10, "qa2": 20, "qa3": 30}  # facts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Babilong(HaystackTask):
    """Where is somebody or something? The facts that say so stand in order in a long text.

    `num_facts` is the most that a story has; the least is 2. Places between sentences are uniform,
    within a window of the text in testing. Where ours differs: stories are made here, by bAbI's
    rules (tasks/context/babi.py), not taken from its files; the text is one's own file, or
    sentences of random words, where the published one is PG-19; no instruction before it.
    """

    name: ClassVar[str] = "babilong"
    description: ClassVar[str] = "bAbI's questions, their facts hidden in a long text"
    cite: ClassVar[str] = "Kuratov et al. 2024, arXiv 2406.10149; Weston et al. 2015"

    question: babi.Question = "qa1"  # qa1, qa2 or qa3 of bAbI: how many facts answer it
    num_facts: int = 0  # at most; 0: 10, 20 and 30 of qa1, qa2 and qa3

    def __post_init__(self) -> None:
        known = self.question in babi.QUESTIONS
        rule = f"question must be one of {', '.join(babi.QUESTIONS)}"
        check_true(self, known, f"{rule}; got {self.question!r}")
        check_count(self, "num_facts", least=0, most=1000)
        rule = "num_facts must be at least 8, so that stories answer their question, or 0"
        check_true(self, not 0 < self.num_facts < 8, f"{rule}; got {self.num_facts}")
        super().__post_init__()

    @property
    def _most(self) -> int:
        return self.num_facts or MOST[self.question]

    @property
    def _least(self) -> int:
        asked = len(b"\nWhere was the football before the bathroom? bathroom.")
        return self._most * (babi.LONGEST + 1) + asked

    @property
    def _strings(self) -> int:
        return 1

    def _story(self, draws: Draws) -> Story:
        count = 2 + draws.below(self._most - 1)
        facts, question, answer = babi.tell(draws, self.question, count, self._most)
        return Story(b"", [Group(facts)], b"\n" + question, [answer])

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any place."""
        self.effective_seed(split, 0)
        return {"chance": 1 / len(babi.PLACES)}
