"""Probes against other implementations, and of whole runs."""

import json

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks import build
from seqzoo.train.cli.command import dispatch
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.evaluation.probe import STRENGTHS, Labelled, linear_probe, neighbours, probe_run
from seqzoo.train.folder.run_folder import RunFolderError
from seqzoo.train.loop.runner import run

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 6))


def split(count, noise=1.5):
    classes = RNG.integers(0, 4, count)
    vectors = 3 + CENTRES[classes] + noise * RNG.normal(size=(count, 6))
    vectors[:, 5] = 2.0  # says nothing
    return Labelled(vectors * [1, 10, 0.1, 1, 1, 1], classes)


def test_the_linear_probe_is_the_ridge_that_is_best_on_validation():
    train, validation, test = split(300), split(100), split(400)
    scaler = StandardScaler().fit(train.vectors)

    def accuracy(strength, part):
        model = Ridge(alpha=strength * 300).fit(
            scaler.transform(train.vectors), np.eye(4)[train.classes]
        )
        return np.mean(model.predict(scaler.transform(part.vectors)).argmax(1) == part.classes)

    best = max(STRENGTHS, key=lambda s: (accuracy(s, validation), s))
    assert linear_probe(train, validation, test) == accuracy(best, test)
    assert 0.4 < accuracy(best, test) < 0.95
    assert accuracy(STRENGTHS[-1], validation) < accuracy(best, validation)


def test_neighbours_vote_by_their_cosines():
    train, test = split(200), split(150)
    voter = KNeighborsClassifier(
        20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07), algorithm="brute"
    )
    found = voter.fit(train.vectors, train.classes).score(test.vectors, test.classes)
    assert neighbours(train, test) == found
    few = Labelled(train.vectors[:3], train.classes[:3])
    assert 0 <= neighbours(few, test) <= 1


@pytest.mark.slow
def test_a_run_is_probed_with_the_classes_of_the_task_that_it_wraps(tmp_path, capsys):
    task = build("simclr:sdigits", dim=8, hidden=8)
    train = TrainConfig(steps=2, batch_size=8, replicas=2, eval_every=0, seed=3)
    backbone = BackboneConfig(d_model=8, depth=1, feedforward="none", scan=False)
    run(Experiment(task=task, model="indrnn", backbone=backbone, train=train), tmp_path / "run")
    assert dispatch(["evaluate", str(tmp_path / "run"), "--probe"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["seeds"] == [3, 4]
    for name in ("linear", "neighbours", "random_linear", "random_neighbours"):
        assert len(set(found[name])) == 2
        assert all(0.2 < value < 1 for value in found[name])
    assert dispatch(["evaluate", str(tmp_path / "run"), "--probe", "--streaming"]) == 2
    assert "leave out --axes" in capsys.readouterr().err


def test_what_has_no_classes_is_not_probed(tmp_path):
    train = TrainConfig(steps=1, batch_size=4)
    with pytest.raises(RunFolderError, match="is no run"):
        probe_run(tmp_path / "nothing")
    experiment = Experiment(task=build("mqar", length=64), model="indrnn", train=train)
    (tmp_path / "config.json").write_text(json.dumps(experiment.to_dict()))
    with pytest.raises(ValueError, match="task mqar has other answers"):
        probe_run(tmp_path)
