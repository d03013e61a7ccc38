import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.lra.image import Image, to_grey
from tests.tasks import published

SIZES = {"train_size": 8, "validation_size": 2, "test_size": 3}
TRAIN, TEST = published.cifar(10), published.cifar(3)


def test_grey_values_are_those_of_the_two_libraries():
    colours = np.array(
        [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 200, 90]]
    )
    # Pillow's documented integer formula, and TensorFlow's float one, by hand.
    pil = [(r * 19595 + g * 38470 + b * 7471 + 32768) // 65536 for r, g, b in colours.tolist()]
    assert to_grey(colours.astype(np.uint8), "pil").tolist() == pil
    assert to_grey(colours.astype(np.uint8), "tensorflow").tolist() == [
        0, 255, 76, 149, 29, 130,
    ]  # fmt: skip


def test_protocols_decide_tokens_or_numbers(tmp_path):
    published.cifar_binary(tmp_path, TRAIN, TEST)
    made = {
        name: Image(data=str(tmp_path), protocol=name, **SIZES)
        for name in ("google2020", "s4", "nystrom-small", "pretrain-finetune", "own")
    }
    first = {name: task.source("test")[0]["inputs"] for name, task in made.items()}
    grey = to_grey(TEST[0][0].reshape(-1, 3), "tensorflow")
    assert first["nystrom-small"].tolist() == grey.tolist()
    assert first["google2020"].tolist() == [256, *grey.tolist()]
    assert made["google2020"].spec.vocab_size == 257
    assert made["google2020"].spec.length == 1025
    assert made["google2020"].spec.pooling == "first"
    pil = to_grey(TEST[0][0].reshape(-1, 3), "pil")
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


def test_the_token_in_front_is_no_pixel_to_be_told(tmp_path):
    published.cifar_binary(tmp_path, TRAIN, TEST)
    of = {"data": str(tmp_path), "protocol": "google2020", **SIZES}
    row = build("next_token:image", of=of).source("test")[0]
    assert (row["targets"] >= 0).sum() == 1024
    assert row["inputs"].tolist()[:2] == [257, 256]
