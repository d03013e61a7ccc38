import sys

import numpy as np
import pytest

from seqzoo.tasks.pixels.pictures import read_png
from tests.tasks.published import png


@pytest.mark.parametrize("shape", [(5, 7, 1), (7, 5, 3), (6, 6, 2), (9, 3, 4), (1, 1, 1)])
@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [8, 16])
def test_channels_are_read_without_alpha(shape, interlaced, depth):
    pixels = np.random.default_rng(0).integers(0, 256, shape)
    kept = pixels[..., : {1: 1, 2: 1, 3: 3, 4: 3}[shape[2]]]
    for filters in [(0, 1, 2, 3, 4), (4,)]:
        found = read_png(png(pixels, filters, depth=depth, interlaced=interlaced))
        assert found.dtype == np.uint8
        assert np.array_equal(found, kept)


@pytest.mark.parametrize("interlaced", [False, True])
def test_one_bit_is_black_and_white(interlaced):
    bits = np.random.default_rng(0).integers(0, 2, (9, 13))
    assert np.array_equal(read_png(png(bits, depth=1, interlaced=interlaced))[..., 0], 255 * bits)


def test_sixteen_bits_are_rounded_to_eight():
    levels = np.array([[0, 128, 129, 65535, 257 * 200 + 128, 257 * 200 + 129]])
    assert read_png(png(levels, depth=16, full=True))[0, :, 0].tolist() == [0, 0, 1, 255, 200, 201]


def test_a_palette_is_looked_up():
    indices = np.array([[0, 1], [2, 1]])
    palette = bytes([1, 2, 3, 10, 20, 30, 100, 200, 255])
    found = read_png(png(indices, colour=3, palette=palette))
    assert found.tolist() == [[[1, 2, 3], [10, 20, 30]], [[100, 200, 255], [10, 20, 30]]]
    with pytest.raises(ValueError, match="palette"):
        read_png(png(indices, colour=3, palette=palette[:6]))


def test_what_cannot_be_read_is_said_in_one_line():
    good = png(np.zeros((40, 40)))
    for data, message in [
        (b"", "is empty"),
        (b"GIF89a", "no PNG picture"),
        (png(np.zeros((4, 4)), filters=(0,), colour=2), "truncated"),
        (good.replace(b"IHDR", b"IHDX"), "no PNG picture"),
        (png(np.zeros((1, 1)), size=(1 << 14, 1 << 13)), "16384 x 8192"),
    ]:
        with pytest.raises(ValueError, match=message) as caught:
            read_png(data)
        assert "\n" not in str(caught.value)


def test_without_pillow_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"pip install 'seqzoo\[images\]'"):
        read_png(png(np.zeros((2, 2))))
