"""A model, a task and an experiment small enough to compile in a second."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.mixer import AuxLoss
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.task import Task, measure_classes
from seqzoo.train.config import OptimConfig
from seqzoo.train.loop.optimizer import make_optimizer, make_schedule
from seqzoo.train.loop.state import blueprint, init_state, seed_keys
from seqzoo.train.loop.step import make_train_step

VOCAB, LENGTH, CLASSES = 8, 6, 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiny(Task):
    """Rows of tokens; the class is that of the first."""

    name: ClassVar[str] = "tiny"
    description: ClassVar[str] = "the first token modulo 4"
    cite: ClassVar[str] = "none"

    train_size: int = 100
    validation_size: int = 13  # no multiple of any batch size

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(head="classify", vocab_size=VOCAB, outputs=CLASSES, length=LENGTH)

    def _source(self, split, seed):
        sizes = {"train": self.train_size, "validation": self.validation_size, "test": 11}
        stream = {"train": 0, "validation": 1, "test": 2}[split]
        return Rows(sizes[split], (stream, seed))

    def measure(self, outputs, batch):
        return measure_classes(outputs, batch)

    def baselines(self, split="test", seed=0):
        return {"chance": 1 / CLASSES}

    def decode(self, example):
        return " ".join(map(str, example["inputs"]))


@dataclasses.dataclass(frozen=True)
class Rows:
    """The examples of a split."""

    size: int
    stream: tuple[int, int]

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if not 0 <= index < self.size:
            raise IndexError(index)
        row = np.random.default_rng((*self.stream, index)).integers(1, VOCAB, LENGTH, np.int32)
        return {"inputs": row, "targets": np.int32(row[0] % CLASSES)}


class TinyModel(nnx.Module):
    """Embedding, a decay with its own group, dropout, batch mean as state, an auxiliary loss."""

    def __init__(self, d=16, dropout=0.0, penalty=1e-2, *, rngs):
        self.embed = nnx.Embed(VOCAB, d, rngs=rngs)
        self.log_decay = nnx.Param(jnp.linspace(-1.0, 0.0, d), group="dynamics")
        self.out_proj = nnx.Linear(d, CLASSES, rngs=rngs)
        self.batch_mean = nnx.BatchStat(jnp.zeros(d))
        self.penalty = AuxLoss(jnp.zeros(()))
        self.dropout, self.rate = dropout, penalty

    def __call__(self, inputs, segment_ids=None, *, rngs=None):
        weights = jnp.exp(self.log_decay[...] * jnp.arange(inputs.shape[1])[:, None])
        x = jnp.tanh((self.embed(inputs) * weights).sum(1))
        self.penalty[...] = self.rate * jnp.mean(x**2)
        if rngs is not None:
            self.batch_mean[...] = 0.9 * self.batch_mean[...] + 0.1 * x.mean(0)
            keep = jax.random.bernoulli(rngs.dropout(), 1 - self.dropout, x.shape)
            x = jnp.where(keep, x, 0)
        return self.out_proj(x)


@dataclasses.dataclass
class Setup:
    """Everything a step needs."""

    plan: object
    tx: object
    step: object
    jitted: object
    init: object


@functools.cache
def setup(*, accumulate=1, dropout=0.0, penalty=1e-2, steps=40) -> Setup:
    def make_model(rngs):
        return TinyModel(dropout=dropout, penalty=penalty, rngs=rngs)

    config = OptimConfig(peak_lr=1e-2)
    plan = blueprint(make_model)
    tx, schedule = make_optimizer(config, steps, plan.groups), make_schedule(config, steps)
    step = make_train_step(Tiny(), plan, tx, schedule, accumulate=accumulate)
    return Setup(
        plan, tx, step, jax.jit(step), jax.jit(lambda key: init_state(make_model, plan, tx, key))
    )


def batches(count, size=8, seed=0):
    """Batches in the order of the source."""
    source = Tiny(train_size=count * size).source("train", seed)
    rows = [source[i] for i in range(count * size)]
    for i in range(count):
        part = rows[i * size : (i + 1) * size]
        stacked = {name: np.stack([row[name] for row in part]) for name in part[0]}
        yield {**stacked, "weight": np.ones(size, np.float32)}


def run(parts, count, *, seed=0, size=8):
    """Final state and losses of `count` steps."""
    initial, key = seed_keys(seed)
    state, step, losses = parts.init(initial), parts.jitted, []
    for batch in batches(count, size, seed):
        state, metrics = step(state, batch, key)
        losses.append(metrics["loss"])
    return state, np.array(losses)


def poisoned(parts, path):
    """A step in which the gradient of one parameter alone is not finite."""

    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (g * jnp.nan,))

    class Plan:
        groups, rest, rest_tree = parts.plan.groups, parts.plan.rest, parts.plan.rest_tree
        split, of_kind = parts.plan.split, parts.plan.of_kind

        @staticmethod
        def merge(params, rest):
            return parts.plan.merge({**params, path: identity(params[path])}, rest)

    return make_train_step(Tiny(), Plan, parts.tx, lambda step: step)
