"""Replicas trained side by side are what each is alone, and stop and continue like one."""

import dataclasses
import functools
import itertools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.train.compare.curves import read_curves
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.evaluation.runs import evaluate_run
from seqzoo.train.folder.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.folder.metrics import NonFiniteError, read_lines
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop import evaluate as evaluation
from seqzoo.train.loop import program as programs
from seqzoo.train.loop import runner
from seqzoo.train.loop.data import to_devices, train_batches
from seqzoo.train.loop.evaluate import evaluate, load_run, load_selected, saved_like
from seqzoo.train.loop.program import make_program, replica_keys
from seqzoo.train.loop.runner import run_program
from seqzoo.train.loop.selection import Best
from seqzoo.train.loop.state import seed_keys
from seqzoo.train.loop.streams import Kept
from tests.helpers import assert_close, assert_trees_close
from tests.train.loop.test_runner import StopAfter
from tests.train.tiny import Rows, Tiny, TinyModel

SEEDS = (3, 4, 5)
STEPS = 12


def experiment(task=None, **changes):
    fields = {"steps": STEPS, "batch_size": 8, "eval_every": 1, "threads": 0, "save_every": 5}
    train = TrainConfig(**{**fields, "seed": SEEDS[0], "replicas": len(SEEDS), **changes})
    return Experiment(task=task or Tiny(), optim=OptimConfig(peak_lr=1e-2), train=train)


def make_model(rngs):
    return TinyModel(dropout=0.3, rngs=rngs)


def program_of(*args, **changes):
    return make_program(experiment(*args, **changes), make_model=make_model)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selecting(Tiny):
    """Tested at the best validation result; the seeds differ in where that is."""

    main_metric = "miss"
    higher_is_better = False
    selection = "best"

    def derived(self, metrics):
        return {"miss": abs(metrics["loss"] - 1.385)}  # a loss that the seeds pass in turn


@pytest.fixture(scope="module")
def program():
    return program_of(Selecting())


@pytest.fixture(scope="module")
def together(program, tmp_path_factory):
    """The folder of a run of all seeds."""
    folder = tmp_path_factory.mktemp("together") / "run"
    run_program(program, folder)
    return folder


@pytest.fixture(scope="module")
def single():
    """The program of one replica; it does not depend on the seed."""
    return program_of(Selecting(), replicas=1)


@pytest.fixture(scope="module")
def alone(single):
    """Losses and state of a seed alone after some steps."""

    @functools.cache
    def run(seed, steps=STEPS):
        first, key = seed_keys(seed)
        state, losses = single.init(first), []
        source = Tiny().source("train", seed)
        for batch in itertools.islice(train_batches(source, 8, seed=seed, threads=0), steps):
            state, metrics = single.step(state, to_devices(batch, single.rows), key)
            losses.append(float(metrics["loss"]))
        return losses, state

    return run


@pytest.fixture
def known(monkeypatch):
    """What reads a run's folder finds the tiny task and its model."""
    monkeypatch.setitem(tasks.TASKS, "tiny", Selecting)

    def made(*args, make_model, **options):
        return make_program(*args, make_model=model, **options)

    model = make_model
    monkeypatch.setattr(evaluation, "make_program", made)


def saved(folder, program, step=STEPS):
    checkpoints = Checkpoints(folder)
    found = checkpoints.restore(step, saved_like(program))
    checkpoints.close()
    return found


def test_side_by_side_and_in_turn_are_the_same(monkeypatch):
    ends, texts = [], set()
    batches = itertools.islice(train_batches(Tiny().source("train", 3), 8, seed=3), 2)
    batches = [jax.tree.map(lambda x: np.stack([x, x[::-1]]), batch) for batch in batches]
    for turns in (False, True):
        monkeypatch.setattr(programs, "take_turns", lambda mesh, turns=turns: turns)
        made = make_program(
            experiment(replicas=2), make_model=make_model, devices=jax.devices()[:1]
        )
        first, key = replica_keys(made.experiment)
        state = made.init(first)
        text = made.step.lower(state, to_devices(batches[0], made.rows), key).as_text()
        for batch in batches:
            state, metrics = made.step(state, to_devices(batch, made.rows), key)
        measured = made.evaluate(
            state.params,
            state.rest,
            to_devices({name: x[0] for name, x in batches[0].items()}, made.eval_rows),
        )
        metrics = {name: jnp.asarray(x, float) for name, x in metrics.items()}
        ends.append((state, metrics, measured))
        texts.add(text)
    assert len(texts) == 2
    assert_trees_close(*ends)


def test_seeds_together_equal_seeds_alone(together, program, alone):
    state = saved(together, program)["state"]
    losses = np.array([line.values["loss"] for line in read_lines(together)])
    for i, seed in enumerate(SEEDS):
        expected, one = alone(seed)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], state.params), one.params)
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], state.rest), one.rest)
        assert_close(losses[:, i], expected)
    assert len({tuple(column) for column in losses.T}) == len(SEEDS)


@pytest.mark.of_the_day
@pytest.mark.parametrize("steps", [3, 7])
def test_stop_and_resume_equals_uninterrupted(program, together, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", lambda *_: StopAfter(steps))
        result = run_program(program, tmp_path / "run")
    assert (result["step"], result["complete"]) == (steps, False)
    result = run_program(program, tmp_path / "run")
    assert result["best"] == RunFolder(together).result()["best"]
    a, b = (saved(folder, program) for folder in (tmp_path / "run", together))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert read_lines(tmp_path / "run") == read_lines(together)


def on_split(state, split, single):
    """Loss on a whole split."""
    rows = Tiny().source(split)
    batch = {n: np.stack([rows[j][n] for j in range(len(rows))]) for n in rows[0]}
    logits = single.plan.merge(state.params, state.rest)(batch["inputs"])
    total, weight = Tiny().measure(logits, batch)["loss"]
    return float(total / weight)


@pytest.mark.of_the_day("each seed's step", 2)
def test_the_protocols_selection_tests_each_seed_at_its_own_step(program, together, single, alone):
    params, rest, tested, _ = load_selected(program, together)
    found = evaluate(program, params, rest, Tiny().source("test"))
    lines = read_lines(together)
    for i, seed in enumerate(SEEDS):
        miss = [line.values["validation/miss"][i] for line in lines]
        assert tested[i] == 1 + int(np.argmin(miss)) < STEPS
        _, state = alone(seed, tested[i])
        validation = lines[tested[i] - 1].values["validation/loss"][i]
        assert_close(validation, on_split(state, "validation", single))
        assert_close(found["loss"][i], on_split(state, "test", single))
    assert len(set(tested)) > 1


def test_one_seed_of_a_run_is_read_as_a_run(program, together, alone, known):
    params, _, tested, _ = load_selected(program, together)
    for i, seed in enumerate(SEEDS):
        _, state, meta = load_run(together, seed=seed)
        assert_trees_close(state.params, alone(seed)[1].params)
        assert (meta["step"], meta["train"]["loss"]) == (
            STEPS,
            np.float32(read_lines(together)[-1].values["loss"][i]),
        )
        _, best, meta = load_run(together, which="best", seed=seed)
        assert meta["step"] == meta["best"]["step"] == tested[i]
        for path, value in params.items():
            np.testing.assert_array_equal(best.params[path], value[i])
    with pytest.raises(ValueError, match=r"no seed 6 \(it has 3, 4, 5\)"):
        load_run(together, seed=6)


def test_a_run_is_evaluated_on_the_train_set_that_it_saw(together, single, alone, known):
    found = evaluate_run(together, split="train", which="last")
    assert found["seeds"] == list(SEEDS)
    for i, seed in enumerate(SEEDS):
        _, state = alone(seed)
        own = evaluate(single, state.params, state.rest, Tiny().source("train", seed))
        other = evaluate(single, state.params, state.rest, Tiny().source("train"))
        assert_close(found["loss"][i], own["loss"])
        assert abs(found["loss"][i] - other["loss"]) > 1e-3


@pytest.mark.of_the_day("older checkpoint", 3)
def test_an_older_checkpoint_than_was_asked_for_is_said_in_the_result(together, tmp_path, known):
    folder = tmp_path / "run"
    shutil.copytree(together, folder)
    assert "fallback" not in evaluate_run(folder, which="last")
    (folder / "checkpoints" / str(STEPS) / "meta.json").write_text("{}")
    found = evaluate_run(folder, which="last")
    assert found["step"] == 10
    assert f"checkpoint {STEPS} is damaged" in found["fallback"][0]
    with pytest.raises(CheckpointError, match=f"checkpoint {STEPS} is damaged"):
        evaluate_run(folder, which=str(STEPS))
    (folder / "checkpoints" / "10" / "meta.json").unlink()
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        evaluate_run(folder, which="last")
    with pytest.raises(CheckpointError, match=r"checkpoint 10 is damaged \(meta.json is missing"):
        evaluate_run(folder, which="10")


def test_curves_are_means_over_windows_that_end_where_validations_do(together):
    lines = read_lines(together)
    (first, *_) = read_curves(together, STEPS, len(SEEDS), points=4)
    assert first["validation"]["step"] == first["train"]["step"] == [*range(1, STEPS + 1)]
    curves = read_curves(together, STEPS, len(SEEDS), points=STEPS)
    losses = [line.values["loss"][1] for line in lines]
    assert curves[1]["train"]["loss"] == losses
    assert set(curves[1]["validation"]) == {"step", "loss", "accuracy", "miss"}


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_of_each_seed_is_kept_whatever_the_step_does_to_its_buffers(higher):
    nan = np.nan
    values = [[1, 3, nan, nan], [2, 3, nan, 7], [0, 1, nan, nan]]
    train = jax.jit(lambda x: jax.tree.map(lambda v: v + 1, x), donate_argnums=0)
    variables = {"a": jnp.zeros((4, 2)), "b": jnp.zeros(4)}
    best = Best(4, higher_is_better=higher, variables=jax.tree.map(jnp.copy, variables))
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
    """Its loss is not finite in each batch of the fragile seeds that holds example 40."""

    fragile: tuple[int, ...] = (4,)

    def _source(self, split, seed):
        size = len(super()._source(split, seed))
        return Poisoned(size, (split == "test", seed), split == "train" and seed in self.fragile)

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


@pytest.fixture(scope="module")
def poisoned():
    return program_of(Fragile())


def poisoned_step(task, seed):
    order = train_batches(task.source("train", seed), 8, seed=seed, threads=0)
    return next(i for i, b in enumerate(order, start=1) if np.isnan(b["poison"]).any())


@pytest.mark.of_the_day("seeds that fail", 2)
def test_a_seed_that_is_not_finite_fails_alone(poisoned, tmp_path):
    result = run_program(poisoned, tmp_path)
    assert result["complete"]
    assert [failure is None for failure in result["failure"]] == [True, False, True]
    assert result["failure"][1]["step"] == poisoned_step(Fragile(), 4)
    assert "dynamics" in result["failure"][1]["groups"]
    assert result["skipped"] == [0, 1, 0]
    losses = np.array([line.values["loss"] for line in read_lines(tmp_path)], float)
    assert np.isfinite(losses[:, [0, 2]]).all()


@pytest.mark.of_the_day("seeds that fail", 2)
def test_a_step_that_may_be_skipped_is_skipped_and_counted(poisoned, tmp_path):
    allowed = experiment(Fragile(), max_skipped=0.1).train
    changed = dataclasses.replace(poisoned.experiment, train=allowed)
    result = run_program(poisoned._replace(experiment=changed), tmp_path)
    assert result["failure"] == [None] * 3
    assert result["skipped"] == [0, 1, 0]
    state = saved(tmp_path, poisoned)["state"]
    assert state.step.tolist() == [STEPS, STEPS - 1, STEPS]
    counts = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == np.int32]
    assert counts
    assert all(count.tolist() == state.step.tolist() for count in counts)
    for path, value in state.params.items():
        assert np.isfinite(value).all(), path
    at = poisoned_step(Fragile(), 4)
    lines = read_lines(tmp_path)
    assert "skipped" not in lines[at - 2].values
    assert lines[at - 1].values["loss"][1] is None
    assert lines[-1].values["skipped"] == [0, 1, 0]


@pytest.mark.of_the_day("seeds that fail", 2)
def test_a_run_of_which_all_seeds_fail_ends_and_says_so(poisoned, tmp_path):
    task = Fragile(fragile=SEEDS)
    every = dataclasses.replace(poisoned.experiment, task=task)
    with pytest.raises(NonFiniteError) as error:
        run_program(poisoned._replace(experiment=every), tmp_path)
    last = max(poisoned_step(task, seed) for seed in SEEDS)
    assert error.value.step == last
    assert not RunFolder(tmp_path).result()["complete"]


def test_replicas_start_from_scratch():
    with pytest.raises(ValueError, match="replicas start from scratch"):
        program_of(init_from="runs/x")


def test_kept_batches_are_those_of_the_stream():
    started = []

    def start(n):
        started.append(n)
        return ({"x": np.full(4, i, np.int64)} for i in range(n, 10))

    kept = Kept(start, limit=3 * 32)  # three batches fit
    for first in (0, 0, 2, 5):
        assert [batch["x"][0] for batch in kept.beginning(first)] == list(range(first, 10))
    assert started == [0, 3, 3, 5]


def test_filling_reads_what_fits_and_no_more():
    read = []

    def start(n):
        for i in range(n, 10):
            read.append(i)
            yield {"x": np.zeros(4, np.int64)}

    Kept(start, limit=3 * 32).fill(8)
    Kept(start).fill(5)
    assert read == [0, 1, 2, *range(5)]
