import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.pixels.digits import PermutedDigits, SequentialDigits

digits = pytest.importorskip("sklearn.datasets")


def test_every_digit_is_in_one_split():
    task = SequentialDigits()
    rows = [
        (x["inputs"].tobytes(), int(x["targets"]))
        for split in ("train", "validation", "test")
        for x in task.source(split)
    ]
    pixels, targets = digits.load_digits(return_X_y=True)
    original = zip((pixels / 16).astype(np.float32)[..., None], targets, strict=True)
    assert sorted(rows) == sorted((x.tobytes(), int(y)) for x, y in original)
    assert [len(task.source(split)) for split in ("train", "validation", "test")] == [
        1257,
        180,
        360,
    ]
    assert [int(task.source("test")[i]["targets"]) for i in range(5)] == [7, 9, 7, 6, 4]


def test_permuted_digits_are_the_same_pictures():
    plain, permuted = SequentialDigits(), PermutedDigits()
    for i in range(5):
        one, other = plain.source("test")[i], permuted.source("test")[i]
        assert not np.array_equal(one["inputs"], other["inputs"])
        assert plain.decode(one) == permuted.decode(other)


def test_pixels_can_be_tokens_and_are_modelled_in_bits_a_pixel():
    plain, tokens = SequentialDigits(), SequentialDigits(pixels="tokens")
    one, other = plain.source("test")[3], tokens.source("test")[3]
    np.testing.assert_array_equal(other["inputs"], 16 * one["inputs"][:, 0])
    assert plain.decode(one) == tokens.decode(other)
    task = build("next_token:sdigits", of={"pixels": "tokens"})
    row = task.source("test")[3]
    np.testing.assert_array_equal(row["inputs"], [17, *other["inputs"][:-1]])
    np.testing.assert_array_equal(row["targets"], other["inputs"])
    assert task.main_metric == "bits_per_dim"
    assert 2 < task.baselines()["token frequencies"] < np.log2(17)
    with pytest.raises(ValueError, match="pixels must be 'continuous' or 'tokens'"):
        SequentialDigits(pixels="grey")


def test_sizes_must_add_up():
    with pytest.raises(
        ValueError, match="hold 1797 examples, but the sum of the three sizes = 1540"
    ):
        SequentialDigits(train_size=1000).source("test")
