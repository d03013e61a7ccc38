import dataclasses
import json
import os

import pytest

from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare import results
from seqzoo.train.compare.units import DIVIDED
from seqzoo.train.out.watch import BLOCKS, look, sparkline
from tests.train.compare.test_page import comparison, model


def begun(folder, steps=10, done=4, replicas=2):
    """A run that has written some lines."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"train": {"steps": steps}}))
    os.utime(folder / "config.json", (1000, 1000))
    lines = [{"step": i + 1, "loss": [4.0 - i, None][:replicas]} for i in range(done)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 5, "lo')
    os.utime(folder / "metrics.jsonl", (1020, 1020))


def test_rows_and_runs_at_work_are_shown(tmp_path, capsys):
    timed = dataclasses.replace(model("lru", 0.2), train_seconds=90.0, compile_seconds=10.0)
    results.save(comparison(models=(timed,), labels=("lru", "gru", "rnn")), tmp_path)
    begun(tmp_path / "runs" / "gru")
    found = look(tmp_path)
    (run,) = found.runs
    assert (run.name, run.step, run.steps, run.loss) == ("gru", 4, 10, 1.0)
    assert run.seconds_left == pytest.approx(20 / 4 * 6)
    assert found.seconds_left == pytest.approx(30 + 100)  # of this one, and of rnn as of lru
    assert dispatch(["watch", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for text in ("gru", "4 of 10", "1.0000", "█▆▃▁", "0:00:30", "1 of 3 models", "21.0 ± 2.5%"):
        assert text in printed, text


def test_trials_at_work_are_shown_as_their_models(tmp_path, capsys):
    """A group that was given up for its halves is none."""
    timed = dataclasses.replace(model("lru", 0.2), train_seconds=90.0, compile_seconds=10.0)
    results.save(comparison(models=(timed,), labels=("lru", "gru", "rnn")), tmp_path)
    for group in ("000-003", "000-001", "002-003"):
        begun(tmp_path / "trials" / "gru" / group)
    (tmp_path / "trials/gru/000-003/config.json").rename(tmp_path / "trials/gru/000-003" / DIVIDED)
    found = look(tmp_path)
    assert [run.name for run in found.runs] == ["trials/gru/000-001", "trials/gru/002-003"]
    assert found.seconds_left == pytest.approx(2 * 30 + 100)  # of both, and of rnn as of lru
    assert dispatch(["watch", str(tmp_path), "--once"]) == 0
    assert "trials/gru/002-003" in capsys.readouterr().out


def test_what_is_through_is_said(tmp_path, capsys):
    results.save(comparison(labels=tuple(m.name for m in comparison().models)), tmp_path / "c")
    assert dispatch(["watch", str(tmp_path / "c")]) == 0
    printed = capsys.readouterr().out
    assert "all models are through" in printed
    assert "failed:" in printed
    begun(tmp_path / "r", replicas=1)
    assert not look(tmp_path / "r").through
    assert dispatch(["watch", str(tmp_path / "r"), "--once"]) == 0
    assert "4 of 10" in capsys.readouterr().out


def test_no_folder_is_one_sentence(tmp_path, capsys):
    assert dispatch(["watch", str(tmp_path)]) == 2
    assert "holds no comparison and no run yet" in capsys.readouterr().err
    assert dispatch(["watch", str(tmp_path), "--every", "0"]) == 2
    assert "--every must be positive" in capsys.readouterr().err


def test_a_curve_is_drawn_from_its_least_to_its_largest():
    assert sparkline([float(i) for i in range(8)]) == BLOCKS
    assert sparkline([1.0, 1.0]) == BLOCKS[0] * 2
    assert sparkline([]) == ""
