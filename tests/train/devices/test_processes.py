"""Two processes over loopback train as one does, stop together and fail together."""

import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from seqzoo.tasks.data.shared_rows import PACKED
from seqzoo.train.compare import results
from seqzoo.train.devices import processes as distributed
from seqzoo.train.devices.meeting import detected
from seqzoo.train.devices.processes import Processes
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.loop.program import make_program, mesh_for
from seqzoo.train.loop.runner import run_program
from seqzoo.train.loop.streams import RunData
from tests.train import worker
from tests.train.loop.test_runner import assert_free, state_of, wait_for_lines
from tests.train.tiny_run import Slow

LIMIT = 120  # seconds after which a process hangs
SAVE_LESS = {"save_every": 20, "keep_best": False}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Pair:
    """Two processes on one run; a process with devices of its own for each."""

    def __init__(self, folder, devices=1, count=2, started=(0, 1), options=({}, {}), **env):
        self.folder, port = folder, str(free_port())
        flags = os.environ.get("XLA_FLAGS", "")
        flags += f" --xla_force_host_platform_device_count={devices}"
        command = [sys.executable, "-m", "tests.train.worker", str(folder), port, str(count)]
        self.processes = [
            subprocess.Popen(
                [*command, str(i), json.dumps(options[i])],
                env={**os.environ, "XLA_FLAGS": flags, **env},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for i in started
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.communicate()

    def at_work(self):
        """Returns when the run writes metrics."""
        wait_for_lines(self.folder, self.processes[0])

    def end(self):
        """Exit codes, and what was said."""
        said = [p.communicate(timeout=LIMIT) for p in self.processes]
        return (
            [p.returncode for p in self.processes],
            [err for _, err in said],
            self.last_line(said[0][0]),
        )

    @staticmethod
    def last_line(out):
        """Words of it; Gloo says in the lines before that it has connected."""
        return out.splitlines()[-1].split() if out else []


def train(folder, **options):
    with Pair(folder, **options) as pair:
        codes, errors, out = pair.end()
    assert not any(codes), errors
    return out


def assert_close_runs(folder, other, program, ratio):
    """The same curve and parameters, each step once."""
    lines, others = read_lines(folder), read_lines(other)
    assert [line.step for line in lines] == [line.step for line in others] == list(range(1, 41))
    for name in ("loss", "validation/loss", "grad_norm"):
        a, b = ([x.values[name] for x in run if name in x.values] for run in (lines, others))
        np.testing.assert_allclose(a, b, rtol=ratio, err_msg=name)
    examples = [x.values["validation/examples"] for x in lines if "validation/loss" in x.values]
    assert (len(examples), set(np.ravel(examples))) == (4, {13})
    a, b = state_of(folder, program).params, state_of(other, program).params
    for path in a:
        error = np.linalg.norm(a[path] - b[path]) / np.linalg.norm(b[path])
        assert error < ratio, (path, error)


@pytest.mark.of_the_day("two processes", 3)
def test_two_processes_train_as_one(program, finished, tmp_path):
    assert train(tmp_path / "run", devices=2, options=[SAVE_LESS] * 2) == ["40", "True"]
    assert_close_runs(tmp_path / "run", finished, program, 2e-6)
    assert_free(tmp_path / "run")


@pytest.mark.of_the_day("stopped and killed")
def test_stopped_killed_and_continued_by_one_process(program, finished, tmp_path):
    folder = tmp_path / "run"
    with Pair(folder, TINY_DELAY="0.03") as pair:
        pair.at_work()
        pair.processes[1].send_signal(signal.SIGTERM)
        codes, errors, (step, complete) = pair.end()
        assert codes == [0, 0], errors
    assert complete == "False"
    assert Checkpoints(folder).newest_whole(print) == int(step) == read_lines(folder)[-1].step
    with Pair(folder, TINY_DELAY="0.03") as pair:
        pair.at_work()
        pair.processes[1].kill()
        codes, errors, _ = pair.end()
    assert codes == [distributed.LOST, -signal.SIGKILL], errors
    assert "process 1 is gone" in errors[0]
    assert len(read_lines(folder)) < 40
    assert train(folder, count=1, started=[0]) == ["40", "True"]
    assert_close_runs(folder, finished, program, 1e-5)


@pytest.mark.of_the_day("compare")
def test_two_processes_compare_are_stopped_and_go_on(tmp_path):
    with Pair(tmp_path / "two", TINY_DELAY="0.03", TINY_COMPARE="1") as pair:
        wait_for_lines(tmp_path / "two" / "runs" / "a", pair.processes[0])
        pair.processes[1].send_signal(signal.SIGTERM)
        codes, errors, (_, *through) = pair.end()
    assert codes == [0, 0], errors
    assert len(through) < 2
    assert train(tmp_path / "two", TINY_COMPARE="1") == ["through", "a", "b"]
    assert_as_one(tmp_path)


@pytest.mark.slow
def test_two_processes_time_as_many_steps(tmp_path):
    with Pair(tmp_path, TINY_TIMES="1") as pair:
        said = [p.communicate(timeout=LIMIT) for p in pair.processes]
        assert [p.returncode for p in pair.processes] == [0, 0], said
    assert len({Pair.last_line(out)[-1] for out, _ in said}) == 1


@pytest.mark.slow
def test_two_processes_compare_with_a_seed_each(tmp_path):
    assert train(tmp_path / "two", TINY_COMPARE="1", TINY_SEEDS="1") == ["through", "a", "b"]
    assert_as_one(tmp_path)


def assert_as_one(tmp_path):
    """The comparison of two processes is what one gives."""
    worker.compared(tmp_path / "one", Slow(), {})
    found = [results.load(tmp_path / name / results.FILE).models for name in ("one", "two")]
    for one, two in zip(*found, strict=True):
        assert two.tokens_per_second > 0
        for seed, other in zip(one.seeds, two.seeds, strict=True):
            np.testing.assert_allclose(seed.final["loss"], other.final["loss"], rtol=2e-6)
            losses = [run.curves["train"]["loss"] for run in (seed, other)]
            np.testing.assert_allclose(*losses, rtol=2e-6)
            assert len(losses[0]) == 40


@pytest.mark.slow
@pytest.mark.parametrize("axis", ["data", "seeds"])
def test_two_processes_pack_as_one_and_go_on(axis, tmp_path):
    """Also the batches in which a replica's examples have no room."""
    made = make_program(worker.packed(axis), devices=jax.devices()[:1])
    run_program(made, tmp_path / "one")
    mesh = mesh_for(made.experiment, jax.devices()[:2])
    batches = itertools.islice(RunData(made.experiment, mesh).train, 40)
    assert len({PACKED[0] in batch for batch in batches}) == 2
    with Pair(tmp_path / "two", TINY_DELAY="0.005", TINY_PACK=axis) as pair:
        pair.at_work()
        pair.processes[1].send_signal(signal.SIGTERM)
        codes, errors, (_, complete) = pair.end()
    assert (codes, complete) == ([0, 0], "False"), errors
    assert train(tmp_path / "two", TINY_PACK=axis) == ["40", "True"]
    assert_close_runs(tmp_path / "two", tmp_path / "one", made, 1e-5)


@pytest.mark.slow
def test_both_killed_and_continued_ten_times(program, finished, tmp_path):
    rng = random.Random(0)
    for _ in range(10):
        with Pair(tmp_path / "run", TINY_DELAY="0.02") as pair:
            pair.at_work()
            time.sleep(rng.uniform(0, 1))
            rng.shuffle(pair.processes)
    assert train(tmp_path / "run") == ["40", "True"]
    assert_close_runs(tmp_path / "run", finished, program, 2e-6)


@pytest.mark.of_the_day("an error in one")
def test_an_error_in_one_process_ends_both_and_frees_the_folder(tmp_path):
    with Pair(tmp_path / "run", TINY_BROKEN="1") as pair:
        codes, errors, _ = pair.end()
    assert codes == [2, 2], errors
    assert "process 1 failed, so this one ends" in errors[0]
    assert "an example is gone" in errors[0]
    assert_free(tmp_path / "run")


def test_an_abort_is_explained():
    """As JAX's client does it, on a thread of its own, while Python is busy."""
    source = """
import ctypes, os, threading
from seqzoo.train.devices.processes import _explain_aborts
_explain_aborts()
threading.Thread(target=ctypes.CDLL(None).abort).start()
while True:
    pass
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.returncode == distributed.LOST
    assert "process 0: aborted" in done.stderr
    assert "continues the run" in done.stderr


@pytest.mark.of_the_day("other options")
def test_other_options_on_another_host_are_refused(tmp_path):
    with Pair(tmp_path / "run", options=({}, {"seed": 2})) as pair:
        codes, errors, _ = pair.end()
    assert codes == [2, 2]
    assert "process 1 was started with other options or data than process 0 (train)" in errors[0]


@pytest.mark.of_the_day("waits in vain", 3)
def test_a_process_that_waits_in_vain_says_so(tmp_path):
    with Pair(tmp_path / "run", started=[0], TINY_WAIT="2") as pair:
        codes, errors, _ = pair.end()
    assert codes == [distributed.LOST]
    assert "not all of 2 processes have met" in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coordinator": "a:1"}, "belong together"),
        ({"num_processes": 2, "process_id": 0}, "belong together"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process-id must be in"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        (
            {"coordinator": "a:1", "num_processes": 2, "process_id": 0, "distributed": "off"},
            "contradict",
        ),
    ],
)
def test_flags_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Processes(**options)


def test_a_slurm_step_of_several_tasks_is_found_and_nothing_else(monkeypatch):
    assert detected() == 1
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "4")  # an allocation; srun sets the rest
    assert detected() == 1
    for name, value in (("STEP_NODELIST", "n[1-4]"), ("PROCID", "3"), ("LOCALID", "0")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert detected() == 4


def test_the_processes_that_a_barrier_misses_are_read_from_its_error():
    text = (
        "# of tasks: 2/4.\nThe first task: 0. Some timed out task names:\n1\n/job:w/task:3\n\n\nRPC"
    )
    assert distributed._missing(RuntimeError(text)) == ["1", "3"]
    text = "tasks are unhealthy (stopped sending heartbeats):\n2\nThe tasks have crashed."
    assert distributed._missing(RuntimeError(text)) == ["2"]
    assert distributed._missing(RuntimeError("unavailable")) == []
