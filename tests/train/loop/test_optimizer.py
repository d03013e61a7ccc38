"""Optimisers against optax's own, groups obeyed by all of them, schedules, averages."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from seqzoo.tasks import TASKS
from seqzoo.train.cli.compare import experiments_of
from seqzoo.train.cli.flags import read
from seqzoo.train.config import OptimConfig
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.loop.evaluate import evaluate, load_run
from seqzoo.train.loop.optimizer import (
    OPTIMISERS,
    averaged,
    evaluated_weights,
    make_optimizer,
    make_schedule,
)
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run_program
from tests.helpers import assert_close
from tests.train.tiny import Tiny
from tests.train.tiny_run import experiment, make_model

SHAPES = {"l/in_proj/kernel": (4, 6), "stack/up_proj/kernel": (2, 4, 6), "out_proj/kernel": (4, 3)}
SHAPES |= {"embed/embedding": (5, 4), "l/bias": (6,), "l/log_dt": (4,)}
GROUPS = dict.fromkeys(SHAPES, "default") | {"l/bias": "no_decay", "l/log_dt": "dynamics"}
PLAIN = {
    "peak_lr": 1e-2,
    "dynamics_lr": 1e-3,
    "warmup": 0,
    "clip_norm": 0.0,
    "schedule": "constant",
}


def tree(seed):
    rng = np.random.default_rng(seed)
    return {path: jnp.float32(rng.normal(size=shape)) for path, shape in SHAPES.items()}


def steps(tx, count=4):
    params = tree(0)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for i in range(count):
        updates, state = update(tree(i + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def ours(name, **more):
    return make_optimizer(OptimConfig(name=name, **{**PLAIN, **more}), 10, GROUPS)


MUON = dict.fromkeys(SHAPES) | {
    path: contrib.MuonDimensionNumbers(len(SHAPES[path]) - 2, len(SHAPES[path]) - 1)
    for path in ("l/in_proj/kernel", "stack/up_proj/kernel")
}
REFERENCES = {
    "adamw": lambda rate: optax.adamw(rate, weight_decay=0),
    "adam": optax.adam,
    "sgd": lambda rate: optax.sgd(rate, 0.9),
    "lion": lambda rate: optax.lion(rate, b1=0.9, b2=0.999, weight_decay=0),
    "adafactor": lambda rate: optax.adafactor(rate),
    "muon": lambda rate: contrib.muon(rate, consistent_rms=0.2, muon_weight_dimension_numbers=MUON),
    "schedule_free": lambda rate: contrib.schedule_free_adamw(
        rate, b1=0.9, b2=0.999, weight_decay=0
    ),
}


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", OPTIMISERS)
def test_without_decay_each_is_the_librarys(name):
    found, _ = steps(ours(name, weight_decay=0.0))
    for rate, group in ((1e-2, ("default", "no_decay")), (1e-3, ("dynamics",))):
        expected, _ = steps(REFERENCES[name](rate))
        for path, value in found.items():
            if GROUPS[path] in group:
                np.testing.assert_allclose(
                    value, expected[path], rtol=1e-5, atol=1e-7, err_msg=path
                )


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", OPTIMISERS)
def test_decay_is_of_the_default_group_alone(name):
    with_decay, without = (steps(ours(name, weight_decay=d))[0] for d in (0.1, 0.0))
    for path, group in GROUPS.items():
        same = np.array_equal(with_decay[path], without[path])
        assert same == (group != "default"), path


def test_decoupled_decay_is_that_of_adamw():
    found, _ = steps(ours("adamw", weight_decay=0.1))
    mask = {path: group == "default" for path, group in GROUPS.items()}
    expected, _ = steps(optax.adamw(1e-2, weight_decay=0.1, mask=mask))
    for path in SHAPES:
        if GROUPS[path] != "dynamics":
            np.testing.assert_allclose(found[path], expected[path], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("cosine", {3: 1.0, 19: 0.1}),
        ("linear", {3: 1.0, 11: 0.55, 19: 0.1}),
        ("constant", {3: 1.0, 19: 1.0}),
        ("wsd", {3: 1.0, 14: 1.0, 15: 1.0, 17: 0.55, 19: 0.1}),
        ("inverse_sqrt", {3: 1.0, 15: 0.5}),
    ],
)
def test_schedules_rise_hold_and_fall(schedule, rates):
    optim = OptimConfig(peak_lr=1.0, warmup=4, final_lr=0.1, schedule=schedule, decay=0.2)
    made = make_schedule(optim, 20)
    found = {step: float(made(jnp.int32(step))) for step in (0, 1, *rates)}
    assert (found[0], found[1]) == (0.25, 0.5)
    np.testing.assert_allclose([found[step] for step in rates], [*rates.values()], rtol=1e-5)


@pytest.mark.of_the_day("trained in part", 2)
@pytest.mark.parametrize("name", sorted(OPTIMISERS))
def test_what_is_not_trained_stays_and_the_rest_learns_as_without_it(name):
    more = {"clip_norm": 0.5, "weight_decay": 0.3}
    params, _ = steps(ours(name, trained=r"^(out_proj|l)/", **more))
    for path, value in tree(0).items():
        same = np.array_equal(np.asarray(params[path]), value)
        assert same == (not path.startswith(("out_proj/", "l/"))), path
    zero = optax.masked(optax.set_to_zero(), {p: "in_proj" not in p for p in SHAPES})
    alone, _ = steps(optax.chain(zero, ours(name, **more)))
    params, _ = steps(ours(name, trained="in_proj", **more))
    assert_close(params["l/in_proj/kernel"], alone["l/in_proj/kernel"], ratio=1e-6)


@pytest.mark.parametrize(("trained", "says"), [("(", "no regular"), ("xyz", "nothing would learn")])
def test_what_trains_nothing_is_refused(trained, says):
    with pytest.raises(ValueError, match=says):
        ours("adamw", trained=trained)


def test_schedule_free_needs_no_schedule_and_is_evaluated_at_its_average():
    optim = OptimConfig(name="schedule_free", **{**PLAIN, "schedule": "auto"})
    made = make_schedule(optim, 10)
    assert [float(made(jnp.int32(i))) for i in (0, 9)] == pytest.approx([1e-2, 1e-2])
    params, state = steps(make_optimizer(optim, 10, GROUPS))
    weights = evaluated_weights(optim)(state, params)
    assert not np.allclose(weights["l/bias"], params["l/bias"])
    with pytest.raises(ValueError, match="schedule_free averages by itself"):
        dataclasses.replace(optim, ema=0.9)


def test_the_average_forgets_its_beginning_and_follows():
    optim = OptimConfig(ema=0.9, **PLAIN)
    params, state = steps(make_optimizer(optim, 10, GROUPS), 3)
    tx, kept, now = make_optimizer(OptimConfig(**PLAIN), 10, GROUPS), tree(0), tree(0)
    inner = tx.init(now)
    for i in range(3):
        updates, inner = tx.update(tree(i + 1), inner, now)
        now = optax.apply_updates(now, updates)
        keep = min(0.9, (2 + i) / (11 + i))
        kept = jax.tree.map(lambda old, new, keep=keep: keep * old + (1 - keep) * new, kept, now)
    weights = evaluated_weights(optim)(state, params)
    for path in SHAPES:
        np.testing.assert_allclose(params[path], now[path], rtol=1e-6)
        np.testing.assert_allclose(weights[path], kept[path], rtol=1e-5)
    assert evaluated_weights(OptimConfig()) is None
    assert averaged(0.5).init(params).count == 0


def test_an_optimiser_of_ones_own_is_a_direction(tmp_path, monkeypatch):
    (tmp_path / "mine_optim.py").write_text(
        "import optax\ndef signs(optim):\n    return optax.scale_by_sign()\nwrong = 7\n"
    )
    monkeypatch.chdir(tmp_path)
    found, _ = steps(ours("mine_optim.py:signs", weight_decay=0.0), 1)
    expected = jax.tree.map(lambda p, g: p - 1e-2 * jnp.sign(g), tree(0), tree(1))
    np.testing.assert_allclose(found["l/bias"], expected["l/bias"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"gave int; it is a function of the run's OptimConfig"):
        ours("mine_optim.py:wrong")
    with pytest.raises(ValueError, match="unknown optimiser 'moun'; did you mean muon"):
        ours("moun")


def test_older_configurations_are_those_of_adamw():
    from seqzoo.train.config import comparable

    old = {"optim": {"peak_lr": 1e-3}, "train": {}}
    assert comparable(old)["optim"] == dataclasses.asdict(OptimConfig())


@pytest.mark.of_the_day
@pytest.mark.parametrize("optim", [{"ema": 0.8}, {"name": "schedule_free"}, {"name": "muon"}])
def test_what_is_evaluated_during_a_run_is_what_a_checkpoint_gives(tmp_path, monkeypatch, optim):
    monkeypatch.setitem(TASKS, "tiny", Tiny)
    made = experiment(optim=OptimConfig(peak_lr=1e-2, **optim), steps=6, eval_every=3, save_every=3)
    made = dataclasses.replace(made, model="lru")  # a name; `make_model` makes it
    options = {"make_model": make_model, "devices": jax.devices()[:1]}
    program = make_program(made, **options)
    result = run_program(program, tmp_path / "run")
    with contextlib.closing(Checkpoints(tmp_path / "run")) as checkpoints:
        state = checkpoints.restore(6, program.like)
    found = evaluate(program, program.weights(state), state.rest, made.task.source("validation"))
    assert found["loss"] == pytest.approx(result["validation"]["validation/loss"], rel=1e-6)
    plain = evaluate(program, state.params, state.rest, made.task.source("validation"))
    assert (plain["loss"] == found["loss"]) == ("muon" in optim.values())
    _, loaded, _ = load_run(tmp_path / "run", make_model=make_model)
    for path, value in program.weights(state).items():
        np.testing.assert_array_equal(loaded.params[path], value)


def test_one_model_of_a_comparison_has_a_rate_of_its_own():
    argv = ["--task", "mqar", "--models", "a=lru,min_gru", "--out", "x", "--optim.peak-lr", "1e-2"]
    more = ["--optim.min-gru.peak-lr", "0.5", "--optim.min_gru.schedule", "linear"]
    line = read([*argv, *more])
    models = {"a": "lru", "min_gru": "min_gru"}
    found = experiments_of(line, "mqar", models)[2]
    assert [found[label].optim.peak_lr for label in models] == [0.01, 0.5]
    assert {made.optim.schedule for made in found.values()} == {"auto", "linear"}
    with pytest.raises(ValueError, match=r"unknown option '--optim\.gru\.peak-lr'"):
        experiments_of(read([*argv, "--optim.gru.peak-lr", "0.5"]), "mqar", models)
