"""Speed in the log, the deadline of a stop, and what is settled before JAX starts."""

import os
import threading

import jax
import pytest

from seqzoo.train import backend, signals, speed
from seqzoo.train.chips import TPUS
from seqzoo.train.cli import dispatch
from seqzoo.train.signals import StopRequest
from seqzoo.train.speed import Speed


def test_utilisation_is_operations_over_what_the_chips_could_do(program, monkeypatch):
    chip = TPUS["v5e"]._replace(flops=1e6)
    monkeypatch.setattr(speed, "chip_of", lambda device: chip)
    clock = iter([10.0, 12.0, 50.0, 51.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    timed, task = Speed(program), program.experiment.task
    count = speed.forward_operations(program, task, program.experiment.train.batch_size)
    assert timed.of_step() == {}  # nothing to measure from
    assert timed.of_step() == {"step_seconds": 2.0, "mfu": 3 * count.total / 1e6 / 2.0}
    timed.pause()
    assert timed.of_step() == {}
    assert timed.of_step()["step_seconds"] == 1.0


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
    from seqzoo.train import doctor

    monkeypatch.setattr(doctor, "FREE", 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert dispatch(["doctor", "--mib", "1", "--out", str(tmp_path)]) == 0
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
    from seqzoo.train import doctor

    monkeypatch.delenv("NPROC", raising=False)
    assert "NPROC=4" in "".join(doctor.notes(2))
    assert not list(doctor.notes(8))
    monkeypatch.setenv("NPROC", "4")
    assert not list(doctor.notes(2))
