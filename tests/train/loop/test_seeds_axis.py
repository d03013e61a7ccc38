"""Replicas divided over devices: each has its own, and what it gives is what it gives alone."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from seqzoo.train.config import MeshConfig
from seqzoo.train.loop.data import to_devices
from seqzoo.train.loop.program import make_program, replica_keys
from seqzoo.train.loop.runner import run
from seqzoo.train.loop.streams import RunData
from seqzoo.train.plan.hlo import Module
from tests.helpers import assert_close, assert_trees_close
from tests.train.loop.test_replicas import experiment, make_model


def program(replicas=4, **mesh):
    count = max(1, mesh.get("seeds", 1)) * mesh.get("data", 1)
    made = experiment(replicas=replicas)
    made = dataclasses.replace(made, mesh=MeshConfig(**{"data": 1, **mesh}))
    return make_program(made, make_model=make_model, devices=jax.devices()[:count])


def trained(made, steps=3):
    data = RunData(made.experiment, made.mesh)
    first, key = replica_keys(made.experiment)
    state, losses = made.init(first), []
    for batch in itertools.islice(data.train, steps):
        state, metrics = made.step(state, to_devices(batch, made.rows), key)
        losses.append(np.asarray(metrics["loss"]))
    return state, np.stack(losses)


@pytest.mark.of_the_day("seeds over devices")
def test_replicas_over_devices_equal_those_of_one():
    one, losses = trained(program())
    many, same = trained(program(seeds=2, data=2))
    assert_close(same, losses)
    assert_trees_close(jax.device_get(many.params), jax.device_get(one.params), ratio=1e-4)
    for leaf in jax.tree.leaves(many._replace(carry=())):
        assert leaf.addressable_shards[0].data.shape[0] == 2  # of 4


@pytest.mark.of_the_day("sent along seeds", 3)
def test_nothing_but_metrics_is_sent_along_the_axis():
    made = program(seeds=4)
    batch = next(iter(RunData(made.experiment, made.mesh).train))
    key = replica_keys(made.experiment)[1]
    text = made.step.lower(made.like, to_devices(batch, made.rows), key).compile().as_text()
    largest = max(c.sent for c in Module(text).collectives())
    assert largest <= 4 * 4  # one number of each replica


def test_replicas_that_do_not_divide_are_refused(tmp_path):
    for count, more in ((3, "3; 4 would do, or --mesh.seeds 1"), (1, "1; 2 would do")):
        made = dataclasses.replace(experiment(replicas=count), mesh=MeshConfig(data=1, seeds=2))
        with pytest.raises(ValueError, match=f"axis seeds, 2; got {more}"):
            run(made, tmp_path / "run", make_model=make_model, devices=jax.devices()[:2])
    assert not (tmp_path / "run").exists()
