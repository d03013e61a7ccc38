"""What is read from a profile of the loop."""

import dataclasses

import jax
import pytest

from seqzoo.train.bench.training import Bench, _watched
from seqzoo.train.config import MeshConfig
from seqzoo.train.loop import trace
from seqzoo.train.loop.runner import run
from seqzoo.train.loop.trace import host_time


@pytest.mark.of_the_day("a profile")
def test_a_profile_of_the_loop_names_mixers_and_times_the_host(tmp_path):
    bench = Bench(models="gru", d_model=4, lengths=(32,), batch_size=1, steps=5)
    watched = dataclasses.replace(_watched(bench, "gru"), mesh=MeshConfig(data=1))
    watched = dataclasses.replace(watched, train=dataclasses.replace(watched.train, batch_size=4))
    run(watched, tmp_path, devices=jax.devices()[:1])
    time = host_time(tmp_path)
    assert 0 < time.host < time.step
    assert 0 <= time.idle <= time.step
    (file,) = tmp_path.rglob("*.xplane.pb")
    names = file.read_bytes()
    assert b"/gru/" in names
    assert b"/feedforward/" in names


def test_waits_and_runs_do_not_count_as_the_hosts_work(monkeypatch, tmp_path):
    (tmp_path / "a.xplane.pb").touch()
    step = [(trace.STEP, (start * 1e6, start * 1e6 + 9e6)) for start in (0, 10, 20, 30)]
    rest = [
        ("call", (10e6, 11e6)),
        (trace.WAIT, (12e6, 15e6)),
        ("ThunkExecutor::Execute (wait for completion)", (14e6, 16e6)),  # 1 ms of it counted
        (trace.WAIT, (22e6, 26e6)),
    ]
    monkeypatch.setattr(trace, "_read", lambda path: ([*step, *rest], [(10e6, 18e6), (19e6, 30e6)]))
    time = host_time(tmp_path)
    assert (time.step, time.host, time.idle) == (10.0, 6.0, 0.5)


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no trace"):
        host_time(tmp_path)


@pytest.mark.of_the_day("spans")
def test_overlapping_spans_count_once():
    assert trace._union([(5, 6), (0, 2), (1, 3)]) == [(0, 3), (5, 6)]
    assert trace._covered((1, 10), [(0, 3), (5, 6)]) == 3
