"""`rows`: a task from a table of one's own, by the names of its columns.

seqzoo data show --task rows --data.data reviews.csv --data.inputs text --data.target stars
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from seqzoo.models.errors import unknown
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.cache_folder import text_entry
from seqzoo.tasks.data.folders import files_key
from seqzoo.tasks.rows.columns import Series, all_rows, columns, inputs_of
from seqzoo.tasks.rows.facts import Facts, find_facts, target_of
from seqzoo.tasks.rows.sequences import check_tokens, sequence
from seqzoo.tasks.rows.splits import Part, by_column, completed, files_of
from seqzoo.tasks.rows.tables import open_table
from seqzoo.tasks.task import (
    IGNORED,
    SPLITS,
    Example,
    Metrics,
    Source,
    Split,
    Task,
    check_count,
    example_weight,
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
VERSION = 1  # of what is found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows(Task):
    """Rows of CSV, JSON lines, Parquet, Arrow or NPZ files, or a folder of them."""

    name: ClassVar[str] = "rows"
    description: ClassVar[str] = "your own table: CSV, JSON lines, Parquet, Arrow, NPZ"
    cite: ClassVar[str] = "your own data"

    data: str = ""  # file, or folder; with splits where it has train, validation and test
    inputs: str = ""  # column; several (a,b or t*) are channels or steps, for pairs the two texts
    target: str = ""  # column of classes, tags or numbers; none for lm
    kind: Kind = "classify"  # tag: a class a step; regress: numbers a row or step; lm: next token
    tokens: str = "byte"  # of texts: byte, character, or a tokenizer.json
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
        return _facts(self)

    @property
    def spec(self) -> ModelSpec:
        """What the rows need of a model."""
        facts = self.facts_found
        heads = {"classify": "classify", "pairs": "two_tower", "tag": "lm", "lm": "lm"}
        head = heads.get(self.kind) or ("regress" if facts.steps else "classify")
        outputs = facts.width or len(facts.classes) or facts.reading.vocab_size
        vocab = facts.reading.vocab_size
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
        made = [split for split in SPLITS if split not in _given(self)]
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
        found, parts = self.facts_found, _parts(self)
        reading = found.reading
        what = {"text": f"text as {self.tokens}s", "reals": f"{reading.channels} channels"}
        size = "" if reading.vocab_size is None else f", {reading.vocab_size} token ids"
        lines = [f"inputs: {what.get(reading.form, reading.form)}{size}"]
        lines.append(f"steps: {found.shortest} to {found.longest}, rows of {self.steps}")
        for split in SPLITS:
            made = "" if split in _given(self) else " (made)"
            lines.append(f"{split}{made}: {len(parts[split].rows):,} rows{self._balance(split)}")
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
        _facts(self)  # what cannot be used is said before anything is made of it
        return Pieces(self, split) if self.kind == "lm" else Whole(self, split)

    def measure(self, outputs: Array, batch: Mapping[str, Array]) -> Metrics:
        """Of the kind: accuracy, squared error, or nats (and bits a byte) of the next token."""
        if self.kind in ("classify", "pairs"):
            return measure_classes(outputs, batch)
        if self.kind == "regress":
            by_step = _measure_steps if self.facts_found.steps else measure_regression
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
        return {"frequencies of training": _unigram(self, split)}

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


@functools.lru_cache(maxsize=8)
def _given(task: Rows) -> dict[str, Part]:
    """The splits that the data have."""
    files = files_of(task.data)
    tables = {split: open_table(own) for split, own in files.items()}
    if task.split:
        if len(files) > 1:
            raise ValueError(
                f"{task.data} has files of its own for {', '.join(files)}; leave out --data.split"
            )
        if task.series:
            return by_column(Series(tables["train"], task.series), task.split)
        return by_column(tables["train"], task.split)
    if task.series:
        tables = {split: Series(table, task.series) for split, table in tables.items()}
    return {split: Part(table, all_rows(table)) for split, table in tables.items()}


@functools.lru_cache(maxsize=8)
def _parts(task: Rows) -> dict[str, Part]:
    """The rows of each split, columns checked."""
    given = _given(task)
    for part in given.values():
        names = columns(part.table, task.inputs)
        if task.kind == "pairs" and len(names) != 2:
            raise ValueError(f"task rows: pairs need two columns of inputs; got {', '.join(names)}")
        for name in filter(None, (task.target, task.lengths)):
            part.table.check(name)
        if task.target in names:
            raise ValueError(f"task rows: the target {task.target!r} is among the inputs")
    shares = {"validation": task.validation_share, "test": task.test_share}
    return completed(given, shares, task.group)


@functools.lru_cache(maxsize=8)
def _facts(task: Rows) -> Facts:
    files = [path for own in files_of(task.data).values() for path in own]
    if task.tokens.endswith(".json"):
        files.append(Path(task.tokens))
    options = dataclasses.asdict(task) | {"data": "", "length": 0}
    key = repr((files_key("rows", "facts", files, reader=VERSION), sorted(options.items())))
    name = f"rows-facts-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    return text_entry(name, lambda: find_facts(task, _parts(task)).to_json(), Facts.from_json)


@dataclasses.dataclass(frozen=True)
class Whole:
    """The rows of a split, each an example."""

    task: Rows
    split: Split

    def __len__(self) -> int:
        return len(_parts(self.task)[self.split].rows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        task, facts = self.task, self.task.facts_found
        part = _parts(task)[self.split]
        row, steps = int(part.rows[index]), task.steps
        names = columns(part.table, task.inputs)
        each = [(name,) for name in names] if task.kind == "pairs" else [names]
        arrays = [self._array(part, own, row) for own in each]
        value = part.table.value(task.target, row)
        target = target_of(task, facts, value, len(arrays[0]))
        rows = [_padded(array[:steps], steps) for array in arrays]
        ids = [_padded(np.ones(min(len(array), steps), np.int32), steps) for array in arrays]
        if task.kind == "tag":
            target = _padded(target[:steps], steps, IGNORED)
        elif facts.steps:
            target = _padded(target[:steps], steps)
        several = task.kind == "pairs"
        example = {"inputs": np.stack(rows) if several else rows[0], "targets": target}
        if facts.shortest < steps or several:
            example["segment_ids"] = np.stack(ids) if several else ids[0]
        return example

    def _array(self, part: Part, names: tuple[str, ...], row: int) -> np.ndarray:
        return _array_of(self.task, part, names, row)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The documents of a split in pieces of `steps` tokens, each token predicted once."""

    task: Rows
    split: Split

    def __len__(self) -> int:
        return int(_pieces(self.task, self.split)[-1])

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"piece {index} of {len(self)}")
        ends, steps = _pieces(self.task, self.split), self.task.steps
        document = int(np.searchsorted(ends, index, "right"))
        part = _parts(self.task)[self.split]
        begin = (index - int(ends[document - 1] if document else 0)) * steps
        row = int(part.rows[document])
        ids = _array_of(self.task, part, columns(part.table, self.task.inputs), row)
        ids = ids[begin : begin + steps + 1]
        targets = ids[1:]
        example = {
            "inputs": _padded(ids[:-1], steps),
            "targets": _padded(targets, steps, IGNORED),
            "segment_ids": _padded(np.ones(len(targets), np.int32), steps),
        }
        if self.task.facts_found.reading.form == "text":
            size = len(targets)
            if self.task.tokens != "byte":
                size = len(self.task.facts_found.reading.words(targets).encode())
            example["bytes"] = np.float32(size)
        return example


@functools.lru_cache(maxsize=16)
def _pieces(task: Rows, split: Split) -> np.ndarray:
    """How many pieces there are up to each document and with it."""
    lengths = np.array(task.facts_found.lengths[split])
    return np.cumsum(-(-np.maximum(lengths - 1, 0) // task.steps))


def _array_of(task: Rows, part: Part, names: tuple[str, ...], row: int) -> np.ndarray:
    value = inputs_of(part.table, names, row, task.lengths)
    return task.facts_found.reading.array(*sequence(value, numbers=task.form == "numbers"))


def _padded(array: np.ndarray, steps: int, value: Any = 0) -> np.ndarray:
    out = np.full((steps, *array.shape[1:]), value, array.dtype)
    out[: len(array)] = array
    return out


def _measure_steps(outputs: Array, batch: Mapping[str, Array]) -> Metrics:
    """Mean squared error over the numbers of all real steps."""
    outputs = outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))
    square = jnp.square(outputs - batch["targets"]).mean(-1)
    weight = jnp.broadcast_to(example_weight(batch)[:, None], square.shape)
    if "segment_ids" in batch:
        weight = weight * (batch["segment_ids"] > 0)
    pair = jnp.sum(jnp.where(weight > 0, square, 0) * weight), weight.sum()
    return {"loss": pair, "mse": pair}


def _unigram(task: Rows, split: Split) -> float:
    """Nats a token (bits a byte) of a model that knows how often each token comes in training."""
    size = task.facts_found.reading.vocab_size
    counts = {name: np.zeros(size) for name in ("train", split)}
    total = 0.0
    for name in counts:
        source, bytes_ = task.source(name), 0.0
        for i in range(len(source)):
            example = source[i]
            found = example["targets"]
            counts[name] += np.bincount(found[found != IGNORED], minlength=size)
            bytes_ += float(example.get("bytes", 0))
        total = bytes_
    chance = (counts["train"] + 1) / (counts["train"].sum() + size)
    nats = -float((counts[split] * np.log(chance)).sum())
    if task.facts_found.reading.form == "text":
        return nats / math.log(2) / max(total, 1)
    return nats / max(counts[split].sum(), 1)
