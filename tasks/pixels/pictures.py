"""Picture files, by Pillow, alone and as rows of the hub."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from seqzoo.tasks.data import cache
from seqzoo.tasks.data.damage import HEAD, DamagedError, check_kind, reading
from seqzoo.tasks.data.stored import check_class

MOST_PIXELS = 1 << 26  # no picture of a data set is larger
KIND = "a PNG picture"
GREY = (0, 4)  # types of colour in a PNG's header, without and with alpha


def read_png(content: bytes) -> UInt8[np.ndarray, "H W C"]:
    """A PNG picture of any depth in 8 bits, C being 1 for grey and 3 for colour; without alpha.

    Raises ValueError for content that is cut short, damaged or of another kind, and without Pillow.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ValueError(
            "picture files are read by Pillow, which is not installed: pip install 'seqzoo[images]'"
        ) from error
    check_kind("the picture", KIND, content[:HEAD])
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    if width * height > MOST_PIXELS:
        raise DamagedError(f"{KIND} of {width} x {height} pixels is none of a data set")
    with reading("the picture", KIND, content):
        # Checks the checksums of all parts, after which it must be opened again.
        Image.open(io.BytesIO(content), formats=("PNG",)).verify()
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        if image.mode == "P" and np.max(image) >= len(image.getpalette()) // 3:
            raise DamagedError(
                "the picture has colours that are not in its palette: fetch it again"
            )
        if image.mode in ("I;16", "I"):
            pixels = ((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8)
        else:
            pixels = np.asarray(image.convert("L" if content[25] in GREY else "RGB"))
    return pixels.reshape(*pixels.shape[:2], -1)


class PngRow:
    """Reads a hub row with a PNG picture of a given size."""

    def __init__(self, image: str, side: int, channels: int):
        self.image, self.side, self.channels = image, side, channels
        self.columns = (image, "label")

    def __call__(self, values: Mapping[str, Any]) -> cache.Row:
        """Raises ValueError for a picture or label that is wrong."""
        target = check_class(values["label"], 10)
        content = (values[self.image] or {}).get("bytes")
        if not content:
            raise ValueError("an empty picture")
        pixels = read_png(content)
        if pixels.shape != (self.side, self.side, self.channels):
            raise ValueError(
                f"a picture of shape {pixels.shape}; it must be "
                f"{(self.side, self.side, self.channels)}"
            )
        return {"pixels": pixels.ravel(), "target": target}
