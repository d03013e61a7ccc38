"""The generated tasks through the real steps: one task for each kind of head and of metric."""

import jax
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.loop.data import train_batches
from seqzoo.train.loop.evaluate import evaluate
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.state import seed_keys

SIZES = {"train_size": 32, "validation_size": 5, "test_size": 7}
KINDS = {
    "adding": {"length": 6, "test_length": 9},  # real inputs, one number at the last position
    "reconstruction": {"length": 10, "dt": 0.01, "frequency": 40.0, "window": 4},  # pooled
    "mad_compression": {"length": 6},  # restored from the last vector; accuracy over classes
    "parity": {"length": 5, "min_length": 2, "test_length": 8},  # longer rows in the test split
    "dyck": {"num_kinds": 2},  # accuracy over distances, more arrays in the batch
}
FAST = ("adding", "mad_compression", "dyck")


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    "name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in KINDS]
)
def test_steps_and_an_evaluation(name):
    task = tasks.build(name, **KINDS[name], **SIZES)
    experiment = Experiment(
        task=task,
        model="gru",
        backbone=BackboneConfig(d_model=8, depth=1, feedforward="none"),
        optim=OptimConfig(peak_lr=1e-2, warmup=0),
        train=TrainConfig(steps=30, batch_size=8, eval_every=0, threads=0),
    )
    assert Experiment.from_dict(experiment.to_dict()) == experiment
    program = make_program(experiment, devices=jax.devices()[:1])
    first, key = seed_keys(0)
    state, losses = program.init(first), []
    batch = next(train_batches(task.source("train"), 8, seed=0, threads=0))
    for _ in range(30):
        state, metrics = program.step(state, batch, key)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    final = evaluate(program, state.params, state.rest, task.source("test"))
    assert final["examples"] == 7
    assert final.keys() >= {"loss", task.main_metric}
    assert all(np.isfinite(v) for v in final.values())
