"""What a run knows of its replicas: skips, failures, best results, and the way through JSON."""

import json
import math

import numpy as np
import pytest

from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.folder.files import plain
from seqzoo.train.folder.metrics import NonFiniteError
from seqzoo.train.loop.record import Record
from tests.train.tiny import Tiny


def record(replicas=1, steps=100, **train):
    config = TrainConfig(steps=steps, replicas=replicas, **train)
    return Record(Experiment(task=Tiny(), train=config))


def metrics(loss, skipped=False, **groups):
    flags = {f"nonfinite/{name}": np.array(bad) for name, bad in groups.items()}
    return {"loss": np.float32(loss), "skipped": np.array(skipped), **flags}


def test_as_many_steps_may_be_skipped_as_the_share_allows():
    found = record(max_skipped=0.07)  # of 100 steps: 7, though 0.07 * 100 is a little more
    for step in range(1, 8):
        line = found.read(step, metrics(np.nan, True, default=False, dynamics=True))
        found.check()
        assert line["skipped"] == step
    found.read(8, metrics(np.nan, True, default=False, dynamics=True))
    with pytest.raises(NonFiniteError, match=r"step 8 .* loss nan, .*dynamics.* 8th .*max-skipped"):
        found.check()
    assert found.meta()["failure"]["groups"] == ["dynamics"]


def test_by_default_a_short_run_ends_at_the_first_one():
    found = record(steps=99)
    found.read(3, metrics(1.0, True, default=False))
    with pytest.raises(NonFiniteError, match=r"step 3 .* loss 1.0, the loss alone; the state was"):
        found.check()


def test_the_newest_finite_metrics_are_those_of_the_result():
    found = record(2, max_skipped=1.0)
    found.read(1, metrics([1.0, 2.0], [False, False]))
    assert found.read(2, metrics([3.0, np.nan], [False, True]))["loss"][0] == 3.0
    assert found.meta()["train"] == {"loss": [3.0, 2.0]}
    assert found.loss == 2.5


def test_replicas_that_failed_do_not_count_and_the_last_one_ends_the_run():
    found = record(2, steps=10)
    found.read(1, metrics([1.0, 2.0], [False, True], default=[False, True]))
    found.check()
    assert found.loss == 1.0
    found.read(2, metrics([5.0, 2.0], [True, False], default=[True, False]))
    assert math.isnan(found.loss)
    with pytest.raises(NonFiniteError, match="step 2"):
        found.check()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_record_goes_through_a_checkpoint(replicas):
    found, several = record(replicas, max_skipped=0.02), replicas > 1
    values = [0.5, 0.25] if several else 0.5
    for step in (1, 2, 3):
        found.read(step, metrics(values, np.array([True, False])[:replicas] if several else True))
    found.evaluated(4, {"accuracy": np.array([np.nan, 0.5])[2 - replicas :], "examples": 9}, None)
    other = record(replicas, max_skipped=0.02)
    other.restore(json.loads(json.dumps(plain(found.meta()), allow_nan=False)))
    assert plain(other.meta()) == plain(found.meta())
    better = np.array([0.1, 0.6])[2 - replicas :]
    for each in (found, other):
        each.evaluated(5, {"accuracy": better}, None)
    assert plain(other.meta()) == plain(found.meta())
    assert found.meta()["best"]["step"] == ([5, 5] if several else 5)


def test_a_single_run_has_numbers_and_what_older_checkpoints_lack_is_nothing():
    found = record()
    found.restore({"train": {"loss": 1.0}, "validation": {}, "best": None})
    assert found.meta() == {
        "train": {"loss": 1.0},
        "validation": {},
        "best": None,
        "skipped": 0,
        "failure": None,
    }
