import dataclasses

import jax
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.tasks.axes import variants
from seqzoo.tasks.data.positions import LAST, MOST, POSITIONS, by_position, curve
from seqzoo.tasks.task import IGNORED


@pytest.mark.parametrize(
    ("task", "axis", "values", "field"),
    [
        ("mqar", "num-pairs", "2,4", "num_pairs"),
        ("induction_heads", "length", "16,512", "test_length"),
        ("copying", "num-blanks", "5,7", "test_blanks"),
        ("copy_memory", "delay", "5,7", "test_delay"),
        ("needle", "length", "300,400", "test_lengths"),
    ],
)
def test_an_axis_is_of_the_test_split(task, axis, values, field):
    own = tasks.build(task)
    found = variants(own, axis, values)
    assert [v.value for v in found] == [int(text) for text in values.split(",")]
    for value, made in found:
        wanted = (value,) if field == "test_lengths" else value
        assert made == dataclasses.replace(own, **{field: wanted})


@pytest.mark.parametrize(
    ("axis", "values", "says"),
    [
        ("lenght", "8", "did you mean length"),
        ("length", "8,x", "takes whole numbers with commas between; got '8,x'"),
        ("power", "nan", "takes numbers"),
        ("length", "6", "length must be an integer, at least 32; got 6"),
    ],
)
def test_what_is_no_axis_is_one_sentence(axis, values, says):
    with pytest.raises(ValueError, match=says) as caught:
        variants(tasks.build("mqar"), axis, values, ("position",))
    assert "\n" not in str(caught.value)


def test_labels_are_counted_where_they_stand_and_at_the_last_of_each_row():
    rng = np.random.default_rng(0)
    targets = rng.integers(5, size=(40, 9)).astype(np.int32)
    targets[rng.random((40, 9)) < 0.6] = IGNORED
    targets[0] = IGNORED
    weight = np.float32(np.arange(40) < 33)
    outputs = rng.normal(size=(40, 9, 5)).astype(np.float32)
    outputs[:, 5:] += 9 * np.eye(5)[np.maximum(targets[:, 5:], 0)]  # right at the end
    found = jax.jit(by_position)(outputs, {"targets": targets, "weight": weight})
    right, labelled = np.zeros(9), np.zeros(9)
    last = []
    for row, guess, counts in zip(targets, outputs.argmax(-1), weight, strict=True):
        places = [i for i in range(9) if row[i] != IGNORED and counts]
        for i in places:
            labelled[i] += 1
            right[i] += guess[i] == row[i]
        last += [guess[places[-1]] == row[places[-1]]] if places else []
    np.testing.assert_array_equal(found[POSITIONS], (right, labelled))
    np.testing.assert_array_equal(found[LAST], (sum(last), len(last)))
    got = curve(np.stack([right, right]), np.stack([labelled, labelled]))
    assert got["at"] == list(range(9))
    np.testing.assert_allclose(got["accuracy"], np.stack([right / labelled] * 2))
    assert by_position(outputs[:, 0], {"targets": targets[:, 0]}) == {}
    assert by_position(outputs, {"targets": outputs}) == {}


def test_many_positions_are_joined_by_their_labels():
    right, labelled = np.arange(1000.0), np.full(1000, 1000.0)
    labelled[::2], right[::2] = 0, 0
    got = curve(right, labelled)
    assert len(got["at"]) == len(got["accuracy"]) == MOST
    assert got["at"][-1] == 999
    first = [i for i in range(1000) if i % 2 and i <= got["at"][0]]
    assert got["accuracy"][0] == pytest.approx(np.mean(first) / 1000)
