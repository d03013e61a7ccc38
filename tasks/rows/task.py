"""`rows`: a task from a table of one's own, by the names of its columns.

seqzoo data show --task rows --data.data reviews.csv --data.inputs text --data.target stars
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seqzoo.models.errors import unknown
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.language.tokenizers import check_room, is_file
from seqzoo.tasks.rows.examples import Pieces, Whole
from seqzoo.tasks.rows.facts import Facts
from seqzoo.tasks.rows.measures import measure_steps, unigram
from seqzoo.tasks.rows.parts import facts_of, given, parts
from seqzoo.tasks.rows.sequences import check_tokens
from seqzoo.tasks.rows.splits import files_of
from seqzoo.tasks.task import (
    SPLITS,
    Metrics,
    Needs,
    Source,
    Split,
    Task,
    check_count,
    measure_classes,
    measure_regression,
    measure_tokens,
)

Kind = Literal["classify", "tag", "regress", "lm", "pairs"]
KINDS: dict[str, str] = {  # kind -> main metric
    "classify": "accuracy",
    "pairs": "accuracy",
    "tag": "accuracy",
    "regress": "mse",
    "lm": "loss",
}
LM_LENGTH = 1024  # tokens of a piece of a document, unless length says otherwise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows(Task):
    """Rows of CSV, JSON lines, Parquet, Arrow or NPZ files, or a folder of them."""

    name: ClassVar[str] = "rows"
    description: ClassVar[str] = "your own table: CSV, JSON lines, Parquet, Arrow, NPZ"
    cite: ClassVar[str] = "your own data"
    needs: ClassVar[Needs] = "files"

    data: str = ""  # file, or folder; with splits where it has train, validation and test
    inputs: str = ""  # column; several (a,b or t*) are channels or steps, for pairs the two texts
    target: str = ""  # column of classes, tags or numbers; none for lm
    kind: Kind = "classify"  # tag: a class a step; regress: numbers a row or step; lm: next token
    tokens: str = "byte"  # of texts: byte, character, or a tokenizer.json
    vocab: int = 0  # tokens of a model whose tokenizer.json has fewer; 0: as many
    form: Literal["auto", "numbers"] = "auto"  # numbers: texts hold numbers, as in 0.1 0.2
    length: int = 0  # steps that longer rows are cut to; 0: the longest (of lm 1024)
    lengths: str = ""  # column with the number of real steps, where arrays are padded
    series: str = ""  # column of a long table, whose equal neighbours are the steps of a row
    split: str = ""  # column that says train, validation or test
    group: str = ""  # column whose equal values stay in one split, where splits are made
    validation_share: float = 0.1  # of the training rows, where there is no validation split
    test_share: float = 0.1  # the same, for test
    standardise: bool = True  # real inputs and targets, by the training rows' mean and spread

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("kind", self.kind, KINDS)
        check_count(self, "length", least=0)
        check_tokens(self.tokens)
        check_count(self, "vocab", least=0)
        if is_file(self.tokens):
            check_room("task rows", self.tokens, self.vocab)
        shares = self.validation_share, self.test_share
        if not all(0 < share < 1 for share in shares) or sum(shares) >= 1:
            raise ValueError(
                "task rows: validation_share and test_share are shares of the rows, and some are "
                f"left to train on; got {shares[0]} and {shares[1]}"
            )
        if self.kind != "lm" and not self.target and self.data:
            raise ValueError(f"task rows: kind {self.kind} needs --data.target COLUMN")
        if self.kind == "lm" and self.target:
            raise ValueError("task rows: lm predicts its inputs; leave out target")

    @property
    def main_metric(self) -> str:
        """Accuracy, mean squared error, bits a byte of texts, or nats a token."""
        return "bits_per_byte" if self._counts_bytes else KINDS[self.kind]

    @property
    def _counts_bytes(self) -> bool:
        return self.kind == "lm" and bool(self.data) and self.facts_found.reading.form == "text"

    @property
    def facts_found(self) -> Facts:
        """What is in the rows; they are all read once."""
        return facts_of(self)

    @property
    def spec(self) -> ModelSpec:
        """What the rows need of a model."""
        facts = self.facts_found
        heads = {"classify": "classify", "pairs": "two_tower", "tag": "lm", "lm": "lm"}
        head = heads.get(self.kind) or ("regress" if facts.steps else "classify")
        vocab = facts.reading.vocab_size
        if facts.reading.form == "text" and is_file(self.tokens):
            vocab = self.vocab or vocab
        outputs = facts.width or len(facts.classes) or vocab
        return ModelSpec(
            head=head,
            outputs=outputs,
            length=self.steps,
            vocab_size=vocab,
            features=facts.reading.channels if vocab is None else None,
            causal=self.kind == "lm",
        )

    @property
    def steps(self) -> int:
        """Steps of a row, with padding."""
        if self.kind == "lm":
            return self.length or min(LM_LENGTH, max(1, self.facts_found.longest - 1))
        longest = self.facts_found.longest
        return min(self.length, longest) if self.length else longest

    @property
    def notes(self) -> tuple[str, ...]:
        """What was made or cut, so that nobody has to guess."""
        made = [split for split in SPLITS if split not in given(self)]
        how = f", which keeps equal values of {self.group!r} together" if self.group else ""
        notes = [
            f"The {' and '.join(made)} split{'s are' if len(made) > 1 else ' is'} cut from the "
            f"training rows by a fixed random order{how}."
        ] * bool(made)
        if self.kind != "lm" and self.facts_found.longest > self.steps:
            notes.append(f"Rows are cut to {self.steps} steps; the longest has more.")
        if self.kind == "regress" and self.standardise:
            notes.append("Squared errors are in units of the training targets' variance.")
        return tuple(notes)

    @property
    def facts(self) -> tuple[str, ...]:
        """Lines of what was found, for `seqzoo data show`."""
        found, by_split = self.facts_found, parts(self)
        reading = found.reading
        what = {"text": f"text as {self.tokens}s", "reals": f"{reading.channels} channels"}
        size = "" if reading.vocab_size is None else f", {reading.vocab_size} token ids"
        lines = [f"inputs: {what.get(reading.form, reading.form)}{size}"]
        lines.append(f"steps: {found.shortest} to {found.longest}, rows of {self.steps}")
        for split in SPLITS:
            made = "" if split in given(self) else " (made)"
            lines.append(f"{split}{made}: {len(by_split[split].rows):,} rows{self._balance(split)}")
        return (*lines, *self.notes)

    def _balance(self, split: str) -> str:
        counts = self.facts_found.counts.get(split, ())
        total = max(sum(counts), 1)
        shown = [
            f"{c} {n / total:.1%}" for c, n in zip(self.facts_found.classes, counts, strict=True)
        ]
        more = f", and {len(shown) - 10} more" if len(shown) > 10 else ""
        return f": {', '.join(shown[:10])}{more}" if shown else ""

    def data_files(self, split: Split) -> Sequence[Path]:
        """Those of the split, or all where splits are made or in a column."""
        files = files_of(self.data)
        return files.get(split, files["train"])

    def _source(self, split: Split, seed: int) -> Source:
        facts_of(self)  # what cannot be used is said before anything is made of it
        return Pieces(self, split) if self.kind == "lm" else Whole(self, split)

    def measure(self, outputs: Array, batch: Mapping[str, Array]) -> Metrics:
        """Of the kind: accuracy, squared error, or nats (and bits a byte) of the next token."""
        if self.kind in ("classify", "pairs"):
            return measure_classes(outputs, batch)
        if self.kind == "regress":
            by_step = measure_steps if self.facts_found.steps else measure_regression
            return by_step(outputs, batch)
        found = measure_tokens(outputs, batch)
        if self.kind == "tag":
            return found
        total, tokens = found["loss"]
        kept = {"loss": (total, tokens), "token_accuracy": found["token_accuracy"]}
        if "bytes" in batch:
            size = jnp.sum(batch["bytes"] * batch["weight"])
            kept["bits_per_byte"] = total / math.log(2), size
        return kept

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The commonest class, the training mean, or how often each token comes."""
        self.effective_seed(split, seed)
        counts = self.facts_found.counts
        if self.kind in ("classify", "pairs", "tag"):
            best, own = int(np.argmax(counts["train"])), counts[split]
            return {"majority class": own[best] / max(1, sum(own))}
        if self.kind == "regress":
            source = self.source(split)
            squares = [np.square(source[i]["targets"]).mean() for i in range(len(source))]
            return {"training mean": float(np.mean(squares))}
        vocab = self.facts_found.reading.vocab_size
        return {"frequencies of training": unigram(self.source("train"), self.source(split), vocab)}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The row and its target."""
        facts = self.facts_found
        real = np.asarray(example.get("segment_ids", np.ones(example["inputs"].shape[:2]))) > 0
        if self.kind == "pairs":
            rows = zip(example["inputs"], real, strict=True)
            shown = " | ".join(facts.reading.words(row[own]) for row, own in rows)
        elif facts.reading.vocab_size is None:
            shown = np.array2string(example["inputs"][real.reshape(-1)[: self.steps]], threshold=20)
        else:
            shown = facts.reading.words(example["inputs"][real.reshape(-1)[: self.steps]])
        if self.kind == "lm":
            return shown
        target = example["targets"]
        if facts.classes and np.ndim(target) == 0:
            target = facts.classes[int(target)]
        elif facts.classes:
            target = " ".join(str(facts.classes[i]) for i in target.tolist() if i >= 0)
        return f"{shown}\n= {target}"
