import math

import numpy as np
import pytest

from seqzoo.tasks import build
from tests.tasks.examples import one_hot, stack, value


def rows(batch):
    return zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True)


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"variable": True}, {"num_blanks": 0}])
def test_copying_gives_the_tokens_back_at_the_markers(options):
    task = build("copying", **options)
    for row, labels in rows(stack(task, count=30)):
        data = [t for t in row if 0 < t < 9]
        assert len(row) == task.num_blanks + 20
        assert row[-10:] == [9] * 10
        assert labels[-10:] == (data[::-1] if task.reverse else data)
        assert set(labels[:-10]) <= {-100}
        if not task.variable:
            assert row[:10] == data


def test_variable_places_are_uniform():
    inputs = stack(build("copying", variable=True, num_blanks=40), count=3000)["inputs"][:, :50]
    counts = (inputs > 0).sum(0)
    assert counts.sum() == 30_000
    assert np.sum((counts - 600) ** 2 / 600) < 95  # 49 degrees of freedom, negatively dependent


def test_variable_numbers_of_tokens_are_padded():
    batch = stack(build("copying", variable_length=True), count=300)
    sizes = (batch["segment_ids"] > 0).sum(1)
    assert set(sizes.tolist()) == {100 + 2 * n for n in range(1, 11)}
    for row, labels, size in zip(
        *(batch[k].tolist() for k in ("inputs", "targets")), sizes, strict=True
    ):
        count = (size - 100) // 2
        assert row[size - count : size] == [9] * count
        assert labels[size - count : size] == row[:count]
        assert set(labels[size:]) <= {-100}


def test_the_lagged_variant_gives_every_token_back():
    for row, labels in rows(stack(build("copying", lag=True), count=10)):
        assert labels == [-100] * 10 + row[:-10]
        assert 1 <= min(row) <= max(row) <= 8


def test_selective_copying_is_the_published_size():
    task = build("selective_copying", test_blanks=8192)
    for split, length in (("train", 4128), ("test", 8224)):
        for row, labels in rows(stack(task, split, 3)):
            assert len(row) == length <= task.spec.length
            assert [t for t in row[:-16] if t] == labels[-16:]
            assert row[-16:] == [15] * 16


def test_copy_memory_row_and_its_loss_without_memory():
    task = build("copy_memory", delay=50)
    batch = stack(task, count=100)
    for row, labels in rows(batch):
        assert row[10:] == [0] * 49 + [9] * 11
        assert labels == [0] * 60 + row[:10]
        assert 1 <= min(row[:10]) <= max(row[:10]) <= 8
    blank, data = np.full(10, -50.0), np.full(10, -50.0)
    blank[0], data[1:9] = 0, 0
    logits = np.stack([blank] * 60 + [data] * 10)[None].repeat(100, 0).astype(np.float32)
    loss = task.baselines()["no memory"]
    assert loss == pytest.approx(10 * math.log(8) / 70)
    assert value(task, logits, batch, "loss") == pytest.approx(loss, rel=1e-5)
    assert build("copy_memory", delay=1000).baselines()["no memory"] == pytest.approx(
        0.0204, abs=5e-5
    )
    assert value(task, one_hot(batch["targets"], 10), batch, "accuracy") == 1


def test_chance_is_reached_by_one_answer():
    task = build("copying")
    batch = stack(task, "test", 1000)
    logits = one_hot(np.full(batch["targets"].shape, 5), task.spec.outputs)
    chance = pytest.approx(task.baselines()["chance"], abs=0.025)
    assert value(task, logits, batch, "accuracy") == chance


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("copying", {"lag": True, "reverse": True}, "none of the other variants"),
        ("copying", {"lag": True, "num_blanks": 5}, "above num_tokens"),
        ("copying", {"alphabet": 2}, "alphabet must be an integer, at least 3"),
        ("copy_memory", {"test_delay": -1}, "test_delay must be"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
