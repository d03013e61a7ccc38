"""Speed in the log, the deadline of a stop, and what is settled before JAX starts."""

import dataclasses
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import jax
import pytest

from seqzoo.train.cli.command import COMPUTING, dispatch, main
from seqzoo.train.devices import backend
from seqzoo.train.devices.chips import TPUS
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.loop import signals, speed, trace, training
from seqzoo.train.loop.runner import run_program
from seqzoo.train.loop.signals import StopRequest
from seqzoo.train.loop.speed import Speed


def test_utilisation_is_operations_over_what_the_chips_could_do(program, monkeypatch):
    chip = TPUS["v5e"]._replace(flops=1e6)
    monkeypatch.setattr(speed, "chip_of", lambda device: chip)
    clock = iter([10.0, 12.0, 50.0, 51.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    timed, task = Speed(program), program.experiment.task
    count = speed.forward_operations(program, task, program.experiment.train.batch_size)
    assert timed.of_step() == {}  # nothing to measure from
    assert timed.of_step() == {"step_seconds": 2.0, "mfu": 3 * count.products / 1e6 / 2.0}
    timed.pause()
    assert timed.of_step() == {}
    assert timed.of_step()["step_seconds"] == 1.0


@pytest.mark.of_the_day("no step's time", 3)
def test_what_is_no_step_is_no_part_of_a_steps_time(program, tmp_path, monkeypatch):
    """A clock of which a step takes one tick; evaluation, save and trace take a thousand."""
    chip, now = TPUS["v5e"]._replace(flops=1e6), [0]

    def tick(times, function):
        def call(*args, **options):
            now[0] += times
            return function(*args, **options)

        return call

    monkeypatch.setattr(speed, "chip_of", lambda device: chip)
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=tick(1, lambda: now[0])))
    monkeypatch.setattr(training, "evaluate_batches", tick(1000, training.evaluate_batches))
    monkeypatch.setattr(Checkpoints, "save", tick(1000, Checkpoints.save))
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, tick(1000, lambda *_, **__: None))
    train = dataclasses.replace(program.experiment.train, profile=True, profile_steps=4)
    traced = dataclasses.replace(program.experiment, train=train)
    run_program(program._replace(experiment=traced), tmp_path)
    seconds = {line.step: line.values.get("step_seconds") for line in read_lines(tmp_path)}
    assert {s for s in seconds.values() if s is not None} == {1}
    # After a pause the first step has nothing to be measured from.
    # So have, where a trace begins and ends, those that ran meanwhile.
    pauses = {1, *range(6, 41, 5), *range(1, 1 + trace.SKIP + 1), *range(6, 1 + trace.SKIP + 4 + 1)}
    assert {step for step, s in seconds.items() if s is None} == pauses


def test_a_chip_that_is_not_known_has_no_utilisation(program):
    assert Speed(program).of_step() == {}


def test_a_stop_that_takes_too_long_ends_the_process(monkeypatch, capsys):
    ended, calls = threading.Event(), []
    monkeypatch.setattr(signals.os, "_exit", lambda code: (calls.append(code), ended.set()))
    with StopRequest(0.01, lambda: calls.append("released")) as stop:
        stop._ask(signals.signal.SIGTERM, None)
        assert ended.wait(10)
    assert calls == ["released", signals.UNSAVED]
    assert "not saved within 0.01 s" in capsys.readouterr().err


def test_a_stop_in_time_ends_nothing(monkeypatch):
    monkeypatch.setattr(signals.os, "_exit", lambda code: pytest.fail("ended"))
    with StopRequest(30.0) as stop:
        stop._ask(signals.signal.SIGTERM, None)
    assert stop.requested
    stop._clock.join(5)
    assert not stop._clock.is_alive()


def test_deterministic_flags_join_the_users(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_x=1 --xla_gpu_autotune_level=0")
    backend.prepare(False)
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_x=1 --xla_gpu_autotune_level=0"
    backend.prepare(True)
    flags = os.environ["XLA_FLAGS"].split()
    assert sorted(flags) == sorted(["--xla_cpu_x=1", *backend.DETERMINISTIC])


def pages_made(prelude: str) -> float:
    """Pages that a process makes anew at most calls of a program with 64 MiB of temporary memory.

    The median of the calls: now and then one falls on a thread whose heap has not grown yet.
    """
    code = f"""
import resource, statistics
import jax, jax.numpy as jnp
{prelude}
call = jax.jit(lambda x: x[::-1] @ x).lower(x := jnp.ones(2**24)).compile()
assert call.memory_analysis().temp_size_in_bytes >= 2**26
made = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
jax.block_until_ready([call(x) for _ in range(5)])
counts = []
for _ in range(5):
    start = made()
    jax.block_until_ready(call(x))
    counts.append(made() - start)
print(statistics.median(counts))
"""
    plain = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES", "XLA_FLAGS")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True
    )
    return float(run.stdout)


@pytest.mark.of_the_day("memory used again", 3)
@pytest.mark.skipif(sys.platform != "linux", reason="what glibc does is changed")
def test_memory_of_a_program_is_used_again():
    reuse = "from seqzoo.train.devices.backend import reuse_memory; reuse_memory()"
    assert pages_made(reuse) < 2**26 / os.sysconf("SC_PAGE_SIZE") / 10


def test_memory_is_left_to_the_user_who_told_glibc(monkeypatch):
    told = []
    monkeypatch.setattr(backend.jax.config, "update", lambda *pair: told.append(pair))
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    backend.reuse_memory()
    assert told == []


def test_commands_that_compute_use_memory_again(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(backend, "reuse_memory", lambda: calls.append(1))
    monkeypatch.setattr("seqzoo.train.cli.command.only_sentences", lambda: None)
    for verb in ("list", *COMPUTING):
        with pytest.raises(SystemExit):
            main([verb, "--no-such-flag"])
    assert len(calls) == len(COMPUTING)


def test_programs_are_kept_on_disk_where_no_cpu_runs_them(monkeypatch, tmp_path):
    told, before = [], jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("SEQZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(backend.jax.config, "update", lambda *pair: told.append(pair))
    try:
        backend.keep_compiled()
        assert told == []
        monkeypatch.setattr(backend.jax, "default_backend", lambda: "tpu")
        backend.keep_compiled()
        assert told == [("jax_compilation_cache_dir", str(tmp_path / "compiled"))]
    finally:
        monkeypatch.undo()
        jax.config.update("jax_compilation_cache_dir", before)


def test_the_doctor_finds_nothing_wrong_here(capsys, monkeypatch, tmp_path):
    from seqzoo.train.cli import doctor

    monkeypatch.setattr(doctor, "FREE", 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert dispatch(["doctor", "--mib", "1", "--out", str(tmp_path / "not" / "yet")]) == 0
    said = capsys.readouterr().out
    for word in (
        "jaxlib",
        "8 x cpu",
        "data 8",
        "host order       0",
        "all-gather",
        "nothing found",
    ):
        assert word in said
    monkeypatch.setattr(doctor, "FREE", 2**80)
    assert dispatch(["doctor", "--mib", "1", "--out", str(tmp_path)]) == 1
    assert "checkpoints may not fit" in capsys.readouterr().out


def test_the_doctor_knows_of_two_processors(monkeypatch):
    from seqzoo.train.cli import doctor

    monkeypatch.delenv("NPROC", raising=False)
    assert "NPROC=4" in "".join(doctor.notes(2))
    assert not list(doctor.notes(8))
    monkeypatch.setenv("NPROC", "4")
    assert not list(doctor.notes(2))
