"""The metrics file has each step once, whatever happened to it."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.train.folder.lease import LeaseLostError
from seqzoo.train.folder.metrics import Late, MetricsLog, read_lines, truncate


def write(folder, steps, done=0):
    log = MetricsLog(folder, done)
    for step in steps:
        log.write(step, {"loss": np.float32(0.1 * step)})
    log.close()


def test_a_restart_removes_what_came_after_its_checkpoint(tmp_path):
    write(tmp_path, range(1, 8))
    write(tmp_path, range(6, 9), done=5)
    assert [line.step for line in read_lines(tmp_path)] == list(range(1, 9))


def test_who_stands_still_in_a_rename_takes_nothing_away(tmp_path):
    """It had read the file before the next owner wrote, and puts what it read there."""
    write(tmp_path, range(1, 4))
    old = (tmp_path / "metrics.jsonl").read_bytes()
    log = MetricsLog(tmp_path, 3)
    log.write(4, {"loss": 1.0})
    log.flush()
    (tmp_path / "of before").write_bytes(old)
    (tmp_path / "of before").replace(tmp_path / "metrics.jsonl")
    log.write(5, {"loss": 1.0})
    log.flush()
    assert [line.step for line in read_lines(tmp_path)] == [1, 2, 3, 4, 5]
    log.write(6, {"loss": 1.0})
    log.close()
    assert [line.step for line in read_lines(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_who_has_lost_the_folder_meanwhile_renames_nothing(tmp_path):
    write(tmp_path, range(1, 4))
    asked = iter([None, LeaseLostError("another one has it")])

    def guard():
        if error := next(asked):
            raise error

    with pytest.raises(LeaseLostError):
        truncate(tmp_path / "metrics.jsonl", 1, guard)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["metrics.jsonl"]
    assert [line.step for line in read_lines(tmp_path)] == [1, 2, 3]


def test_a_torn_last_line_is_tolerated(tmp_path):
    write(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "los')
    assert [line.step for line in read_lines(tmp_path)] == [1, 2, 3]
    write(tmp_path, [4], done=3)
    assert [line.step for line in read_lines(tmp_path)] == [1, 2, 3, 4]


def test_float32_survives_and_json_stays_strict(tmp_path):
    value = float(np.float32(1 / 3))
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": value, "accuracy": float("nan")})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert np.float32(line["loss"]) == np.float32(value)
    assert line["accuracy"] is None


def test_metrics_are_read_late_and_in_order():
    late = Late()
    for step in range(1, 7):
        late.add(step, {"loss": jnp.float32(step)})
    assert [step for step, _ in late.read(lag=4)] == [1, 2]
    assert [step for step, _ in late.read(lag=0)] == [3, 4, 5, 6]


def test_replicas_have_lists_and_events_of_their_own(tmp_path):
    log = MetricsLog(tmp_path, 0, seeds=(3, 4))
    log.write(10, {"loss": np.array([0.5, np.nan]), "skipped": np.array([0, 1])})
    log.close()
    assert read_lines(tmp_path) == [(10, {"loss": [0.5, None], "skipped": [0.0, 1.0]})]
    assert sorted(p.name for p in (tmp_path / "tensorboard").iterdir()) == ["seed3", "seed4"]
