"""A run is what it computes: moved data are the same, changed ones are refused, by every verb."""

import json
import shutil

import pytest

from seqzoo.train.cli.command import dispatch
from seqzoo.train.folder.run_folder import CONFIG
from tests.train import shared

TASK = ["--task=bytes", "--data.length=8", "--batch-size=8", "--steps=2"]
TASK += ["--backbone.d-model=8", "--backbone.depth=1"]
TRAIN = ["train", "--model=min_gru", *TASK, "--out=run"]
COMPARE = ["compare", "--models=min_gru", "--seeds=1", *TASK, "--out=compared"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run and a comparison on a folder of text."""
    with pytest.MonkeyPatch.context() as patch, shared.programs():
        here = tmp_path_factory.mktemp("held")
        patch.chdir(here)
        (here / "text").mkdir()
        for split in ("train", "valid", "test"):
            (here / "text" / f"{split}.txt").write_text(f"some {split} words " * 20)
        for verb in (TRAIN, COMPARE):
            assert dispatch([*verb, "--data.data=text"]) == 0
        yield here


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    for name in ("text", "run", "compared"):
        shutil.copytree(made / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tried(capsys, *argv):
    capsys.readouterr()
    return dispatch(argv), *capsys.readouterr()


@pytest.mark.of_the_day("moved data", 3)
def test_moved_and_respelled_data_are_the_same(here, capsys, monkeypatch):
    (here / "text").rename(here / "elsewhere")
    for spelled in ("elsewhere", f"{here}/./run/../elsewhere", f"file://{here}/elsewhere"):
        for verb in (TRAIN, COMPARE):
            code, _, err = tried(capsys, *verb, f"--data.data={spelled}")
            assert code == 0, err
    code, out, err = tried(capsys, "evaluate", "run", "--data.data=elsewhere")
    assert code == 0, err
    assert "changes" not in json.loads(out.splitlines()[-1])


def test_changed_data_are_refused_and_named(here, capsys):
    (here / "text" / "test.txt").write_text("other words " * 20)
    argv = "evaluate", "run"
    code, _, err = tried(capsys, *argv)
    assert code == 2
    assert "test: test.txt has another content" in err
    (here / "elsewhere").symlink_to("text")
    code, out, err = tried(capsys, *argv, "--data.data=elsewhere")  # asked for
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["changes"]["data"] == [
        "test: test.txt has another content"
    ]
    (here / "text" / "train.txt").write_text("other words " * 20)
    for verb in (TRAIN, COMPARE):
        code, _, err = tried(capsys, *verb, "--data.data=text")
        assert code == 2
        assert "train: train.txt has another content" in err


def test_finished_runs_need_no_data_any_more(here, capsys):
    shutil.rmtree(here / "text")
    assert tried(capsys, *TRAIN, "--data.data=text")[0] == 0
    assert tried(capsys, *TRAIN, "--data.data=nowhere")[0] == 2
    code, _, err = tried(capsys, "evaluate", "run")
    assert code == 2
    assert "text" in err


def test_what_is_held_is_shown(here, capsys):
    code, out, err = tried(capsys, "show", "run")
    assert code == 0, err
    assert "train files" in out
    assert "(train.txt)" in out
    for name in ("run", "compared"):
        assert tried(capsys, "report", name)[0] == 0
        assert "<dt>test files</dt>" in (here / name / "report.html").read_text()


def test_runs_of_before_are_told_by_the_place(here, capsys):
    config = json.loads((here / "run" / CONFIG).read_text())
    assert config.pop("data").keys() == {"train", "validation", "test"}
    (here / "run" / CONFIG).write_text(json.dumps(config))
    (here / "elsewhere").symlink_to("text")
    code, _, err = tried(capsys, *TRAIN, "--data.data=elsewhere")
    assert code == 2
    assert "task.data: 'text' there, 'elsewhere' here" in err
