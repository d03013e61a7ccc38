import dataclasses

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.describe import check_example, describe
from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare.alike import check_models
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.loop.runner import finished

SMALL = ["--data.train-size", "30", "--data.validation-size", "10", "--data.test-size", "10"]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(capsys, *argv):
    code = dispatch(["data", *argv])
    return code, *capsys.readouterr()


def test_all_tasks_are_listed_with_what_is_kept(capsys):
    code, out, _ = run(capsys, "list")
    assert code == 0
    assert "kept in" in out
    assert "nothing" in out
    run(capsys, "prepare", "--task", "listops_short", *SMALL)
    assert "listops_short-train-" in run(capsys, "list")[1]


def test_prepared_sets_are_kept_and_verified(capsys, cache_folder):
    code, out, _ = run(capsys, "prepare", "--task", "listops_short", *SMALL)
    assert code == 0
    assert "listops_short train: 30 examples" in out
    assert len(list(cache_folder.iterdir())) == 3
    code, out, _ = run(capsys, "verify", "--task", "listops_short", *SMALL)
    assert code == 0
    assert "listops_short test: 10 examples; length " in out
    assert "10 classes, 0.0% to " in out
    assert "root operator" in out


def test_examples_are_shown(capsys):
    code, out, _ = run(
        capsys, "show", "--task", "listops_short", "--split", "test", "--count", "2", *SMALL
    )
    assert code == 0
    assert out.count("[") >= 2
    assert "-- listops_short test 1" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["shw"], "did you mean show?"),
        (["show"], "--task is needed"),
        (["show", "--task", "imagee"], "did you mean image?"),
        (["show", "--task", "mqar", "--split", "tst"], "did you mean test?"),
        (["show", "--task", "mqar", "--count", "0"], "--count must be at least 1"),
        (["verify", "--task", "mqar", "--data.lenght", "8"], "did you mean --data.length?"),
        (["verify", "--task", "image"], "cifar-10-binary.tar.gz (170 MB)"),
        (["prepare", "--task", "text", "--data.data", "/nowhere"], "42 MB"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(capsys, argv, message):
    code, _, err = run(capsys, *argv)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_an_example_that_no_model_could_take_is_named(monkeypatch):
    task = build("mqar", train_size=3)
    good = task.source("train")[0]
    check_example(task, good)
    for wrong, message in [
        ({"inputs": np.full(64, 80)}, "tokens from 80 to 80, not below 80"),
        ({"inputs": np.zeros(65, int)}, "longer than 64"),
        ({"targets": np.full(64, 80)}, "a target of 80, not below 80"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_example(task, good | wrong)
    real = build("adding")
    with pytest.raises(ValueError, match="not finite"):
        check_example(real, real.source("train")[0] | {"inputs": np.full((5, 2), np.nan)})


def test_descriptions_count_lengths_and_classes():
    task = build("listops_short", train_size=40)
    source = task.source("train")
    found = describe(task, source)
    lengths = [int(source[i]["segment_ids"].sum()) for i in range(40)]
    assert found.lengths == (min(lengths), np.mean(lengths), max(lengths))
    targets = [int(source[i]["targets"]) for i in range(40)]
    assert found.classes == tuple(np.bincount(targets, minlength=10))
    assert describe(task, source, 7).looked == 7
    assert describe(build("mqar"), build("mqar").source("test"), 5).balance == "no classes"


def test_protocols_are_not_mixed():
    one = Experiment(task=build("image", protocol="s4"))
    other = dataclasses.replace(one, task=build("image", protocol="google2020"))
    with pytest.raises(
        ValueError, match=r"protocol s4, b by google2020: .*not belong in one table"
    ):
        check_models({"a": one, "b": other}, 1)
    check_models({"a": one, "b": one}, 1)


def test_a_protocol_that_fine_tunes_needs_a_pretrained_run(tmp_path):
    task = build("listops", protocol="pretrain-finetune")
    with pytest.raises(ValueError, match="fine-tunes, and a comparison trains from scratch"):
        check_models({"a": Experiment(task=task)}, 1)
    with pytest.raises(ValueError, match=r"give --init-from RUN, a run of masked:listops"):
        finished(Experiment(task=task), tmp_path)
    tuned = Experiment(task=task, train=TrainConfig(init_from="runs/before"))
    assert finished(tuned, tmp_path) is None
