"""SelectivBench: which state of a fixed grammar a sequence is in, by what came before."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import numpy as np

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, check_true, fill, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import IGNORED, SOLVED, Example, Split, check_count

LARGEST = 2**22  # places of a grammar's table
TRIES = 100  # grammars that are drawn
RARELY = 0.01  # of strings that end in time, at least


class Automaton(NamedTuple):
    """A grammar: state 0 ends a string; state 1 + s * instances + i shows symbol 1 + s."""

    starts: list[int]
    follows: list[list[int]]  # states after each state
    absent: list[list[int]]  # symbols that stand after no such state


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectivBench(GeneratedTask):
    """Symbols of a random grammar, each of which stands for one of many states: which one is it?

    From every state each symbol goes to at most one of its states, with probability `density` (the
    end with density / instances), so that what came before says which. Strings begin in one of four
    states; those of up to `length` elements with their end follow each other until a row has
    `length` elements. After an element 1 to `gap` blanks stand (published: durations of 0.1 to
    `gap` / 10, rounded), all labelled as the element is. With `distractors`, elements after the
    first `distractor_start` are followed by a symbol that the grammar forbids, with that
    probability, in place of blanks.

    Published: 20 to 40 symbols of as many states (complexity), gaps up to 10, distractors at 0.1,
    test gaps of 10 to 100. Where ours differs: tokens, so no noise in the input; every step counts,
    where the published accuracy sums a model's outputs over the steps of an element.
    """

    name: ClassVar[str] = "selectivbench"
    description: ClassVar[str] = "states of a grammar with ambiguous symbols (SelectivBench)"
    cite: ClassVar[str] = "Bouhadjar et al. 2026, arXiv 2601.12598 (symseqbench/selectivbench)"
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 200_000  # examples to train on
    length: int = 200  # elements
    symbols: int = 20  # tokens that rows are made of
    instances: int = 20  # states that show the same symbol
    density: float = 0.4  # probability that a symbol follows a state
    gap: int = 1  # blanks after an element, at most; 0: none
    test_gap: int = 0  # of testing; 0: as in training
    distractors: float = 0.0  # probability of a forbidden symbol after an element
    distractor_start: int = 50  # elements before the first
    grammar: int = 0  # which grammar; the seed of a run draws strings alone

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "length", least=2, most=10**6)
        check_count(self, "symbols", least=2, most=500)
        check_count(self, "instances", most=500)
        for field in ("gap", "test_gap", "distractor_start", "grammar"):
            check_count(self, field, least=0, most=10**6)
        for field in ("density", "distractors"):
            value = getattr(self, field)
            valid = isinstance(value, int | float) and 0 <= value <= 1
            check_true(self, valid, f"{field} must be in 0 to 1; got {value!r}")
        many = self.density * self.symbols >= 2
        check_true(self, many, "density times symbols must be at least 2, the mean of followers")
        size = self.symbols**2 * self.instances
        rule = f"symbols squared times instances must be at most {LARGEST}"
        check_true(self, size <= LARGEST, f"{rule}; got {size}")
        alone = not (self.distractors and self.gap > 1)
        check_true(self, alone, "distractors stand in place of blanks: give gap=1 or gap=0")

    @property
    def spec(self) -> ModelSpec:
        """The end, symbols and the blank in; states out."""
        longest = max(self._row("train"), self._row("test"))
        return lm_spec(2 + self.symbols, 1 + self.symbols * self.instances, longest)

    def _gap(self, split: Split) -> int:
        return self.test_gap if split == "test" and self.test_gap else self.gap

    def _row(self, split: Split) -> int:
        most = 1 if self.distractors else self._gap(split)
        return self.length * (1 + most)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        made = automaton(self.symbols, self.instances, self.density, self.grammar, self.length)
        states = np.array(_strings(draws, made, self.length), np.int32)
        shown = np.where(states > 0, 1 + (states - 1) // self.instances, 0)
        if self.distractors:
            after, what = self._forbidden(draws, made, states)
        else:
            most = self._gap(split)
            after = 1 + draws.integers(most, self.length) if most else np.zeros(self.length, int)
            what = np.full(self.length, 1 + self.symbols)
        steps, row = 1 + after, self._row(split)
        begins = np.cumsum(steps) - steps
        inputs = np.repeat(what, steps)
        inputs[begins] = shown
        return {
            "inputs": fill(inputs, row, 0),
            "targets": fill(np.repeat(states, steps), row, IGNORED),
            "segment_ids": fill(np.ones(len(inputs), np.int32), row, 0),
        }

    def _forbidden(
        self, draws: Draws, made: Automaton, states: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whether a forbidden symbol stands after each element, and which."""
        after = draws.uniform(self.length) < self.distractors
        after[: self.distractor_start] = False
        what = np.zeros(self.length, np.int64)
        for i in np.flatnonzero(after).tolist():
            choice = made.absent[states[i]]
            after[i] = bool(choice)
            what[i] = choice[draws.below(len(choice))] if choice else 0
        return after.astype(np.int64), what

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The state that each symbol shows most often."""
        source = self.source(split, seed)
        count = np.zeros((2 + self.symbols, self.spec.outputs))
        for i in range(len(source)):
            row = source[i]
            real = row["targets"] != IGNORED
            np.add.at(count, (row["inputs"][real], row["targets"][real]), 1 / real.sum())
        return {"the symbol's state": float(count.max(1).sum() / len(source))}


def _strings(draws: Draws, made: Automaton, length: int) -> list[int]:
    """States of strings one after another; those longer than `length` are drawn again."""
    row: list[int] = []
    while len(row) < length:
        chances = draws.words(length).tolist()
        state = made.starts[chances[0] % len(made.starts)]
        string = [state]
        for chance in chances[1:]:
            edges = made.follows[state]
            state = edges[chance % len(edges)]
            string.append(state)
            if not state:
                row += string
                break
    return row[:length]


@functools.lru_cache(maxsize=8)
def automaton(symbols: int, instances: int, density: float, number: int, length: int) -> Automaton:
    """A random grammar, drawn again until the end can be reached from every state.

    Raises ValueError where that is not found, or too few strings end within `length` elements.
    """
    draws = Draws("selectivbench", "grammar", symbols, instances, density, number)
    states = 1 + symbols * instances
    for _ in range(TRIES):
        there = draws.uniform(states * symbols).reshape(states, symbols) < density
        which = 1 + np.arange(symbols) * instances
        which = which + draws.integers(instances, states * symbols).reshape(states, symbols)
        ends = draws.uniform(states) < density / instances
        there[0] = ends[0] = False
        starts = (1 + draws.some(states - 1, min(4, states - 1))).tolist()
        if _all_end(there, which, ends):
            break
    else:
        raise ValueError(
            f"task selectivbench: of {TRIES} grammars none has an end after every state; give a "
            "larger density or more symbols"
        )
    share = _ending(there, which, ends, length)[starts].mean()
    if share < RARELY:
        raise ValueError(
            f"task selectivbench: {100 * share:.2g} % of strings end within length={length} "
            "elements; give a larger length, or fewer instances, whose number makes ends rare"
        )
    follows = [[*which[s][there[s]].tolist(), *([0] if ends[s] else [])] for s in range(states)]
    absent = [
        [*(1 + np.flatnonzero(~there[s])).tolist(), *([] if ends[s] else [0])]
        for s in range(states)
    ]
    return Automaton(starts, follows, absent)


def _all_end(there: np.ndarray, which: np.ndarray, ends: np.ndarray) -> bool:
    """Whether the end can be reached from every state."""
    reached, before = ends.copy(), -1
    reached[0] = True
    while before < reached.sum():
        before = reached.sum()
        reached |= (there & reached[which]).any(1)
    return bool(reached.all())


def _ending(there: np.ndarray, which: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """From each state, the share of strings that have at most `length` elements, the end too."""
    followers = np.maximum(there.sum(1) + ends, 1)
    share = np.zeros(len(ends))
    share[0] = 1.0
    for _ in range(min(length, 1000) - 1):
        more = (np.where(there, share[which], 0).sum(1) + ends) / followers
        more[0] = 1.0
        share = more
    return share
