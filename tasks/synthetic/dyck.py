"""Dyck-(k, m), a language of k kinds of brackets nested at most m deep (Hewitt et al. 2020)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, fill, lm_spec, padded, real
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    SOLVED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)

SURE = 0.8  # the probability that counts as having learned a rule


class Sentence(NamedTuple):
    """Brackets and, after each prefix (the empty one first), the state of the stack."""

    tokens: list[int]
    closer: list[int]  # the legal closing bracket; -1: the stack is empty
    distance: list[int]  # tokens since the open bracket on top
    depth: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dyck(GeneratedTask):
    """The next token of strings of brackets.

    With an empty stack the string ends with probability 1/2, with a full one the only legal closing
    bracket follows, otherwise it follows with probability 1/2; opening brackets share the rest.
    Opening brackets are tokens 0 to k - 1, closing ones k to 2 k - 1, then START and END.

    `accuracy` is that of closing: where the stack is not empty, the legal closing bracket must have
    more than 0.8 of what all closing brackets have; for each distance to the open bracket, then
    averaged over distances. The other rules allow less than 0.2: to close with an empty stack, to
    open with a full one, to end before the stack is empty.

    Published: m of 3 and 5, k of 2, 8, 32, 128, 2e3 to 2e7 tokens of training, 20 000 of
    validation, 300 000 of testing; lengths count END, those of testing are the next ones up to
    twice the longest. Where ours differs: sizes count strings (`tokens_per_string` converts them).
    """

    name: ClassVar[str] = "dyck"
    description: ClassVar[str] = "brackets of k kinds nested at most m deep, as a language"
    cite: ClassVar[str] = "Hewitt et al. 2020, arXiv 2010.07515"
    solved_at: ClassVar[float | None] = SOLVED

    validation_size: int = 700  # strings
    test_size: int = 2_700  # examples of the test split
    num_kinds: int = 8  # k
    max_depth: int = 3  # m

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_kinds")
        check_count(self, "max_depth", least=2)

    @property
    def longest(self) -> int:
        """Of training, END included: 84 for a depth of 3, 180 for 5."""
        return 8 * self.max_depth * (self.max_depth - 2) + 60

    def lengths(self, split: Split) -> tuple[int, int]:
        """Shortest and longest string, END included; none is empty."""
        return (self.longest + 1, 2 * self.longest) if split == "test" else (3, self.longest)

    def tokens_per_string(self, split: Split, count: int = 1000) -> float:
        """The mean over the first `count` strings of a split."""
        source = self.source(split)
        sizes = [source[i]["segment_ids"].sum() for i in range(min(count, len(source)))]
        return float(np.mean(sizes))

    @property
    def spec(self) -> ModelSpec:
        """START and brackets in, brackets and END out."""
        size = 2 * self.num_kinds + 2
        return lm_spec(size, size, 2 * self.longest, causal=True)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        shortest, longest = self.lengths(split)
        sentence = None
        while sentence is None:
            sentence = self._sentence(draws, shortest, longest)
        start, end = 2 * self.num_kinds, 2 * self.num_kinds + 1
        example = padded([start, *sentence.tokens], [*sentence.tokens, end], longest)
        return {
            **example,
            "closer": fill(sentence.closer, longest, -1),
            "distance": fill(sentence.distance, longest, 0),
            "depth": fill(sentence.depth, longest, 0),
        }

    def _sentence(self, draws: Draws, shortest: int, longest: int) -> Sentence | None:
        """A string, or None where it becomes too long."""
        kinds, deepest = self.num_kinds, self.max_depth
        stack: list[tuple[int, int]] = []  # kind, place
        out = Sentence([], [-1], [0], [0])
        turns = iter(draws.words(2 * longest + 2).tolist())
        while True:
            turn = next(turns)
            # The lowest bit decides between opening and its alternative, the others what is opened.
            opens = turn & 1 if 0 < len(stack) < deepest else not stack
            if not stack and turn & 1:  # END, drawn again while the string is too short
                if len(out.tokens) + 1 >= shortest:
                    return out
                turn = next(turns)
            if len(out.tokens) + 1 >= longest:
                return None
            if opens:
                kind = (turn >> 1) % kinds
                stack.append((kind, len(out.tokens)))
                out.tokens.append(kind)
            else:
                out.tokens.append(kinds + stack.pop()[0])
            place = len(out.tokens) - 1
            out.closer.append(kinds + stack[-1][0] if stack else -1)
            out.distance.append(place - stack[-1][1] if stack else 0)
            out.depth.append(len(stack))

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy, accuracy of closing, and how often the three rules are kept."""
        kinds = self.num_kinds
        probability = jax.nn.softmax(outputs.astype(jnp.float32), axis=-1)
        opening = probability[..., :kinds].sum(-1)
        closing = probability[..., kinds : 2 * kinds].sum(-1)
        closer, depth, distance = (batch[name] for name in ("closer", "depth", "distance"))
        legal = jnp.take_along_axis(probability, jnp.maximum(closer, 0)[..., None], -1)[..., 0]
        seen = (batch["segment_ids"] > 0) * example_weight(batch)[:, None]

        def share(kept: Array, where: Array) -> tuple[Array, Array]:
            weight = seen * where
            return jnp.sum(weight * kept), weight.sum()

        weight = seen * (closer >= 0)
        zeros = jnp.zeros(closer.shape[1], jnp.float32)
        right = weight * (legal > SURE * closing)
        by_distance = tuple(
            zeros.at[distance.ravel()].add(x.astype(jnp.float32).ravel()) for x in (right, weight)
        )
        return {
            "loss": measure_tokens(outputs, batch)["loss"],
            "accuracy": by_distance,
            "no_closing_if_empty": share(closing < 1 - SURE, depth == 0),
            "no_opening_if_full": share(opening < 1 - SURE, depth == self.max_depth),
            "no_end_if_open": share(probability[..., -1] < 1 - SURE, depth > 0),
        }

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """All closing brackets alike."""
        self.effective_seed(split, 0)
        return {"any closing bracket": float(self.num_kinds == 1)}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """Brackets with the number of their kind."""
        kinds = self.num_kinds
        tokens = real(example, "inputs")[1:]
        return " ".join(f"({t}" if t < kinds else f"{t - kinds})" for t in tokens)
