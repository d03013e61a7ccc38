"""What `seqzoo new` writes; NAME is the file's, CLASS the class's name."""

MIXER = '''"""CLASS: say in a line what it computes. Try it with `seqzoo check NAME.py:CLASS`.

seqzoo compare --task mqar --models NAME.py:CLASS,lru,attention --out runs/NAME
"""

import jax
import jax.numpy as jnp
from flax import nnx


class CLASS(nnx.Module):
    """h_t = a h_{t-1} + x_t, y_t = W h_t, one decay a in (0, 1) for each channel."""

    causal = True  # the claim that no output sees a later input; it is checked before training

    # d_model and rngs are always given. Keywords with a default are options, and flags:
    # --mixer.rate 0.8.
    def __init__(self, d_model: int, *, rate: float = 0.9, rngs: nnx.Rngs):
        if not 0 < rate < 1:
            raise ValueError(f"rate must be in (0, 1); got {rate}")
        self.logit = nnx.Param(jnp.full(d_model, jnp.log(rate / (1 - rate))))
        self.out_proj = nnx.Linear(d_model, d_model, rngs=rngs)

    # [batch, length, d_model] -> the same. Real tokens come first, padding, as zeros, after them.
    def __call__(self, x: jax.Array) -> jax.Array:
        a = jnp.broadcast_to(jax.nn.sigmoid(self.logit[...]), x.shape).astype(x.dtype)

        def join(left, right):  # of two stretches of the recurrence
            return left[0] * right[0], right[0] * left[1] + right[1]

        _, h = jax.lax.associative_scan(join, (a, x), axis=1)
        return self.out_proj(h)
'''

MIXER_TEST = '''"""CLASS under the laws of seqzoo.testing: `pytest test_NAME.py`."""

import pytest
from flax import nnx
from NAME import CLASS

from seqzoo.models import as_mixer
from seqzoo.testing import check_mixer


def test_it_keeps_the_laws():
    report = check_mixer(as_mixer(CLASS, "CLASS"))
    assert not report.broken, report


def test_a_rate_outside_of_its_range_is_refused():
    with pytest.raises(ValueError, match="rate must be in"):
        as_mixer(CLASS, "CLASS")(4, rate=1.5, rngs=nnx.Rngs(0))
'''

TASK = '''"""CLASS: say in a line what is to be learned.

seqzoo data show --task NAME.py:CLASS
seqzoo train --task NAME.py:CLASS --model lru --out runs/NAME
"""

import dataclasses
from typing import ClassVar

import numpy as np

from seqzoo.models import ModelSpec
from seqzoo.tasks.task import Source, Task, check_count, measure_classes

STREAMS = {"train": 0, "validation": 1, "test": 2}


@dataclasses.dataclass(frozen=True)
class Rows:
    """The examples of a split: example i is a function of the split, the seed and i alone."""

    task: "CLASS"
    size: int
    stream: tuple[int, int]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        draws = np.random.default_rng((*self.stream, index))
        row = draws.integers(0, self.task.vocab_size, self.task.length).astype(np.int32)
        # inputs [L] (or [L, features] floats); segment_ids [L], 0 at padding, where rows vary.
        return {"inputs": row, "targets": np.int32(row[0])}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLASS(Task):
    """The class of a row is its first token: it has to be kept over the whole row."""

    name: ClassVar[str] = "NAME"
    description: ClassVar[str] = "which token came first"
    cite: ClassVar[str] = "our own"

    # Fields are options, and flags: --data.length 128.
    length: int = 64  # tokens of a row
    vocab_size: int = 8  # different tokens
    train_size: int = 1000  # examples
    test_size: int = 200  # examples of validation and of test, each

    def __post_init__(self) -> None:
        for field in ("length", "vocab_size", "train_size", "test_size"):
            check_count(self, field)

    @property
    def spec(self) -> ModelSpec:
        """What it needs of a model: one class for each row of tokens."""
        return ModelSpec(
            head="classify",
            vocab_size=self.vocab_size,
            outputs=self.vocab_size,
            length=self.length,
        )

    def _source(self, split: str, seed: int) -> Source:
        size = self.train_size if split == "train" else self.test_size
        return Rows(self, size, (STREAMS[split], seed))

    def measure(self, outputs, batch):
        """Loss and accuracy; runs inside jit."""
        return measure_classes(outputs, batch)

    def baselines(self, split: str = "test", seed: int = 0) -> dict[str, float]:
        """What trivial rules reach; it stands beside every result."""
        return {"chance": 1 / self.vocab_size}

    def decode(self, example) -> str:
        """An example for human eyes."""
        return f"{' '.join(map(str, example['inputs']))} -> {example['targets']}"
'''

TASK_TEST = '''"""CLASS: splits are the same every time, disjoint, and what the task says."""

import numpy as np
from NAME import CLASS

from seqzoo.tasks.describe import check_example, described


def test_examples_are_what_the_task_says():
    task = CLASS(train_size=20, test_size=10)
    for split in ("train", "validation", "test"):
        source = task.source(split)
        examples = [source[i] for i in range(len(source))]
        for example in examples:
            check_example(task, example)
            assert task.decode(example)
        assert described(task, len(source), examples).size == len(examples)


def test_an_example_is_the_same_every_time_and_another_in_each_split():
    one, two = CLASS().source("train"), CLASS().source("train")
    assert np.array_equal(one[3]["inputs"], two[3]["inputs"])
    assert not np.array_equal(one[3]["inputs"], CLASS().source("test")[3]["inputs"])
    assert not np.array_equal(one[3]["inputs"], CLASS().source("train", seed=1)[3]["inputs"])
'''
