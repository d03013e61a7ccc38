"""Laws of the data order and of evaluation over a whole split."""

import itertools

import jax
import numpy as np
import pytest

from seqzoo.train.devices.sharding import batch_sharding, make_mesh
from seqzoo.train.loop.data import eval_batches, rows_of_process, to_devices, train_batches
from tests.train.tiny import Tiny

SOURCE = Tiny(train_size=20).source("train")


def inputs(batches):
    return np.stack([batch["inputs"] for batch in batches])


def take(count, **options):
    return inputs(itertools.islice(train_batches(SOURCE, 8, **{"seed": 1, **options}), count))


def test_a_resumed_order_continues_at_the_exact_example():
    np.testing.assert_array_equal(take(4, start=3), take(7)[3:])


def test_threads_do_not_change_the_order():
    np.testing.assert_array_equal(take(5, threads=0), take(5, threads=3))


def test_any_number_of_processes_sees_the_same_global_batches():
    parts = [take(6, rows=range(i, i + 2)) for i in range(0, 8, 2)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), take(6))


def test_an_epoch_has_every_example_once_and_the_next_another_order():
    rows = take(5).reshape(40, -1)
    first, second = rows[:20], rows[20:]
    every = sorted(map(tuple, (SOURCE[i]["inputs"] for i in range(20))))
    assert sorted(map(tuple, first)) == sorted(map(tuple, second)) == every
    assert not np.array_equal(first, second)


def test_the_seed_changes_the_order():
    assert not np.array_equal(take(2), take(2, seed=2))


def test_evaluation_sees_every_example_once_with_weight():
    source = Tiny().source("validation")
    batches = list(eval_batches(source, 8))
    weight = np.concatenate([batch["weight"] for batch in batches])
    rows = inputs(batches).reshape(len(weight), -1)
    assert weight.tolist() == [1.0] * 13 + [0.0] * 3
    np.testing.assert_array_equal(rows[:13], [source[i]["inputs"] for i in range(13)])


def test_a_process_reads_the_rows_of_its_devices():
    sharding = batch_sharding(make_mesh())
    assert rows_of_process(sharding, 16) == list(range(16))
    batch = next(train_batches(SOURCE, 8, seed=1))
    placed = to_devices(batch, sharding)["inputs"]
    assert len(placed.sharding.device_set) == jax.device_count()
    np.testing.assert_array_equal(placed, batch["inputs"])


@pytest.mark.parametrize("lanes", [False, True])
def test_a_batch_of_one_example_is_one(lanes):
    batches = train_batches(Tiny().source("train"), 1, seed=0, threads=0, lanes=lanes)
    assert [next(batches)["inputs"].shape for _ in range(3)] == [(1, 6)] * 3
