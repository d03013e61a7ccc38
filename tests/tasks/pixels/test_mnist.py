import numpy as np
import pytest

from seqzoo.tasks.pixels import mnist
from seqzoo.tasks.pixels.mnist import PermutedMnist, SequentialMnist
from tests.tasks import published

SIZES = {"train_size": 8, "validation_size": 2, "test_size": 3}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_files(tmp_path, suffix):
    pixels = published.RNG.integers(0, 256, (10, 28, 28), dtype=np.uint8)
    for part, count in (("train", 10), ("t10k", 3)):
        published.idx(tmp_path / f"{part}-images-idx3-ubyte{suffix}", pixels[:count])
        published.idx(tmp_path / f"{part}-labels-idx1-ubyte{suffix}", np.arange(count))
    task = SequentialMnist(data=str(tmp_path), **SIZES)
    source = task.source("test")
    assert np.allclose(source[2]["inputs"][:, 0] * 255, pixels[2].ravel(), atol=1e-4)
    standard = SequentialMnist(data=str(tmp_path), normalise="standard", **SIZES).source("test")
    assert np.allclose(standard[2]["inputs"] * 0.3081 + 0.1307, source[2]["inputs"], atol=1e-6)
    tokens = SequentialMnist(data=str(tmp_path), pixels="tokens", **SIZES)
    np.testing.assert_array_equal(tokens.source("test")[2]["inputs"], pixels[2].ravel())
    assert tokens.decode(tokens.source("test")[2]) == task.decode(source[2])
    permuted = PermutedMnist(data=str(tmp_path), **SIZES)
    assert permuted.source("test")[2]["inputs"][1, 0] * 255 == pytest.approx(pixels[2].ravel()[512])
    assert permuted.decode(permuted.source("test")[2]) == task.decode(source[2])


def test_mnist_of_the_hub(tmp_path):
    pixels = published.RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    path = tmp_path / "mnist" / "test-00000-of-00001.parquet"
    published.picture_parquet(path, "image", [published.png(x) for x in pixels], [3, 1, 4])
    source = SequentialMnist(data=str(tmp_path), **SIZES).source("test")
    assert [int(x["targets"]) for x in source] == [3, 1, 4]
    assert np.allclose(source[1]["inputs"][:, 0] * 255, pixels[1].ravel(), atol=1e-4)


def test_permutations_are_the_published_ones():
    begins = {
        "bit_reversal": [0, 512, 256, 768, 128, 640, 384, 64, 576, 320],
        "rs92916": [319, 576, 323, 107],
        "rs0": [693, 85, 647, 392],
    }
    for name, begin in begins.items():
        order = mnist.permutation(name)
        assert order[: len(begin)].tolist() == begin
        assert sorted(order.tolist()) == list(range(784))
    with pytest.raises(ValueError, match="unknown permutation 'random'"):
        PermutedMnist(permutation="random")


def test_the_hub_is_asked_for_the_right_split(monkeypatch):
    import datasets

    asked = []

    def load(repository, config, split):
        asked.append((repository, config, split))
        image = {"bytes": published.png(np.zeros((28, 28))), "path": None}
        return datasets.Dataset.from_dict({"image": [image] * 3, "label": [1, 2, 3]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    source = SequentialMnist(data="huggingface", **SIZES).source("test")
    assert [int(x["targets"]) for x in source] == [1, 2, 3]
    assert asked == [("ylecun/mnist", "mnist", "test")]


@pytest.mark.parametrize(
    ("picture", "label", "message"),
    [
        (b"", 1, "empty picture"),
        (published.png(np.zeros((14, 28))), 1, r"shape \(14, 28, 1\)"),
        (published.png(np.zeros((28, 28))), 10, "integer from 0 to 9; got 10"),
        (published.png(np.zeros((28, 28))), -1, "got -1"),
        (published.png(np.zeros((28, 28))), None, "got None"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, picture, label, message):
    path = tmp_path / "test.parquet"
    good = published.png(np.zeros((28, 28)))
    published.picture_parquet(path, "image", [good, picture, good], [1, label, 1])
    with pytest.raises(ValueError, match=message) as caught:
        SequentialMnist(data=str(tmp_path), **SIZES).source("test")
    assert f"{path}, row 1: " in str(caught.value)


def test_labels_in_place_of_pictures_are_named(tmp_path):
    for name in ("t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        published.idx(tmp_path / name, np.arange(3))
    with pytest.raises(ValueError, match=r"images-idx3-ubyte is no idx file .* with 3 axes"):
        SequentialMnist(data=str(tmp_path), **SIZES).source("test")


def test_wrong_columns_are_named(tmp_path):
    published.parquet(tmp_path / "test.parquet", {"picture": [b""], "label": [1]})
    with pytest.raises(ValueError, match="has no column image; it has picture, label"):
        SequentialMnist(data=str(tmp_path), **SIZES).source("test")
