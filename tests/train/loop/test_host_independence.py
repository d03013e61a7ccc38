"""What a run reads does not depend on how many processes read it, nor on when it was stopped."""

import itertools

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.train.loop.data import eval_batches, train_batches

BATCH, STEPS = 8, 7  # more than an epoch of the smallest
TEXT = bytes(np.random.default_rng(0).integers(97, 123, 900, np.uint8))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes(TEXT)
    language = {"data": str(path), "length": 16}
    sizes = {"train_size": 30, "validation_size": 11, "test_size": 3}
    return {
        "windows": build("bytes", **language),
        "packed": build("bytes", **language, rows="packed"),
        "lanes": build("bytes", **language, rows="lanes"),
        "generated": build("mqar", **sizes),
        "masked": build("masked:mqar", of=sizes, masks=2),
    }


def read(task, process, count, start=0):
    """Batches of one of `count` processes that own equal parts of the rows."""
    size = BATCH // count
    rows = range(process * size, (process + 1) * size)
    source = task.source("train", 3)
    options = {"seed": 3, "start": start, "rows": rows, "lanes": task.stateful}
    return list(itertools.islice(train_batches(source, BATCH, **options), STEPS - start))


def joined(parts):
    """Global batches from those of the processes."""
    return [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]


def assert_equal(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("name", ["windows", "packed", "lanes", "generated", "masked"])
def test_one_process_and_four_see_the_same_global_batches(tasks, name):
    task = tasks[name]
    one = read(task, 0, 1)
    four = [read(task, process, 4) for process in range(4)]
    assert_equal(joined(four), one)
    stopped = [read(task, process, 4, start=4) for process in range(4)]
    assert_equal(joined(stopped), one[4:])  # stopped after step 4, on other machines


@pytest.mark.parametrize("name", ["windows", "lanes", "generated"])
def test_evaluation_by_four_processes_is_that_of_one(tasks, name):
    task = tasks[name]
    source = task.source("validation")
    one, *four = (
        list(eval_batches(source, 4, rows=rows, lanes=task.stateful))
        for rows in (range(4), [0], [1], [2], [3])
    )
    assert_equal(joined(four), one)
    assert sum(batch["weight"].sum() for batch in one) == len(source)
