"""Capo: how many bits of facts about people a model holds."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import GeneratedTask, lm_spec
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    Example,
    Metrics,
    Split,
    check_count,
    example_weight,
    measure_tokens,
)

NAMES = (400, 400, 1000)  # first, middle and last names
# What is said of a person: sentence after sentence, the sizes of its values. The city of work is
# the employer's, and says nothing more than the employer does.
PRONOUNS, WORDINGS = 2, 50
CITIES, EMPLOYERS = 200, 263
SENTENCES = ((12, 28, 200), (CITIES,), (300,), (100,), (CITIES,), (EMPLOYERS,))
BITS = sum(math.log2(n) for n in (PRONOUNS, 12, 28, 200, CITIES, 300, 100, EMPLOYERS))
_SPREAD = 61_803_399  # has no factor of the number of names, so that no name is there twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capo(GeneratedTask):
    """Biographies: a name, then six sentences whose values are to be known by heart.

    Every value is uniform over as many as the published lists have: birth date 12 x 28 x 200, city
    200, university 300, field 100, employer 263, who says the city of work, and a pronoun; names
    400 x 400 x 1000. That is 47.6 bits a person. All splits are about the same people, in sentences
    worded anew. `bits` is what a model knows of a person: 47.6 less its loss on the values, in
    bits; times `num_people`, over the number of parameters, it is the published capacity, about 2
    bits a parameter after 1000 exposures.

    Where ours differs: the words around a value are one token, one of 50 wordings of a sentence,
    and each value is one token, not text; only values are labelled.
    """

    name: ClassVar[str] = "capo"
    description: ClassVar[str] = "facts about people by heart, in bits (Physics of LMs 3.3, 4.1)"
    cite: ClassVar[str] = "Allen-Zhu & Li 2024, arXiv 2404.05405; Physics of Language Models 4.1"

    train_size: int = 1_000_000  # a hundred biographies of everybody
    num_people: int = 10_000  # whose lives are told
    population: int = 0  # which people; the seed of a run draws the wordings alone

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "num_people", most=10**7)
        check_count(self, "population", least=0)

    @property
    def spec(self) -> ModelSpec:
        """Names, pronouns, values and wordings, each kind with tokens of its own."""
        return lm_spec(_LAST, _LAST, len(_KINDS) - 1, causal=True)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        person = draws.below(self.num_people) if split == "train" else index % self.num_people
        told = _biography(self.population, person)
        wording = draws.integers(WORDINGS, len(SENTENCES))
        tokens = _FIRST + np.where(_WORDING >= 0, wording[_WORDING], told)
        targets = np.where(_LABELLED, tokens, IGNORED)[1:]
        return {"inputs": tokens[:-1].astype(np.int32), "targets": targets.astype(np.int32)}

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy of the values, and bits that are known of a person."""
        measured = measure_tokens(outputs, batch)
        total, _ = measured["loss"]
        people = example_weight(batch).sum()
        return {**measured, "bits": (BITS * people - total / jnp.log(2.0), people)}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Any value, each in its place."""
        self.effective_seed(split, 0)
        sizes = np.array([size for size, _ in _KINDS])
        return {"chance": float((1 / sizes[_LABELLED]).mean())}


def _kinds() -> list[tuple[int, str]]:
    """Size and kind of each token of a biography."""
    row = [(size, f"name {i}") for i, size in enumerate(NAMES)]
    for i, sizes in enumerate(SENTENCES):
        # The first sentence is about the name, the others about him or her.
        row += [(PRONOUNS, "pronoun")] if i else []
        row.append((WORDINGS, f"wording {i}"))
        row += [(n, "city" if n == CITIES else f"value {i} {n}") for n in sizes]
    return row


_KINDS = _kinds()
_SIZES = {kind: size for size, kind in _KINDS}
_BEGINS = dict(zip(_SIZES, np.cumsum([0, *_SIZES.values()]).tolist(), strict=False))
_LAST = sum(_SIZES.values())
_FIRST = np.array([_BEGINS[kind] for _, kind in _KINDS])
_WORDING = np.array([int(k[8:]) if k.startswith("wording") else -1 for _, k in _KINDS])
_SEEN = np.array([kind == "pronoun" for _, kind in _KINDS])
_LABELLED = np.array([k == "city" or k.startswith("value") for _, k in _KINDS])
_LABELLED[np.argmax(_SEEN)] = True  # the pronoun, the first time


@functools.lru_cache(maxsize=2**16)
def _biography(population: int, person: int) -> Int[np.ndarray, "L"]:
    """What is known of a person, a value at each of its places, zeros at the wordings."""
    draws = Draws("capo", "person", population, person)
    name = (person * _SPREAD + _first_name(population)) % math.prod(NAMES)
    row = [name % NAMES[0], name // NAMES[0] % NAMES[1], name // (NAMES[0] * NAMES[1])]
    pronoun = draws.below(PRONOUNS)
    employer = draws.below(EMPLOYERS)
    for i, sizes in enumerate(SENTENCES):
        row += [pronoun] if i else []
        row.append(0)
        row += [draws.below(n) for n in sizes]
    row[-1] = employer
    row[-4] = Draws("capo", "employer", employer).below(CITIES)
    return np.array(row)


@functools.cache
def _first_name(population: int) -> int:
    """Where the names of a population begin."""
    return Draws("capo", "names", population).below(math.prod(NAMES))
