import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.pixels import images
from seqzoo.tasks.pixels.images import Image, PermutedMnist, SequentialCifar, SequentialMnist
from tests.tasks import published

SIZES = {"train_size": 8, "validation_size": 2, "test_size": 3}
TRAIN, TEST = published.cifar(10), published.cifar(3)


@pytest.fixture(params=["binary", "archive", "parquet"])
def cifar(request, tmp_path):
    """A folder with CIFAR-10 in each of its formats."""
    if request.param == "parquet":
        for part, (pixels, labels) in (("train", TRAIN), ("test", TEST)):
            path = tmp_path / "plain_text" / f"{part}-00000-of-00001.parquet"
            pictures = [published.png(x, filters=(1, 4)) for x in pixels]
            published.picture_parquet(path, "img", pictures, labels)
        return tmp_path
    folder = published.cifar_binary(tmp_path / "cifar-10-batches-bin", TRAIN, TEST)
    if request.param == "archive":
        files = {f"{folder.name}/{p.name}": p.read_bytes() for p in folder.iterdir()}
        published.tar(tmp_path / "a" / "cifar-10-binary.tar.gz", files)
        return tmp_path / "a"
    return tmp_path


def test_every_format_of_cifar_gives_the_same(cifar):
    task = SequentialCifar(data=str(cifar), **SIZES)
    for _ in range(2):  # from the files, then from the cache
        source = task.source("test")
        for i in range(3):
            pixels = source[i]["inputs"] * images.STD + images.MEAN
            assert np.allclose(255 * pixels, TEST[0][i].reshape(-1, 3), atol=1e-3)
            assert source[i]["targets"] == TEST[1][i]
    assert source[0]["inputs"].shape == (1024, task.spec.features)
    assert "airplane" in task.decode(source[0])
    assert task.baselines() == {"majority class": pytest.approx(1 / 3)}


def test_train_and_validation_share_the_file_in_a_fixed_way(tmp_path):
    published.cifar_binary(tmp_path, TRAIN, TEST)
    task = SequentialCifar(data=str(tmp_path), **SIZES)
    labels = [
        [int(x["targets"]) for x in task.source(split, seed=seed)]
        for split, seed in (("train", 0), ("validation", 0), ("train", 1))
    ]
    assert sorted(labels[0] + labels[1]) == list(range(10))
    assert labels[0] == labels[2] == [4, 9, 8, 2, 3, 6, 7, 1]  # pinned: a split may never change
    grey = Image(data=str(tmp_path), **SIZES)  # the tasks on one data set have one split
    assert [int(x["targets"]) for x in grey.source("train")] == labels[0]


def test_grey_values_are_those_of_the_two_libraries():
    colours = np.array(
        [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 90]]
    )
    # Pillow's documented integer formula, and TensorFlow's float one, by hand.
    pil = [(r * 19595 + g * 38470 + b * 7471 + 32768) // 65536 for r, g, b in colours.tolist()]
    assert images.to_grey(colours.astype(np.uint8), "pil").tolist() == pil
    assert images.to_grey(colours.astype(np.uint8), "tensorflow").tolist() == [
        0, 255, 76, 149, 29, 130,
    ]  # fmt: skip


def test_protocols_decide_tokens_or_numbers(tmp_path):
    published.cifar_binary(tmp_path, TRAIN, TEST)
    made = {
        name: Image(data=str(tmp_path), protocol=name, **SIZES)
        for name in ("google2020", "s4", "nystrom-small", "pretrain-finetune", "own")
    }
    first = {name: task.source("test")[0]["inputs"] for name, task in made.items()}
    grey = images.to_grey(TEST[0][0].reshape(-1, 3), "tensorflow")
    assert first["nystrom-small"].tolist() == grey.tolist()
    assert first["google2020"].tolist() == [256, *grey.tolist()]
    assert made["google2020"].spec.vocab_size == 257
    assert made["google2020"].spec.length == 1025
    assert made["google2020"].spec.pooling == "first"
    pil = images.to_grey(TEST[0][0].reshape(-1, 3), "pil")
    assert np.allclose(first["s4"][:, 0], (pil - 122.6) / 61, atol=1e-5)
    assert np.array_equal(first["s4"], first["own"])
    for name, task in made.items():
        assert task.decode(task.source("test")[1]).endswith("automobile")
        assert name in task.notes[0]
    with pytest.raises(ValueError, match=r"pixels='tokens' is not of protocol s4 \('continuous'\)"):
        Image(pixels="tokens")
    assert Image(pixels="tokens", protocol="own").spec.vocab_size == 256
    with pytest.raises(ValueError, match="unknown protocol 's5'; valid: google2020, s4"):
        Image(protocol="s5")


def test_colours_as_tokens_are_three_a_pixel(tmp_path):
    published.cifar_binary(tmp_path, TRAIN, TEST)
    options = {"data": str(tmp_path), **SIZES}
    plain, task = SequentialCifar(**options), SequentialCifar(pixels="tokens", **options)
    row = task.source("test")[1]
    np.testing.assert_array_equal(row["inputs"], TEST[0][1].ravel())
    assert (task.spec.length, task.spec.vocab_size) == (3072, 256)
    assert task.decode(row) == plain.decode(plain.source("test")[1])
    modelled = build("next_token:scifar", of={"pixels": "tokens", **options}).source("test")[1]
    np.testing.assert_array_equal(modelled["targets"], row["inputs"])


def test_the_token_in_front_is_no_pixel_to_be_told(tmp_path):
    published.cifar_binary(tmp_path, TRAIN, TEST)
    of = {"data": str(tmp_path), "protocol": "google2020", **SIZES}
    row = build("next_token:image", of=of).source("test")[0]
    assert (row["targets"] >= 0).sum() == 1024
    assert row["inputs"].tolist()[:2] == [257, 256]


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
        order = images.permutation(name)
        assert order[: len(begin)].tolist() == begin
        assert sorted(order.tolist()) == list(range(784))
    with pytest.raises(ValueError, match="unknown permutation 'random'"):
        PermutedMnist(permutation="random")


def test_missing_data_says_what_to_fetch(tmp_path):
    for kind, words in (
        (Image, ("170 MB", "cifar-10-binary")),
        (SequentialMnist, ("12 MB", "mirror")),
    ):
        for data in ("", str(tmp_path), str(tmp_path / "nowhere")):
            with pytest.raises(FileNotFoundError) as caught:
                kind(data=data).source("test")
            for word in (*words, "huggingface", "--data.data", kind.name):
                assert word in str(caught.value)


def test_a_pickle_is_not_read(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(ValueError, match=r"pickle.*fetch cifar-10-binary"):
        Image(data=str(tmp_path)).source("test")


def test_no_network_says_what_to_fetch(monkeypatch):
    import datasets

    def refuse(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError, match=r"no network.*uoft-cs/cifar10"):
        Image(data="huggingface").source("test")


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


def test_damaged_files_are_named(tmp_path):
    folder = published.cifar_binary(tmp_path, TRAIN, TEST)
    task = Image(data=str(tmp_path), **SIZES)
    whole = (folder / "test_batch.bin").read_bytes()
    for content, message in [
        (whole[:3073] + bytes([77]) + whole[3074:], "record 1: the label.*got 77"),
        (whole[:3073], r"hold 1 examples, but test_size = 3"),
    ]:
        (folder / "test_batch.bin").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            task.source("test")


def test_labels_in_place_of_pictures_are_named(tmp_path):
    for name in ("t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"):
        published.idx(tmp_path / name, np.arange(3))
    with pytest.raises(ValueError, match=r"images-idx3-ubyte is no idx file .* with 3 axes"):
        SequentialMnist(data=str(tmp_path), **SIZES).source("test")


def test_a_wrong_class_balance_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SequentialCifar, "balance", {"test": (1, 1, 0, 1, *[0] * 6)})
    published.cifar_binary(tmp_path, TRAIN, TEST)
    with pytest.raises(ValueError, match=r"1 examples of class 'bird', not 0"):
        SequentialCifar(data=str(tmp_path), **SIZES).source("test")


def test_wrong_columns_are_named(tmp_path):
    published.parquet(tmp_path / "test.parquet", {"picture": [b""], "label": [1]})
    with pytest.raises(ValueError, match="has no column image; it has picture, label"):
        SequentialMnist(data=str(tmp_path), **SIZES).source("test")
