import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.train.compare.seeds import Kept, train_seeds
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.loop.data import to_devices, train_batches
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.selection import Best
from seqzoo.train.loop.state import seed_keys
from tests.helpers import assert_close, assert_trees_close
from tests.train.tiny import Rows, Tiny, TinyModel

SEEDS = (3, 4, 5)
STEPS = 12


def experiment(task=None, **changes):
    fields = {"steps": STEPS, "batch_size": 8, "eval_every": 5, "threads": 0}
    train = TrainConfig(**{**fields, **changes})
    return Experiment(task=task or Tiny(), optim=OptimConfig(peak_lr=1e-2), train=train)


def make_model(rngs):
    return TinyModel(dropout=0.3, rngs=rngs)


@pytest.fixture(scope="module")
def together():
    return train_seeds(experiment(), SEEDS, make_model=make_model)


def of_seed(trained, i):
    return tuple({k: v[i] for k, v in trained.state[j].items()} for j in (1, 2))


@pytest.fixture(scope="module")
def program():
    """What `seqzoo train` runs; it does not depend on the seed."""
    return make_program(experiment(), make_model=make_model)


def alone(program, seed, steps=STEPS):
    """Losses and final state."""
    first, key = seed_keys(seed)
    state, losses = program.init(first), []
    source = Tiny().source("train", seed)
    for batch in itertools.islice(train_batches(source, 8, seed=seed, threads=0), steps):
        state, metrics = program.step(state, to_devices(batch, program.rows), key)
        losses.append(metrics["loss"])
    return losses, state


def test_seeds_together_equal_seeds_alone(together, program):
    for i, seed in enumerate(SEEDS):
        losses, state = alone(program, seed)
        params, rest = of_seed(together, i)
        assert_trees_close(params, state.params)
        assert_trees_close(rest, state.rest)
        assert_close(together.seeds[i].curves["train"]["loss"], losses)


def test_seeds_differ(together):
    finals = {tuple(seed.curves["train"]["loss"]) for seed in together.seeds}
    assert len(finals) == len(SEEDS)


def test_curves_have_the_steps_asked_for(together):
    curves = together.seeds[0].curves
    assert curves["train"]["step"] == list(range(1, STEPS + 1))
    assert curves["validation"]["step"] == [5, 10, 12]
    assert set(curves["validation"]) == {"step", "loss", "accuracy"}


def test_final_metrics_are_of_the_whole_test_split(together, program):
    task, i = Tiny(), 1
    rows = task.source("test")
    batch = {n: np.stack([rows[j][n] for j in range(len(rows))]) for n in rows[0]}
    params, rest = of_seed(together, i)
    logits = program.plan.merge(params, rest)(batch["inputs"])
    right = np.mean(np.argmax(logits, -1) == batch["targets"])
    assert abs(together.seeds[i].final["accuracy"] - right) < 1e-6


def on_split(program, state, split):
    """Loss on a whole split."""
    rows = Tiny().source(split)
    batch = {n: np.stack([rows[j][n] for j in range(len(rows))]) for n in rows[0]}
    logits = program.plan.merge(state.params, state.rest)(batch["inputs"])
    total, weight = Tiny().measure(logits, batch)["loss"]
    return float(total / weight)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selecting(Tiny):
    """Tested at the best validation result; the seeds differ in where that is."""

    main_metric = "miss"
    higher_is_better = False

    def derived(self, metrics):
        return {"miss": abs(metrics["loss"] - 1.385)}  # a loss that the seeds pass in turn

    @property
    def selection(self):
        return "best"


def test_the_protocols_selection_tests_each_seed_at_its_own_step(program):
    got = train_seeds(experiment(Selecting(), eval_every=1), SEEDS, make_model=make_model).seeds
    for run in got:
        curve = run.curves["validation"]
        assert run.tested == 1 + int(np.argmin(curve["miss"])) < STEPS
        _, state = alone(program, run.seed, run.tested)
        assert_close(curve["loss"][run.tested - 1], on_split(program, state, "validation"))
        assert_close(run.final["loss"], on_split(program, state, "test"))
    assert len({run.tested for run in got}) > 1


def test_the_last_step_is_tested_without_a_protocol(together, program):
    assert [run.tested for run in together.seeds] == [None] * len(SEEDS)
    _, state = alone(program, SEEDS[0])
    assert_close(together.seeds[0].final["loss"], on_split(program, state, "test"))


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_of_each_seed_is_kept_whatever_the_step_does_to_its_buffers(higher):
    best, nan = Best(4, higher_is_better=higher), np.nan
    values = [[1, 3, nan, nan], [2, 3, nan, 7], [0, 1, nan, nan]]
    train = jax.jit(lambda x: jax.tree.map(lambda v: v + 1, x), donate_argnums=0)
    variables = {"a": jnp.zeros((4, 2)), "b": jnp.zeros(4)}
    for step, row in enumerate(values, start=1):
        variables = train(variables)  # every number is the step
        best.offer(step, np.array(row), variables)
    steps = [2, 1, None, 2] if higher else [3, 3, None, 2]
    assert best.steps == steps
    kept = [3 if s is None else s for s in steps]  # never finite: the newest
    np.testing.assert_array_equal(best.variables["b"], kept)
    np.testing.assert_array_equal(best.variables["a"], np.stack([kept, kept], 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fragile(Tiny):
    """Its loss is not finite in a batch of the seed 4 that holds example 40."""

    def _source(self, split, seed):
        size = len(super()._source(split, seed))
        return Poisoned(size, (split == "test", seed), split == "train" and seed == 4)

    def measure(self, outputs, batch):
        measured = super().measure(outputs, batch)
        total, weight = measured["loss"]
        return {**measured, "loss": (total + jnp.sum(batch["poison"] * outputs[:, 0]), weight)}


@dataclasses.dataclass(frozen=True)
class Poisoned(Rows):
    poisoned: bool = False

    def __getitem__(self, index):
        bad = self.poisoned and index == 40
        return {**super().__getitem__(index), "poison": np.float32(np.nan if bad else 0)}


def test_a_seed_that_is_not_finite_fails_alone():
    got = train_seeds(experiment(Fragile()), SEEDS, make_model=make_model).seeds
    order = train_batches(Fragile().source("train", 4), 8, seed=4, threads=0)
    step = next(i for i, b in enumerate(order, start=1) if np.isnan(b["poison"]).any())
    assert [seed.failure is None for seed in got] == [True, False, True]
    assert got[1].failure["step"] == step
    assert "dynamics" in got[1].failure["groups"]
    assert got[1].final == {}
    assert max(got[1].curves["train"]["step"], default=0) < step
    assert all(np.isfinite(seed.curves["train"]["loss"]).all() for seed in got)
    assert got[2].curves["train"]["step"][-1] == STEPS


def test_kept_batches_are_those_of_the_stream():
    started = []

    def start(n):
        started.append(n)
        return ({"x": np.full(4, i, np.int64)} for i in range(n, 10))

    kept = Kept(start, limit=3 * 32)  # three batches fit
    for _ in range(2):
        assert [batch["x"][0] for batch in kept] == list(range(10))
    assert started == [0, 3]


def test_filling_reads_what_fits_and_no_more():
    read = []

    def start(n):
        for i in range(n, 10):
            read.append(i)
            yield {"x": np.zeros(4, np.int64)}

    Kept(start, limit=3 * 32).fill(8)
    Kept(start).fill(5)
    assert read == [0, 1, 2, *range(5)]
