import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.lra.image import Image
from seqzoo.tasks.pixels.cifar import MEAN, STD, SequentialCifar
from seqzoo.tasks.pixels.mnist import SequentialMnist
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
            pixels = source[i]["inputs"] * STD + MEAN
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


def test_a_wrong_class_balance_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SequentialCifar, "balance", {"test": (1, 1, 0, 1, *[0] * 6)})
    published.cifar_binary(tmp_path, TRAIN, TEST)
    with pytest.raises(ValueError, match=r"1 examples of class 'bird', not 0"):
        SequentialCifar(data=str(tmp_path), **SIZES).source("test")
