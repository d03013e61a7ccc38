"""A replica that finds nothing better stops, with what it would have had alone."""

import jax
import numpy as np
import pytest

from seqzoo.train.config import TrainConfig
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop import runner
from seqzoo.train.loop.record import Record
from seqzoo.train.loop.runner import run_program
from tests.helpers import assert_close, assert_trees_close
from tests.train.loop.test_replicas import SEEDS, Selecting, experiment, program_of, saved
from tests.train.loop.test_runner import StopAfter

OPTIONS = {"patience": 2, "steps": 40, "eval_every": 2}


@pytest.mark.of_the_day("patience")
def test_each_replica_stops_where_it_does_alone(tmp_path, monkeypatch):
    made = program_of(Selecting(), **OPTIONS)
    whole = run_program(made, tmp_path / "together")
    assert whole["complete"]
    assert whole["step"] == max(whole["stopped"]) < 40
    assert len(set(whole["stopped"])) > 1
    assert whole["skipped"] == [0] * len(SEEDS)
    state = saved(tmp_path / "together", made, whole["step"])["state"]
    lines = read_lines(tmp_path / "together")
    single = program_of(Selecting(), replicas=1, **OPTIONS)
    for i, seed in enumerate(SEEDS):
        one = single._replace(
            experiment=experiment(Selecting(), replicas=1, **{**OPTIONS, "seed": seed})
        )
        alone = run_program(one, tmp_path / str(seed))
        assert alone["complete"]
        assert alone["step"] == alone["stopped"] == whole["stopped"][i]
        assert alone["best"]["step"] == whole["best"]["step"][i]
        found = saved(tmp_path / str(seed), one, alone["step"])
        assert_trees_close(jax.tree.map(lambda x, i=i: x[i], state.params), found.params)
        losses = np.array([line.values["loss"][i] for line in lines], np.float64)
        own = [line.values["loss"] for line in read_lines(tmp_path / str(seed))]
        assert_close(losses[: alone["step"]], np.array(own))
        assert np.isnan(losses[alone["step"] :]).all()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", lambda *_: StopAfter(min(whole["stopped"]) + 1))
        assert not run_program(made, tmp_path / "again")["complete"]
    run_program(made, tmp_path / "again")
    after = saved(tmp_path / "again", made, whole["step"])["state"]
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(x, y)
    result = RunFolder(tmp_path / "again").result()
    assert run_program(made, tmp_path / "again") == result  # nothing is left


def test_stops_follow_from_the_best_results():
    record = Record(experiment(**OPTIONS))
    record.best.steps = [None, 2, 6]
    assert [record.stopped(step).tolist() for step in (3, 4, 6, 7)] == [
        [False, False, False],
        [True, False, False],
        [True, True, False],
        [True, True, False],
    ]
    assert record.stops(7) == {"stopped": [4, 6, None]}
    assert not Record(experiment()).stopped(1000).any()


def test_patience_needs_evaluations():
    with pytest.raises(ValueError, match="patience counts evaluations, and eval_every=0"):
        TrainConfig(patience=1, eval_every=0)
    with pytest.raises(ValueError, match="patience must not be negative; got -1"):
        TrainConfig(patience=-1)
