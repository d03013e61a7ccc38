"""Stories of bAbI (Weston et al. 2015, arXiv 1502.05698): people who walk, take and leave things.

    qa1  Where is Mary?                            one fact: her last walk
    qa2  Where is the milk?                        two: who has or left it, and where that is
    qa3  Where was the milk before the kitchen?    three: the place before that one

A thing is known to be somewhere from the moment that somebody takes it; nobody takes or leaves
anything before a walk says where they are.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, NamedTuple, get_args

from seqzoo.tasks.data.streams import Draws

Question = Literal["qa1", "qa2", "qa3"]
QUESTIONS: tuple[str, ...] = get_args(Question)
PEOPLE = (b"Mary", b"John", b"Daniel", b"Sandra")
PLACES = (b"bathroom", b"bedroom", b"garden", b"hallway", b"kitchen", b"office")
THINGS = (b"football", b"milk", b"apple")
WALKS = (b"went to", b"moved to", b"journeyed to", b"travelled to", b"went back to")
TAKES = (b"got", b"took", b"grabbed", b"picked up")
LEAVES = (b"dropped", b"left", b"discarded", b"put down")
LONGEST = len(b"Sandra travelled to the bathroom.")  # of the facts; taking and leaving are shorter


class Told(NamedTuple):
    """Facts in order, a question about them, and its answer."""

    facts: list[bytes]
    question: bytes
    answer: bytes


@dataclasses.dataclass
class World:
    """Who is where, who has what, and which places each thing has been at."""

    where: dict[int, int] = dataclasses.field(default_factory=dict)
    holder: dict[int, int] = dataclasses.field(default_factory=dict)
    been: dict[int, list[int]] = dataclasses.field(default_factory=dict)

    def act(self, draws: Draws, things: bool) -> bytes:
        """One random action and its sentence."""
        person = draws.below(len(PEOPLE))
        if things and person in self.where and draws.below(2):
            done = self._leave(draws, person) if draws.below(2) else self._take(draws, person)
            if done:
                return done
        here = self.where.get(person, -1)
        there = draws.below(len(PLACES))
        while there == here:
            there = draws.below(len(PLACES))
        self.where[person] = there
        for thing, holder in self.holder.items():
            if holder == person:
                self.been[thing].append(there)
        walk = WALKS[draws.below(len(WALKS))]
        return b"%s %s the %s." % (PEOPLE[person], walk, PLACES[there])

    def _take(self, draws: Draws, person: int) -> bytes | None:
        here = self.where[person]
        free = [t for t in range(len(THINGS)) if t not in self.holder]
        free = [t for t in free if t not in self.been or self.been[t][-1] == here]
        if not free:
            return None
        thing = free[draws.below(len(free))]
        self.holder[thing] = person
        self.been.setdefault(thing, [here])
        word = TAKES[draws.below(len(TAKES))]
        return b"%s %s the %s there." % (PEOPLE[person], word, THINGS[thing])

    def _leave(self, draws: Draws, person: int) -> bytes | None:
        own = sorted(t for t, holder in self.holder.items() if holder == person)
        if not own:
            return None
        thing = own[draws.below(len(own))]
        del self.holder[thing]
        word = LEAVES[draws.below(len(LEAVES))]
        return b"%s %s the %s." % (PEOPLE[person], word, THINGS[thing])

    def asked(self, draws: Draws, question: str) -> tuple[bytes, bytes] | None:
        """A question that the facts answer, if there is one."""
        if question == "qa1":
            known = sorted(self.where)
            person = known[draws.below(len(known))]
            return b"Where is %s?" % PEOPLE[person], PLACES[self.where[person]]
        # The place named must have been reached once, else "before" has two meanings.
        least = 1 if question == "qa2" else 2
        known = sorted(
            thing
            for thing, been in self.been.items()
            if len(been) >= least and (least == 1 or been.count(been[-1]) == 1)
        )
        if not known:
            return None
        thing = known[draws.below(len(known))]
        been = self.been[thing]
        if question == "qa2":
            return b"Where is the %s?" % THINGS[thing], PLACES[been[-1]]
        return (
            b"Where was the %s before the %s?" % (THINGS[thing], PLACES[been[-1]]),
            PLACES[been[-2]],
        )


def tell(draws: Draws, question: str, count: int, most: int) -> Told:
    """A story of `count` facts, or more, up to `most`, where these answer no such question.

    Of those that answer none, another is told.
    """
    while True:
        world, facts = World(), []
        while len(facts) < most:
            facts.append(world.act(draws, question != "qa1"))
            found = world.asked(draws, question) if len(facts) >= count else None
            if found:
                return Told(facts, *found)
