import numpy as np
import pytest

from seqzoo.tasks.pixels.png import decode_png
from tests.tasks.published import png


@pytest.mark.parametrize("shape", [(5, 7, 1), (7, 5, 3), (6, 6, 2), (9, 3, 4), (1, 1, 1)])
def test_every_filter_is_undone(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    kept = pixels[..., : {1: 1, 2: 1, 3: 3, 4: 3}[shape[2]]]
    for filters in [(0, 1, 2, 3, 4), (4,), (3,), (0,)]:
        assert np.array_equal(decode_png(png(pixels, filters)), kept)


def test_a_palette_is_looked_up():
    indices = np.array([[0, 1], [2, 1]])
    palette = bytes([1, 2, 3, 10, 20, 30, 100, 200, 255])
    found = decode_png(png(indices, colour=3, palette=palette))
    assert found.tolist() == [[[1, 2, 3], [10, 20, 30]], [[100, 200, 255], [10, 20, 30]]]
    with pytest.raises(ValueError, match="palette"):
        decode_png(png(indices, colour=3, palette=palette[:6]))


def test_what_cannot_be_read_is_named():
    good = png(np.zeros((4, 4)))
    for data, message in [
        (b"", "empty file"),
        (b"GIF89a", "not a PNG"),
        (good[:-20], "cut short"),
        (good[:40] + bytes([good[40] ^ 1]) + good[41:], "checksum"),
        (png(np.zeros((4, 4)), depth=16), "16 bits"),
        (png(np.zeros((4, 4)), filters=(0,), colour=2), "it needs 52"),
        (good.replace(b"IHDR", b"IHDX"), "checksum"),
    ]:
        with pytest.raises(ValueError, match=message):
            decode_png(data)
