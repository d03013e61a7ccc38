"""`seqzoo new` writes files whose tests pass at once, and over nothing."""

import subprocess
import sys

import pytest

from seqzoo import tasks
from seqzoo.train import Experiment
from seqzoo.train.cli import command as cli
from seqzoo.train.cost.cost import cost


@pytest.mark.slow
def test_the_files_pass_their_tests(tmp_path, capsys):
    for kind in ("mixer", "task"):
        assert cli.dispatch(["new", kind, f"my_{kind}", "--out", str(tmp_path)]) == 0
    assert "seqzoo check" in capsys.readouterr().out
    assert "class MyMixer(nnx.Module)" in (tmp_path / "my_mixer.py").read_text()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    ruff = [sys.executable, "-m", "ruff", "check", "--line-length", "100", "--select", "E,F,B", "."]
    done = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_files_are_what_train_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in ("mixer", "task"):
        assert cli.dispatch(["new", kind, f"new_{kind}"]) == 0
    assert cli.dispatch(["new", "mixer", "another", "--out", "a/b"]) == 0
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2
    made = Experiment(task=tasks.build("new_task.py:NewTask"), model="new_mixer.py:NewMixer")
    assert made.to_dict()["task"]["name"] == "new_task.py:NewTask"
    assert cost(made)["parameters"] > 0


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["mixer"], "say what to write"),
        (["mixr", "a"], "did you mean mixer?"),
        (["mixer", "My"], "small letters"),
        (["mixer", "class"], "cannot name a file"),
        (["task", "json"], "is the name of a module that is installed"),
        (["mixer", "jax"], "is the name of a module that is installed"),
        (["task", "there"], "is there already"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(tmp_path, capsys, argv, words):
    (tmp_path / "test_there.py").write_text("mine")
    assert cli.dispatch(["new", *argv, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["test_there.py"]
