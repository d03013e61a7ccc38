"""Trials side by side, each with numbers of the optimiser of its own, are what each is alone."""

import dataclasses

import jax
import numpy as np
import pytest

from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.optimizer import NUMBERS, OPTIMISERS
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run_program
from seqzoo.train.loop.streams import RunData
from tests.helpers import assert_close
from tests.train.loop.test_replicas import make_model
from tests.train.tiny import Tiny

pytestmark = pytest.mark.of_the_day(days=5)

SWEPT = {
    "peak_lr": (1e-3, 3e-2),
    "dynamics_lr": (1e-1, 2e-3),  # the smaller of this and the peak counts
    "final_lr": (0.0, 0.5),
    "weight_decay": (0.0, 0.3),
    "clip_norm": (0.05, 3.0),
}
TRAIN = TrainConfig(
    steps=6, batch_size=8, eval_every=3, threads=0, save_every=0, seed=3, replicas=4
)


def swept(**changes):
    return Experiment(
        task=Tiny(), optim=OptimConfig(**changes), train=TRAIN, swept={n: SWEPT[n] for n in NUMBERS}
    )


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.of_the_day
def test_each_trial_is_what_it_is_alone(name, tmp_path):
    several = swept(name=name)
    found = run_program(make_program(several, make_model=make_model), tmp_path / "all")
    assert found["seeds"] == [3, 4, 3, 4]
    for place in (1, 2):
        alone = several.alone(place)
        assert alone.optim.peak_lr == SWEPT["peak_lr"][place // 2]
        assert (alone.train.seed, alone.swept) == ((4, 3)[place - 1], {})
        own = run_program(make_program(alone, make_model=make_model), tmp_path / str(place))
        for part in ("train", "validation"):
            for metric, value in own[part].items():
                assert_close(found[part][metric][place], value, ratio=1e-5, what=metric)
    assert len({*found["train"]["lr"]}) == 2
    assert len({*found["train"]["loss"]}) == 4


def test_a_trial_is_loaded_with_its_own_parameters(tmp_path, monkeypatch):
    several = swept()
    monkeypatch.setattr(RunFolder, "experiment", lambda folder: several)
    run_program(make_program(several, make_model=make_model), tmp_path)
    found = [load_run(tmp_path, seed=seed, make_model=make_model) for seed in (3, 5)]
    (program, state, meta), (own, other, _) = found[::-1]
    assert (program.experiment, meta["seed"]) == (several.alone(2), 3)
    assert own.experiment == several.alone(0)
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (state, other)), strict=True))


def test_a_configuration_says_what_each_trial_has():
    several = dataclasses.replace(swept(), task="mqar")
    again = Experiment.from_dict(several.to_dict())
    assert again == several
    assert "swept" not in Experiment(task="mqar").to_dict()
    for wrong in ({"peak_lr": ()}, {"peak_lr": (1.0,) * 3}, {"peak_lr": (1.0, 2.0), "b1": (0.5,)}):
        with pytest.raises(ValueError, match="trials times seeds"):
            dataclasses.replace(several, swept=wrong)
    with pytest.raises(ValueError, match="trials times seeds"):
        Experiment(task="mqar", swept={"peak_lr": (1.0,)})


def test_seeds_of_a_trial_have_the_rows_of_the_other_trials():
    program = make_program(swept(), make_model=make_model)
    rows = next(iter(RunData(program.experiment, program.mesh).train))["inputs"]
    assert rows.shape[:2] == (4, 8)
    np.testing.assert_array_equal(rows[:2], rows[2:])
    assert (rows[0] != rows[1]).any()
