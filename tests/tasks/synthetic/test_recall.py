import numpy as np
import pytest

from seqzoo.tasks import build
from tests.tasks.examples import one_hot, stack, value


@pytest.mark.parametrize("count", [1, 3])
def test_induction_heads_ask_for_what_followed_the_trigger(count):
    task = build("induction_heads", length=32, test_length=100, num_copied=count)
    for split, length in (("train", 32), ("test", 100)):
        batch = stack(task, split, 300)
        rows = zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True)
        for row, labels in rows:
            assert len(row) == length + count
            first, second = (i for i, t in enumerate(row) if t == 15)
            assert second == length
            assert labels[-count:] == row[first + 1 : first + 1 + count]
            assert row[length + 1 :] == labels[-count:-1]
            assert 14 not in row
    assert task.spec.length == 100 + count


def test_chance_is_reached_by_one_answer():
    task = build("induction_heads")
    batch = stack(task, "test", 1000)
    logits = one_hot(np.full(batch["targets"].shape, 5), task.spec.outputs)
    chance = pytest.approx(task.baselines()["chance"], abs=0.025)
    assert value(task, logits, batch, "accuracy") == chance


def test_rows_too_short_for_an_answer_are_refused():
    with pytest.raises(ValueError, match="at least 3; got 2"):
        build("induction_heads", length=2)
