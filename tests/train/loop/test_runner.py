"""The loop stops, continues and refuses as it should."""

import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.folder.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.folder.lease import LOCK, LeaseError
from seqzoo.train.folder.metrics import NonFiniteError, read_lines
from seqzoo.train.folder.run_folder import RunFolder, RunFolderError
from seqzoo.train.loop import runner as loop
from seqzoo.train.loop import training
from seqzoo.train.loop.evaluate import evaluate
from seqzoo.train.loop.program import digest
from seqzoo.train.loop.runner import run_program
from seqzoo.train.loop.signals import StopRequest
from tests.train.tiny import Rows, Tiny
from tests.train.tiny_run import experiment


def state_of(folder, program, step=40):
    checkpoints = Checkpoints(folder)
    assert checkpoints.fault(step) is None
    state = checkpoints.restore(step, program.like)
    checkpoints.close()
    return state


def assert_same_run(folder, other, program):
    """Bitwise the same state and the same metrics, each step once."""
    a, b = state_of(folder, program), state_of(other, program)
    assert digest(a.params) == digest(b.params)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    lines = read_lines(folder)
    assert [line.step for line in lines] == list(range(1, 41))
    assert lines == read_lines(other)


def assert_free(folder):
    """Nobody has the folder."""
    with RunFolder(folder).owned(wait=False):
        pass


class StopAfter:
    """Asks for a stop after some steps, as a signal would."""

    def __init__(self, steps):
        self.left = steps

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    interrupting = staticmethod(contextlib.nullcontext)

    @property
    def requested(self):
        self.left -= 1
        return self.left <= 0


@dataclasses.dataclass(frozen=True)
class Endless(Rows):
    """Examples of which one takes forever; somebody asks for a stop then."""

    def __getitem__(self, index):
        if index == 50:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stuck(Tiny):
    def _source(self, split, seed):
        rows = super()._source(split, seed)
        return (Endless if split == "train" else Rows)(rows.size, rows.stream)


@pytest.mark.of_the_day
@pytest.mark.parametrize("threads", [0, 1])
def test_a_stop_does_not_wait_for_a_batch(tmp_path, program, finished, threads):
    stuck = experiment(Stuck(), threads=threads, save_every=0)
    started = time.monotonic()
    result = run_program(program._replace(experiment=stuck), tmp_path)
    assert time.monotonic() - started < 50
    assert not result["complete"]
    assert result["step"] == (Checkpoints(tmp_path).steps() or [0])[-1]
    assert_free(tmp_path)
    assert run_program(program._replace(experiment=experiment()), tmp_path)["step"] == 40
    assert_same_run(tmp_path, finished, program)


def test_a_run_learns_and_reports(finished):
    lines = read_lines(finished)
    assert [line.step for line in lines] == list(range(1, 41))
    assert [line.step for line in lines if "validation/loss" in line.values] == [10, 20, 30, 40]
    losses = [line.values["loss"] for line in lines]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert json.loads((finished / "config.json").read_text()) == experiment().to_dict()
    assert list((finished / "tensorboard").iterdir())
    assert RunFolder(finished).result()["complete"]
    assert_free(finished)


@pytest.mark.parametrize("steps", [7, 20])
def test_stop_and_resume_equals_uninterrupted(program, finished, tmp_path, monkeypatch, steps):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", lambda *_: StopAfter(steps))
        result = run_program(program, tmp_path / "run")
    assert (result["step"], result["complete"]) == (steps, False)
    assert run_program(program, tmp_path / "run")["step"] == 40
    assert_same_run(tmp_path / "run", finished, program)


def test_resume_behind_a_damaged_checkpoint_equals_uninterrupted(
    program, finished, tmp_path, capsys
):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "result.json").unlink()
    (folder / "checkpoints" / "40" / "meta.json").write_text("{}")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "lo')
    run_program(program, folder)
    assert "falling back" in capsys.readouterr().err
    assert_same_run(folder, finished, program)


def test_the_same_command_again_on_a_complete_run_does_nothing(program, finished):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*")}
    assert run_program(program, finished)["complete"]
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*")}


def test_another_configuration_is_refused_and_shown(program, finished):
    other = program._replace(experiment=experiment(steps=50, batch_size=16))
    with pytest.raises(RunFolderError) as error:
        run_program(other, finished)
    text = str(error.value)
    assert "train.batch_size: 8 there, 16 here" in text
    assert "train.steps: 40 there, 50 here" in text
    assert "--change-steps" in text


def test_more_steps_are_taken_when_asked_for(program, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    longer = program._replace(experiment=experiment(steps=43))
    assert run_program(longer, folder, change_steps=True)["step"] == 43
    assert [line.step for line in read_lines(folder)] == list(range(1, 44))


def test_a_step_that_is_not_finite_stops_with_the_facts(program, tmp_path):
    def step(state, batch, key):
        if int(state.step) == 11:
            batch = {**batch, "weight": batch["weight"] * np.inf}
        return program.step(state, batch, key)

    folder = tmp_path / "run"
    with pytest.raises(NonFiniteError) as error:
        run_program(program._replace(step=step), folder)
    assert error.value.step == 12
    assert "default" in error.value.groups
    assert not np.isfinite(error.value.loss)
    assert (read_lines(folder)[-1].step, read_lines(folder)[-1].values["skipped"]) == (12, 1)
    assert Checkpoints(folder).newest_whole(print) == 10
    assert not RunFolder(folder).result()["complete"]


def test_a_run_of_before_there_were_replicas_goes_on(program, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    config = RunFolder(folder).config()
    for name in ("replicas", "save_seconds", "max_skipped"):
        del config["train"][name]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "40")
    assert run_program(program, folder)["complete"]
    assert_same_run(folder, finished, program)


def test_what_the_protocol_tests_must_be_kept(program, tmp_path):
    class Selecting(Tiny):
        selection = "best"

    other = experiment(Selecting(), keep_best=False)
    with pytest.raises(ValueError, match="--no-keep-best"):
        run_program(program._replace(experiment=other), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.of_the_day("checkpoints by time", 3)
def test_checkpoints_by_time_change_nothing(program, finished, tmp_path, monkeypatch):
    now, saved = iter(range(10**6)), []
    monkeypatch.setattr(training.time, "monotonic", lambda: next(now))
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, *a, **k: (saved.append(a[1]["step"]), save(self, *a, **k))
    )
    timed = experiment(save_every=0, save_seconds=1.0, keep=100)
    run_program(program._replace(experiment=timed), tmp_path / "run")
    assert len(saved) > 10
    assert_same_run(tmp_path / "run", finished, program)


def test_a_failed_checkpoint_stops_the_run(program, tmp_path, monkeypatch):
    def full(self, step, *_):
        if step > 5:
            self._orbax.wait_until_finished()
            raise OSError(28, "No space left on device")
        return finish(self, step, *_)

    finish = Checkpoints._finish
    monkeypatch.setattr(Checkpoints, "_finish", full)
    with pytest.raises(CheckpointError, match="No space left"):
        run_program(program, tmp_path / "run")
    assert Checkpoints(tmp_path / "run").newest_whole(print) == 5


def test_a_run_that_is_alive_is_refused(program, tmp_path):
    with RunFolder(tmp_path).owned():
        with pytest.raises(LeaseError, match="is in use by process"):
            run_program(program, tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [LOCK]


def test_evaluation_counts_every_example_once(program, finished):
    state = state_of(finished, program)
    source = program.experiment.task.source("validation")
    found = {}
    for size in (1, 5, 13, 32):
        config = dataclasses.replace(
            program.experiment, train=experiment(eval_batch_size=size).train
        )
        changed = program._replace(experiment=config)
        found[size] = evaluate(changed, state.params, state.rest, source)
    assert all(metrics["examples"] == 13 for metrics in found.values())
    assert len({metrics["accuracy"] for metrics in found.values()}) == 1
    for metrics in found.values():
        assert abs(metrics["loss"] - found[1]["loss"]) < 1e-6 * found[1]["loss"]


# Runs in processes of their own.


def start(folder, delay=0.004, within=(), **env):
    delay = {"TINY_DELAY": str(delay)}
    return subprocess.Popen(
        [*within, sys.executable, "-m", "tests.train.tiny_run", str(folder)],
        env={**os.environ, **delay, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lines(folder, process, more=1):
    """Until the run has written metrics of its own, or has ended."""
    path, size = folder / "metrics.jsonl", -1
    while process.poll() is None:
        now = path.stat().st_size if path.exists() else 0
        if size >= 0 and now > size + more:
            return
        size = now if size < 0 else size
        time.sleep(0.01)


def kill_and_restart(folder, kills, **env):
    rng = random.Random(kills)
    for _ in range(kills):
        process = start(folder, **env)
        if rng.random() < 0.7:  # else at some moment of the start
            wait_for_lines(folder, process)
            time.sleep(rng.uniform(0, 1.5))
        else:
            time.sleep(rng.uniform(0, 6))
        process.kill()
        process.communicate()
    finish(folder, **env)


def finish(folder, **env):
    out, err = start(folder, 0, **env).communicate(timeout=300)
    assert out.split() == ["40", "True"], err


@pytest.mark.of_the_day("killed and restarted", 5)
def test_kill_and_restart_equals_uninterrupted(program, finished, tmp_path):
    kill_and_restart(tmp_path / "run", 2)
    assert_same_run(tmp_path / "run", finished, program)


@pytest.mark.slow
def test_twenty_kills_and_restarts_equal_uninterrupted(program, tmp_path):
    # With XLA's own flags, as a user runs it; other flags compile to other roundings.
    finish(tmp_path / "whole", XLA_FLAGS="")
    kill_and_restart(tmp_path / "run", 20, XLA_FLAGS="")
    assert_same_run(tmp_path / "run", tmp_path / "whole", program)


@pytest.mark.slow
def test_a_run_that_was_frozen_and_succeeded_adds_nothing(program, finished, tmp_path):
    """Two containers with one host name; the first stands still for longer than its lease."""
    container = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    if shutil.which("unshare") is None or subprocess.run([*container, "true"]).returncode:
        pytest.skip("namespaces of processes cannot be made here")
    folder = tmp_path / "run"
    first = start(folder, 0.03, within=container, TINY_LEASE="3")
    wait_for_lines(folder, first)
    (inner,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    os.kill(int(inner), signal.SIGSTOP)
    second = start(folder, 0, within=container, TINY_LEASE="3")
    out, err = second.communicate(timeout=300)
    assert out.split() == ["40", "True"], err
    assert "waiting up to 3 s for a sign of life" in err
    os.kill(int(inner), signal.SIGCONT)
    _, err = first.communicate(timeout=300)
    assert first.returncode
    assert "writes nothing more there" in err
    assert_same_run(folder, finished, program)
    assert_free(folder)


@pytest.mark.of_the_day("sigterm", 3)
def test_sigterm_saves_and_exits_0(tmp_path):
    folder = tmp_path / "run"
    process = start(folder, 0.03)
    wait_for_lines(folder, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    step, complete = out.split()
    assert complete == "False"
    assert Checkpoints(folder).newest_whole(print) == int(step) == read_lines(folder)[-1].step


def test_ctrl_c_twice_exits_at_once(monkeypatch):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        assert codes == []
        os.kill(os.getpid(), signal.SIGINT)
        assert codes == [130]


@pytest.mark.of_the_day("experts in the log")
def test_what_a_mixture_of_experts_drops_is_in_the_log(tmp_path):
    moe = {"feedforward": "moe", "experts": 1, "experts_per_token": 1, "expert_capacity": 0.5}
    tiny = dataclasses.replace(
        experiment(steps=2, batch_size=8, accumulate=2),
        model="linear_attention",
        mixer={"num_heads": 1},
        backbone=BackboneConfig(d_model=4, depth=2, **moe),
    )
    result = loop.run(tiny, tmp_path, devices=jax.devices()[:1])
    # One expert with room for every second token, of each layer and each microbatch.
    assert [line.values["dropped"] for line in read_lines(tmp_path)] == [0.5, 0.5]
    assert result["train"]["dropped"] == 0.5
