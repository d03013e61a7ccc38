"""Brevo: everything that a node of a directed graph depends on, in an order that respects it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, check_true, fill, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.skills.words import CITE, distinct_words, number_of_words, size
from seqzoo.tasks.task import (
    IGNORED,
    SOLVED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)

PARENTS = CHILDREN = 4  # at most, of a node
BOS, EOS, QUERY, ANSWER = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Brevo(GeneratedTask):
    """Edges (parent, child) in random order, a node, then all that it depends on and itself.

    Any topological order is an answer; one at random is given. What counts is whether a token may
    stand where it is put, after the answer that was given so far: of a node in the answer whose
    parents have all been there, and which has not. `accuracy` is the share of rows in which every
    token may, and the end stands where it must.

    A graph has n nodes, 3 to `num_nodes`, most often few, in training and `num_nodes` in validation
    and testing; the first 1 to (n - 1) / 4 + 1 have no parents, each other one 1 to 4 of those
    before it that have less than 4 children. The last one is asked for. Published: 110, 90 or 70
    nodes of one token (Brevo1), 50, 40 or 30 of 2 to 4 tokens out of 4 (Brevo2: `max_word=4`).
    Where ours differs: given answers (the published test lets the model go on by itself).
    """

    name: ClassVar[str] = "brevo"
    description: ClassVar[str] = "all that a node depends on, in order (Physics of LMs 4.1)"
    cite: ClassVar[str] = CITE
    solved_at: ClassVar[float | None] = SOLVED

    num_nodes: int = 70  # nodes of the largest graph
    test_nodes: int = 0  # of validation and testing; 0: as many
    max_word: int = 1  # tokens of a node's name; 1: a token for each node
    min_word: int = 2  # where names have several
    symbols: int = 4  # tokens that such names are made of; as many again end them

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_nodes", least=3, most=10**4)
        check_count(self, "test_nodes", least=0, most=10**4)
        check_count(self, "max_word", most=16)
        check_count(self, "symbols", most=10**4)
        if self.max_word > 1:
            check_count(self, "min_word", most=self.max_word)
            room, most = self._names, max(self.num_nodes, self.test_nodes)
            rule = f"{room} names can be made of these tokens; {most} nodes need twice as many"
            check_true(self, room >= 2 * most, rule)

    @property
    def _names(self) -> int:
        return number_of_words(self.symbols, self.min_word, self.max_word)

    @property
    def spec(self) -> ModelSpec:
        """Four signs, then the tokens of names."""
        most = max(self.num_nodes, self.test_nodes)
        vocab = 4 + (most if self.max_word == 1 else 2 * self.symbols)
        longest = max(self._row("train"), self._row("test"))
        return lm_spec(vocab, vocab, longest, causal=True)

    def _nodes(self, split: Split) -> int:
        return self.num_nodes if split == "train" else self.test_nodes or self.num_nodes

    def _row(self, split: Split) -> int:
        nodes = self._nodes(split)
        return 3 + self.max_word * (2 * PARENTS * nodes + 1 + nodes)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        most = self._nodes(split)
        count = size(draws, most) if split == "train" else most
        parents = _graph(draws, count)
        names = self._named(draws, count)
        order = _order(draws, parents)
        edges = np.array([(p, c) for c, own in enumerate(parents) for p in own], np.int64)
        edges = names[edges[draws.permutation(len(edges))]].ravel()
        question = [QUERY, *names[count - 1], ANSWER]
        answer = names[order]
        known = np.concatenate([[BOS], edges[edges > 0], [t for t in question if t > 0]])
        place = np.zeros(count, np.int64)
        place[order] = np.arange(len(order))
        ready = [max((place[p] + 1 for p in parents[node]), default=0) for node in order]
        step, offset = np.nonzero(answer)
        tokens = np.concatenate([known, answer[step, offset], [EOS]]).astype(np.int32)
        row, size_, first = self._row(split), len(tokens) - 1, len(known) - 1
        steps, offsets = np.full(row, -1, np.int32), np.zeros(row, np.int32)
        steps[first : size_ - 1], offsets[first : size_ - 1] = step, offset
        targets = np.full(row, IGNORED, np.int32)
        targets[first:size_] = tokens[first + 1 :]
        nodes = np.zeros((most, self.max_word), np.int32)
        nodes[: len(order)] = answer
        return {
            "inputs": fill(tokens[:-1], row, 0),
            "targets": targets,
            "segment_ids": fill(np.ones(size_, np.int32), row, 0),
            "step": steps,  # the node of the answer that a target belongs to
            "offset": offsets,  # which of its tokens
            "names": nodes,  # of the answer's nodes, in order
            "ready": fill(ready, most, 0),  # the first step at which a node may stand
        }

    def _named(self, draws: Draws, count: int) -> np.ndarray:
        if self.max_word == 1:
            most = max(self.num_nodes, self.test_nodes)
            return (4 + draws.some(most, count)[:, None]).astype(np.int32)
        words = distinct_words(draws, count, self.symbols, self.min_word, self.max_word)
        return np.where(words > 0, words + 3, 0)

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy of the answer given, and what may stand where it is put."""
        may = allowed(jnp.argmax(outputs, axis=-1), batch)
        labelled, weight = batch["targets"] != IGNORED, example_weight(batch)
        rows = (may | ~labelled).all(1)
        tokens = weight[:, None] * labelled
        return {
            "loss": measure_tokens(outputs, batch)["loss"],
            "accuracy": (jnp.sum(weight * rows), weight.sum()),
            "token_accuracy": (jnp.sum(tokens * may), tokens.sum()),
        }

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any order of the nodes, which never respects all edges of a graph of some size."""
        self.effective_seed(split, 0)
        return {"chance": 0.0}

    def _symbol(self, token: int) -> str:
        return {BOS: "^", EOS: ".", QUERY: "?", ANSWER: "="}.get(token, str(token - 3))

    _label = _symbol


def allowed(predicted: Array, batch: Mapping[str, Array]) -> Bool[Array, "B L"]:
    """Whether a predicted token is one of a node that may stand there, or the end at the end."""
    names, step, offset = batch["names"], batch["step"], batch["offset"]
    nodes = jnp.arange(names.shape[1])
    before = jnp.arange(names.shape[2])[:, None] > jnp.arange(names.shape[2])
    same = (names[:, :, None] == names[:, None])[:, :, :, None] | ~before  # [B, A, A, W, W]
    same = same.all(-1)  # names that begin alike, up to each token
    at = jnp.maximum(step, 0)
    rows = jnp.arange(len(names))[:, None]
    begins = same[rows, at, :, offset]  # [B, L, A]
    may = (batch["ready"][:, None] <= at[..., None]) & (at[..., None] <= nodes)
    token = jnp.swapaxes(names, 1, 2)[rows, offset]  # [B, L, A]
    node = (begins & may & (token == predicted[..., None]) & (token > 0)).any(-1)
    return jnp.where(step >= 0, node, predicted == EOS)


def _graph(draws: Draws, count: int) -> list[list[int]]:
    """The parents of each node."""
    leaves = 1 + draws.below((count - 1) // 4 + 1)
    parents: list[list[int]] = [[] for _ in range(count)]
    free, children = list(range(leaves)), [0] * count
    for node in range(leaves, count):
        for _ in range(1 + draws.below(min(len(free), PARENTS))):
            at = draws.below(len(free))
            while free[at] in parents[node]:
                at = draws.below(len(free))
            parents[node].append(free[at])
        for parent in parents[node]:
            children[parent] += 1
            if children[parent] == CHILDREN:
                free.remove(parent)
        free.append(node)
    return parents


def _order(draws: Draws, parents: list[list[int]]) -> list[int]:
    """What the last node depends on and itself: taken from the end, any that nothing left needs."""
    needed, seen = [len(parents) - 1], {len(parents) - 1}
    for node in needed:
        fresh = [p for p in parents[node] if p not in seen]
        seen.update(fresh)
        needed += fresh
    waiting = dict.fromkeys(needed, 0)
    for node in needed:
        for parent in parents[node]:
            waiting[parent] += 1
    order, ready = [], [len(parents) - 1]
    while ready:
        node = ready.pop(draws.below(len(ready)))
        order.append(node)
        for parent in parents[node]:
            waiting[parent] -= 1
            if not waiting[parent]:
                ready.append(parent)
    return order[::-1]
