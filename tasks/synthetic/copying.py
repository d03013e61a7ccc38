"""Copying over long gaps: selective copying, copy memory in two versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import (
    GeneratedTask,
    check_true,
    labelled_at,
    lm_spec,
    measure_sequences,
    padded,
)
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    IGNORED,
    SOLVED,
    Example,
    Metrics,
    Split,
    check_count,
    measure_tokens,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Copying(GeneratedTask):
    """S4's copying: tokens, blanks, then markers, at which the tokens are to be given back.

    Token 0 is blank, 1 to alphabet - 2 are data, alphabet - 1 is the marker. With `lag` there are
    neither blanks nor markers: `num_blanks` data tokens, each to be given back num_tokens later.
    """

    name: ClassVar[str] = "copying"
    description: ClassVar[str] = "copy ten tokens after a gap, read at markers (S4)"
    cite: ClassVar[str] = "Gu et al. 2022, arXiv 2111.00396 (state-spaces/s4)"
    solved_at: ClassVar[float | None] = SOLVED

    train_size: int = 10_000  # of an epoch
    num_tokens: int = 10  # to remember
    num_blanks: int = 100  # the gap
    test_blanks: int = 0  # the gap of the test split; 0: the same
    alphabet: int = 10  # blank and marker included
    variable: bool = False  # tokens stand anywhere among the blanks
    variable_length: bool = False  # 1 to num_tokens of them
    reverse: bool = False  # give them back in reverse order
    lag: bool = False  # y(t) = x(t - num_tokens)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("num_tokens", 1), ("num_blanks", 0), ("test_blanks", 0)):
            check_count(self, field, least=least)
        check_count(self, "alphabet", least=3)
        simple = not (self.variable or self.variable_length or self.reverse)
        check_true(self, simple or not self.lag, "lag goes with none of the other variants")
        shortest = min(self.num_blanks, self.test_blanks or self.num_blanks)
        check_true(
            self,
            not self.lag or shortest > self.num_tokens,
            f"with lag num_blanks must be above num_tokens; got {shortest}, {self.num_tokens}",
        )

    @property
    def spec(self) -> ModelSpec:
        """A token at every position; only the markers are labelled."""
        longest = max(self._row("train"), self._row("test"))
        return lm_spec(self.alphabet, self.alphabet, longest)

    def _blanks(self, split: Split) -> int:
        return self.test_blanks if split == "test" and self.test_blanks else self.num_blanks

    def _row(self, split: Split) -> int:
        return self._blanks(split) + (0 if self.lag else 2 * self.num_tokens)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        blanks, row = self._blanks(split), self._row(split)
        if self.lag:
            inputs = 1 + draws.integers(self.alphabet - 2, row)
            late = labelled_at(slice(self.num_tokens, None), inputs[: -self.num_tokens], row)
            return {"inputs": inputs, "targets": late}
        most = self.num_tokens
        count = 1 + draws.below(most) if self.variable_length else most
        data = 1 + draws.integers(self.alphabet - 2, count)
        places = draws.subset(blanks + count, count) if self.variable else slice(0, count)
        inputs = np.zeros(blanks + 2 * count, np.int32)
        inputs[places] = data
        inputs[-count:] = self.alphabet - 1
        answer = data[::-1] if self.reverse else data
        targets = labelled_at(slice(-count, None), answer, len(inputs))
        if self.variable_length:
            return padded(inputs, targets, row)
        return {"inputs": inputs, "targets": targets}

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy and accuracy of the tokens to be given back; rows without a mistake."""
        return measure_sequences(outputs, batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """Chance among the data tokens."""
        self.effective_seed(split, 0)
        return {"chance": 1 / (self.alphabet - 2)}

    def _symbol(self, token: int) -> str:
        return {0: ".", self.alphabet - 1: "?"}.get(token, str(token))


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Copying):
    """Mamba's selective copying: 16 tokens anywhere among 4096 blanks.

    Published with it: depth 2, width 64, 400 000 steps at a constant learning rate of 1e-4, batches
    of 64 fresh rows. The row has 4096 + 2 x 16 tokens, as the generator has it.
    """

    name: ClassVar[str] = "selective_copying"
    description: ClassVar[str] = "copy 16 tokens that stand anywhere among 4096 blanks (Mamba)"
    cite: ClassVar[str] = "Gu & Dao 2023, arXiv 2312.00752, appendix E.1; Jing et al. 2019"

    train_size: int = 1_000_000  # examples to train on
    num_tokens: int = 16  # to remember
    num_blanks: int = 4_096  # tokens among which they stand
    alphabet: int = 16  # blank and marker included
    variable: bool = True  # tokens stand anywhere among the blanks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyMemory(GeneratedTask):
    """The classic copy memory: ten tokens, T - 1 blanks, eleven markers; all positions count.

    The output is T + 10 blanks and then the tokens. Token 0 is blank, 1 to 8 are data, 9 is the
    marker. A model without memory that knows this has a loss of 10 ln 8 / (T + 20).
    """

    name: ClassVar[str] = "copy_memory"
    description: ClassVar[str] = "give back ten tokens after T steps; loss over all positions"
    main_metric: ClassVar[str] = "loss"
    cite: ClassVar[str] = "Hochreiter & Schmidhuber 1997; Arjovsky et al. 2016, arXiv 1511.06464"

    train_size: int = 10_000  # examples to train on
    delay: int = 500  # T, the published range is 500 to 1000 and more
    test_delay: int = 0  # of the test split; 0: the same

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "delay")
        check_count(self, "test_delay", least=0)

    @property
    def spec(self) -> ModelSpec:
        """A token at every position, all of them labelled."""
        return lm_spec(10, 10, max(self.delay, self.test_delay) + 20)

    def _delay(self, split: Split) -> int:
        return self.test_delay if split == "test" and self.test_delay else self.delay

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        data = 1 + draws.integers(8, 10)
        inputs = np.zeros(self._delay(split) + 20, np.int32)
        inputs[:10] = data
        inputs[-11:] = 9
        targets = np.zeros_like(inputs)
        targets[-10:] = data
        return {"inputs": inputs, "targets": targets}

    def measure(self, outputs: Float[Array, "B L V"], batch: Mapping[str, Array]) -> Metrics:
        """Cross-entropy over all positions; accuracy of the ten tokens alone."""
        last = batch["targets"].at[:, :-10].set(IGNORED)
        recalled = measure_tokens(outputs, {**batch, "targets": last})
        loss = measure_tokens(outputs, batch)["loss"]
        return {"loss": loss, "accuracy": recalled["accuracy"]}

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The loss without memory, in nats."""
        self.effective_seed(split, 0)
        return {"no memory": float(10 * np.log(8) / (self._delay(split) + 20))}

    def _symbol(self, token: int) -> str:
        return {0: ".", 9: "?"}.get(token, str(token))

    _label = _symbol
