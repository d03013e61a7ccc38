"""Configurations: JSON and back, what may differ, and the schedule they mean."""

import copy
import dataclasses
import functools
import operator

import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.models import MIXERS, config_of
from seqzoo.models.attention.positions import Rope
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.differences import differences
from seqzoo.train.loop.optimizer import make_optimizer, make_schedule

EXPERIMENT = Experiment(
    task=tasks.build("mqar", num_pairs=4),
    model="attention",
    mixer={"num_heads": 2},
    backbone=BackboneConfig(d_model=32),
    train=TrainConfig(steps=7),
)


def test_json_and_back():
    assert Experiment.from_dict(EXPERIMENT.to_dict()) == EXPERIMENT


def test_a_field_of_another_version_is_named():
    data = EXPERIMENT.to_dict()
    data["optim"]["amsgrad"] = 0.9
    with pytest.raises(ValueError, match="OptimConfig has no field 'amsgrad'"):
        Experiment.from_dict(data)


def test_a_field_that_did_not_exist_yet_had_its_default():
    new, old = EXPERIMENT.to_dict(), EXPERIMENT.to_dict()
    for name in ("routing", "logit_cap", "each"):
        del old["backbone"][name]
    assert differences(old, new) == differences(new, old) == []
    new["backbone"]["logit_cap"] = 30.0
    assert [d.key for d in differences(old, new)] == ["backbone.logit_cap"]


def test_positions_of_a_configuration_written_before_are_read():
    """Eight options of attention stood beside `positions`, all of them written."""
    former = {"rope_base": 10000.0, "rope_fraction": 0.5, "num_buckets": 32, "rope_values": False}
    new = dataclasses.replace(EXPERIMENT, mixer={"num_heads": 2, "positions": "rope:fraction=0.5"})
    old = new.to_dict() | {"mixer": {"num_heads": 2, "positions": "rope", **former}}
    assert Experiment.from_dict(old) == new
    assert differences(old, new.to_dict()) == []
    old["mixer"]["rope_base"] = 500.0
    assert [d.key for d in differences(old, new.to_dict())] == ["mixer.positions"]
    several = old | {"model": "rg_lru,attention", "mixer": {"attention": old["mixer"]}}
    mixer = Experiment.from_dict(several).mixer
    assert mixer == {"attention": {"num_heads": 2, "positions": "rope:base=500.0,fraction=0.5"}}


def test_positions_as_a_value_are_written_as_their_text():
    as_value = dataclasses.replace(EXPERIMENT, mixer={"positions": Rope(base=500.0)})
    assert as_value.to_dict()["mixer"] == {"positions": "rope:base=500.0"}


def test_differences_leave_out_where_and_how():
    elsewhere = dataclasses.replace(
        EXPERIMENT,
        mesh=MeshConfig(data=1),
        train=dataclasses.replace(EXPERIMENT.train, threads=3, seed=4),
    )
    found = differences(EXPERIMENT.to_dict(), elsewhere.to_dict())
    assert found == [("train.seed", 0, 4)]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (OptimConfig, {"peak_lr": 0.0}),
        (OptimConfig, {"b2": 1.0}),
        (TrainConfig, {"steps": 0}),
        (TrainConfig, {"replicas": 10**9}),
        (TrainConfig, {"prefetch": 10**9}),
        (TrainConfig, {"threads": 10**9}),
        (TrainConfig, {"accumulate": 5}),
        (MeshConfig, {"fsdp": 0}),
    ],
)
def test_values_out_of_range_are_named(config, field):
    with pytest.raises(ValueError, match=next(iter(field))):
        config(**field)


def test_the_schedule_rises_linearly_and_falls_to_its_end():
    schedule = make_schedule(OptimConfig(peak_lr=1.0, warmup=4, final_lr=0.1), 20)
    rates = np.array([schedule(jnp.int32(n)) for n in range(20)])
    np.testing.assert_allclose(rates[:4], [0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    assert (np.diff(rates[3:]) < 0).all()
    np.testing.assert_allclose(rates[11], 0.1 + 0.9 / 2, rtol=1e-5)
    np.testing.assert_allclose(rates[19], 0.1, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 0.1, 3])
@pytest.mark.parametrize("steps", [2, 10, 11])
def test_the_last_step_has_the_final_rate_and_the_first_one_learns(warmup, steps):
    schedule = make_schedule(OptimConfig(peak_lr=1.0, warmup=warmup, final_lr=0.1), steps)
    rates = np.array([schedule(jnp.int32(n)) for n in range(steps)])
    assert rates[0] > 0
    assert rates.max() == 1
    if warmup < steps:  # else it rises to its end
        np.testing.assert_allclose(rates[-1], 0.1, rtol=1e-5)


def test_groups_have_their_rates_and_decay():
    groups = {"w": "default", "b": "no_decay", "a": "dynamics"}
    params = {path: jnp.full(3, 2.0) for path in groups}
    optim = OptimConfig(peak_lr=1e-2, dynamics_lr=1e-3, weight_decay=0.5, warmup=0, clip_norm=0)
    tx = make_optimizer(optim, 10, groups)
    grads = {path: jnp.ones(3) for path in groups}
    updates, _ = tx.update(grads, tx.init(params), params)
    # The first Adam step is the sign of the gradient; decay adds 0.5 * 2.
    expected = {"w": -1e-2 * (1 + 1), "b": -1e-2, "a": -1e-3}
    for path, value in expected.items():
        np.testing.assert_allclose(updates[path], value, rtol=1e-5)


def test_dynamics_never_learn_faster_than_the_rest():
    tx = make_optimizer(OptimConfig(peak_lr=1e-4, warmup=0), 10, {"a": "dynamics"})
    params = {"a": jnp.ones(3)}
    updates, _ = tx.update({"a": jnp.ones(3)}, tx.init(params), params)
    np.testing.assert_allclose(updates["a"], -1e-4, rtol=1e-5)


@pytest.mark.of_the_day("any other value", 3)
def test_any_other_value_is_named_or_taken():
    """Whatever a damaged file has in place of a value, or nothing."""
    whole = Experiment(
        task=EXPERIMENT.task, model="lru", mixer=dataclasses.asdict(config_of(MIXERS["lru"])())
    ).to_dict()
    taken = refused = 0
    for place in _places(whole):
        for value in (None, "x", -1, 0.5, [], {}, "gone"):
            made = copy.deepcopy(whole)
            part = functools.reduce(operator.getitem, place[:-1], made)
            part[place[-1]] = value
            if value == "gone":
                del part[place[-1]]
            try:
                read = Experiment.from_dict(made)
            except ValueError:
                refused += 1
            else:
                taken += 1
                assert Experiment.from_dict(read.to_dict()) == read
    assert refused > taken > 0


@pytest.mark.parametrize("name", ["d_state", "r_min"])
def test_a_text_is_no_number(name):
    data = dataclasses.replace(EXPERIMENT, model="lru", mixer={name: "x"}).to_dict()
    with pytest.raises(ValueError, match=rf"mixer\.{name} .*number.*x"):
        Experiment.from_dict(data)


def _places(data, before=()):
    for name, value in data.items():
        yield (*before, name)
        if isinstance(value, dict):
            yield from _places(value, (*before, name))
