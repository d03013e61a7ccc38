"""State that is carried from batch to batch, in training, evaluation and after a restart."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks import build
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.loop import runner as loop
from seqzoo.train.loop.data import eval_batches, train_batches
from seqzoo.train.loop.evaluate import evaluate
from seqzoo.train.loop.program import digest, make_program, model_factory
from seqzoo.train.loop.runner import run_program
from seqzoo.train.loop.state import seed_keys
from tests.helpers import assert_close
from tests.train.loop.test_runner import StopAfter, state_of

STEPS, BATCH, LENGTH = 12, 8, 8
TEXT = bytes(np.random.default_rng(0).integers(97, 123, 1000, np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(TEXT)
    return str(path)


def experiment(data, model="indrnn", **train):
    options = {"steps": STEPS, "batch_size": BATCH, "eval_every": 6, "save_every": 4} | train
    return Experiment(
        task=build("bytes", data=data, length=LENGTH, rows="lanes"),
        model=model,
        backbone=BackboneConfig(d_model=8, depth=1, feedforward="none", scan=False),
        optim=OptimConfig(peak_lr=1e-2),
        train=TrainConfig(**options),
    )


@pytest.fixture(scope="module")
def program(data):
    return make_program(experiment(data), devices=jax.devices()[:1])


@functools.cache
def batches(data, count=STEPS):
    source = experiment(data).task.source("train")
    return list(itertools.islice(train_batches(source, BATCH, seed=0, lanes=True), count))


def trained(program, data, count):
    initial, key = seed_keys(0)
    state, losses = program.init(initial), []
    for batch in batches(data)[:count]:
        state, metrics = program.step(state, batch, key)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_lanes_are_contiguous_and_start_again_together(data):
    source = experiment(data).task.source("train")
    per_lane = len(source) // 3
    read = list(itertools.islice(train_batches(source, 3, seed=5, lanes=True), 2 * per_lane + 1))
    rows = np.stack([batch["inputs"] for batch in read])
    for lane in range(3):
        text = rows[:per_lane, lane].reshape(-1)
        begin = lane * per_lane * LENGTH
        assert bytes(text.astype(np.uint8)) == TEXT[begin : begin + len(text)]
    np.testing.assert_array_equal(rows[per_lane : 2 * per_lane], rows[:per_lane])
    fresh = np.stack([batch["fresh"] for batch in read])
    assert np.flatnonzero(fresh[:, 0]).tolist() == [0, per_lane, 2 * per_lane]
    assert (fresh == fresh[:, :1]).all()
    again = next(train_batches(source, 3, seed=0, lanes=True, start=7))
    np.testing.assert_array_equal(again["inputs"], rows[7])
    half = next(train_batches(source, 3, seed=0, lanes=True, start=7, rows=[2]))
    np.testing.assert_array_equal(half["inputs"], rows[7][2:])


def test_lanes_of_an_evaluation_cover_the_split_once(data):
    source = experiment(data).task.source("test")
    assert len(source) % 4
    read = list(eval_batches(source, 4, lanes=True))
    weight = np.concatenate([b["weight"] for b in read])
    rows = np.concatenate([b["inputs"] for b in read])[weight > 0]
    expected = [source[i]["inputs"] for i in range(len(source))]
    assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
    assert read[0]["fresh"].all()
    assert not read[1]["fresh"].any()
    with pytest.raises(ValueError, match=r"113 rows cannot be divided into 200 lanes"):
        next(train_batches(experiment(data).task.source("train"), 200, seed=0, lanes=True))


@pytest.mark.of_the_day("one lane", 2)
def test_an_evaluation_in_one_lane_is_one_pass_over_the_text(program, data):
    state, _ = trained(program, data, 2)
    one = dataclasses.replace(program.experiment, train=TrainConfig(eval_batch_size=1))
    task = one.task
    metrics = evaluate(
        program._replace(experiment=one), state.params, state.rest, task.source("test")
    )
    text = np.frombuffer(TEXT[950:], np.uint8).astype(np.int32)
    model = program.plan.merge(state.params, state.rest)
    call = nnx.jit(lambda model, x: model(x))
    logits = call(model, jnp.asarray(text[None, :-1]))
    total, count = task.measure(logits, {"targets": text[None, 1:]})["loss"]
    assert metrics["loss"] == pytest.approx(float(total / count), rel=1e-5)
    alone = call(model, jnp.asarray(text[None, LENGTH : 2 * LENGTH]))
    carried = logits[:, LENGTH : 2 * LENGTH]
    assert not np.allclose(alone, carried, rtol=1e-3)  # the state matters


@pytest.mark.of_the_day("a carried state", 2)
def test_training_carries_the_state_and_stops_gradients_at_it(program, data):
    """Against a loop over the parts by hand."""
    state, losses = trained(program, data, 3)
    initial, _ = seed_keys(0)
    fresh = program.init(initial)
    first = batches(data)[0]
    extend = nnx.jit(lambda model, x, state: model.extend(x, state))
    model = program.plan.merge(fresh.params, fresh.rest)
    outputs, after = extend(model, first["inputs"], model.init_state(BATCH))
    total, count = program.experiment.task.measure(outputs, first)["loss"]
    assert losses[0] == pytest.approx(float(total / count), rel=1e-5)
    one, _ = trained(program, data, 1)
    for a, b in zip(jax.tree.leaves(one.carry), jax.tree.leaves(after), strict=True):
        assert_close(a, b)
    model = program.plan.merge(one.params, one.rest)
    outputs, _ = extend(model, batches(data)[1]["inputs"], one.carry)
    total, count = program.experiment.task.measure(outputs, batches(data)[1])["loss"]
    assert losses[1] == pytest.approx(float(total / count), rel=1e-5)
    assert int(one.carry.position[0]) == LENGTH
    assert int(state.carry.position[0]) == 3 * LENGTH


def test_a_new_epoch_forgets_the_state(program, data):
    per_lane = len(program.experiment.task.source("train")) // BATCH
    source = program.experiment.task.source("train")
    batch = next(train_batches(source, BATCH, seed=0, lanes=True, start=per_lane))
    state, _ = trained(program, data, 2)
    state, _ = program.step(state, batch, seed_keys(0)[1])
    assert int(state.carry.position[0]) == LENGTH


def test_stop_and_resume_equals_uninterrupted(program, tmp_path, monkeypatch):
    run_program(program, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", lambda *_: StopAfter(5))
        assert run_program(program, tmp_path / "parts")["step"] == 5
    assert run_program(program, tmp_path / "parts")["step"] == STEPS
    a, b = (state_of(tmp_path / name, program, STEPS) for name in ("whole", "parts"))
    assert digest(a.params) == digest(b.params)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert len(jax.tree.leaves(a.carry)) >= 3
    assert read_lines(tmp_path / "whole") == read_lines(tmp_path / "parts")


@pytest.mark.of_the_day("stateful devices")
def test_several_devices_and_microbatches_give_the_same(program, data):
    one, losses = trained(program, data, 3)
    divided = make_program(experiment(data))
    halved = make_program(experiment(data, accumulate=2), devices=jax.devices()[:1])
    states = []
    for other in (divided, halved):
        state, same = trained(other, data, 3)
        np.testing.assert_allclose(same, losses, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(state.carry), jax.tree.leaves(one.carry), strict=True):
            assert_close(a, b, ratio=1e-4)
        states.append(state)
    for leaf in jax.tree.leaves(states[0].carry):
        assert leaf.addressable_shards[0].data.shape[0] == BATCH // jax.device_count()
    source = program.experiment.task.source("test")
    metrics = [
        evaluate(p, s.params, s.rest, source) for p, s in ((divided, states[0]), (program, one))
    ]
    assert metrics[0]["loss"] == pytest.approx(metrics[1]["loss"], rel=1e-5)


@pytest.mark.slow
def test_seeds_trained_together_carry_their_own_state(program, data, tmp_path):
    together = make_program(experiment(data, replicas=2), devices=jax.devices()[:1])
    both = run_program(together, tmp_path / "both")
    alone = run_program(program, tmp_path / "alone")
    found = both["validation"]["validation/bits_per_byte"]
    assert found[0] == pytest.approx(alone["validation"]["validation/bits_per_byte"], rel=1e-4)
    assert found[0] != found[1]


@pytest.mark.of_the_day("dropout with a state", 3)
def test_dropout_works_while_state_is_carried(data):
    task = experiment(data).task
    config = BackboneConfig(d_model=8, depth=1, feedforward="none", dropout=0.5)
    made = dataclasses.replace(experiment(data), backbone=config)
    model = model_factory(made)(nnx.Rngs(0))
    x = jnp.asarray(task.source("train")[0]["inputs"][None])

    @nnx.jit
    def both(model, x):
        rngs = nnx.Rngs(dropout=1)
        plain, _ = model.extend(x, model.init_state(1))
        dropped, _ = model.extend(x, model.init_state(1), rngs=rngs)
        return plain, dropped, model(x, rngs=nnx.Rngs(dropout=1))

    plain, dropped, called = both(model, x)
    assert not np.allclose(plain, dropped)
    assert_close(dropped, called)


def test_a_state_that_grows_is_refused(data):
    with pytest.raises(ValueError, match="give attention a window"):
        make_program(experiment(data, model="attention"))
