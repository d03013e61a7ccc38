"""Trackers hear of every step, go on where a run goes on, and never end one."""

import math

import numpy as np
import pytest

from seqzoo.train.folder.metrics import MetricsLog, read_lines
from seqzoo.train.folder.trackers import names_of

CONFIG = {"model": "lru", "train": {"steps": 4, "seed": 0}}
TRACKER = """
heard = []


class Mine:
    def __init__(self, run, config, done, seeds):
        heard.append(("begin", config["model"], done))

    def write(self, step, values):
        heard.append((step, values["loss"]))

    def flush(self):
        pass

    def close(self):
        heard.append("end")


class Fails(Mine):
    def write(self, step, values):
        raise OSError("no network")
"""


def record(run, names, steps=(1, 2), done=0, seeds=()):
    run.mkdir(exist_ok=True)
    log = MetricsLog(run, done, names=names, config=CONFIG, seeds=seeds)
    for step in steps:
        value = 1 / step if not seeds else np.array([1 / step, math.nan])
        log.write(step, {"loss": value, "validation/accuracy": value})
    log.close()


def test_ones_own_hears_of_every_step_and_a_broken_one_is_left_out(tmp_path, monkeypatch, capfd):
    (tmp_path / "my_trackers.py").write_text(TRACKER)
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "run", "my_trackers.py:Mine,my_trackers.py:Fails,my_trackers.py:Gone")
    import my_trackers

    begins = [("begin", "lru", 0)] * 2
    assert my_trackers.heard == [*begins, (1, 1.0), (2, 0.5), "end"]
    assert [line.step for line in read_lines(tmp_path / "run")] == [1, 2]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2
    assert "Gone" in said[0]
    assert "Fails is left out from now on, the run goes on: OSError: no network" in said[1]


def test_one_that_does_not_exist_is_said_before_a_run():
    assert names_of("wandb, tensorboard,") == ("wandb", "tensorboard")
    with pytest.raises(ValueError, match="unknown tracker 'wandbb'; did you mean wandb"):
        names_of("wandbb")


def test_one_that_is_not_installed_ends_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    record(tmp_path / "run", "wandb")
    assert "pip install 'seqzoo[wandb]'" in capfd.readouterr().err
    assert len(read_lines(tmp_path / "run")) == 2


@pytest.mark.slow
def test_wandb_writes_offline_and_goes_on(tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    record(tmp_path / "run", "wandb")
    record(tmp_path / "run", "wandb", steps=(3,), done=2, seeds=(3, 4))
    assert "left out" not in capfd.readouterr().err
    runs = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len({path.name.rpartition("-")[2] for path in runs}) == 1
    assert all(any(path.glob("*.wandb")) for path in runs)
    assert runs


@pytest.mark.slow
def test_mlflow_writes_beside_the_run_and_goes_on(tmp_path, monkeypatch, capfd):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "run", "mlflow")
    record(tmp_path / "run", "mlflow", steps=(3,), done=2, seeds=(3, 4))
    assert "left out" not in capfd.readouterr().err
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    place = client.get_experiment_by_name("seqzoo").experiment_id
    (run,) = client.search_runs([place])
    assert run.data.params["train.steps"] == "4"
    history = client.get_metric_history(run.info.run_id, "validation/accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5)]
    assert run.data.metrics["train/loss/seed3"] == pytest.approx(1 / 3)
    assert "train/loss/seed4" not in run.data.metrics


@pytest.mark.slow
def test_trackio_writes_to_its_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    record(tmp_path / "run", "trackio")
    assert "left out" not in capfd.readouterr().err
    assert [path for path in (tmp_path / "trackio").rglob("*") if path.is_file()]
