"""Reads PNG pictures of 8 bits: grey, colour, palette, with or without alpha, not interlaced.

Enough for the data sets at hand, so that none of them needs an imaging library. The file's own
checksums are checked. PNG specification: W3C Recommendation, 2003.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import UInt8

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
PALETTE = 3
MOST_PIXELS = 1 << 26  # no picture of a data set is larger


def decode_png(data: bytes) -> UInt8[np.ndarray, "H W C"]:
    """The picture, C being 1 for grey and 3 for colour; an alpha channel is dropped.

    Raises ValueError for data that is cut short, damaged, or of another kind.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("an empty file" if not data else "not a PNG picture")
    chunks = _chunks(data)
    if len(chunks.get(b"IHDR", b"")) != 13:
        raise ValueError("a PNG picture without its header")
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if depth != 8 or colour not in CHANNELS or any(rest):
        raise ValueError(
            f"a PNG picture of {depth} bits, colour type {colour}"
            f"{', interlaced' if rest[-1] else ''}; 8 bits and not interlaced can be read"
        )
    if not 0 < width * height <= MOST_PIXELS:
        raise ValueError(f"a PNG picture of {width} x {height} pixels")
    channels = CHANNELS[colour]
    size = height * (1 + width * channels)
    raw = _inflate(chunks.get(b"IDAT", b""), size)
    lines = np.frombuffer(raw, np.uint8).reshape(height, -1)
    pixels = _unfilter(lines[:, 0], lines[:, 1:].reshape(height, width, channels))
    if colour == PALETTE:
        return _look_up(pixels[..., 0], chunks.get(b"PLTE", b""))
    return pixels[..., : channels - 1 + channels % 2]


def _chunks(data: bytes) -> dict[bytes, bytes]:
    """The content of each kind of chunk, joined."""
    found: dict[bytes, list[bytes]] = {}
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(kind + content) != int.from_bytes(data[end - 4 : end]):
            raise ValueError(f"a damaged PNG picture (checksum of {kind.decode('latin1')})")
        found.setdefault(kind, []).append(content)
        at = end
        if kind == b"IEND":
            return {name: b"".join(parts) for name, parts in found.items()}
    raise ValueError("a PNG picture that is cut short")


def _inflate(data: bytes, size: int) -> bytes:
    try:
        raw = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"a damaged PNG picture ({error})") from error
    if len(raw) != size:
        raise ValueError(f"a PNG picture with {len(raw)} bytes of pixels; it needs {size}")
    return raw


def _unfilter(
    kinds: UInt8[np.ndarray, "H"], x: UInt8[np.ndarray, "H W C"]
) -> UInt8[np.ndarray, "H W C"]:
    """Undoes the prediction of each line from its left and upper neighbours."""
    if kinds.max() > 4:
        raise ValueError(f"a damaged PNG picture (filter {kinds.max()})")
    _, width, channels = x.shape
    lines, above = [], np.zeros((width, channels), np.uint8)
    for kind, line in zip(kinds.tolist(), x, strict=True):
        if kind == 1:
            above = np.cumsum(line, axis=0, dtype=np.uint8)
        elif kind == 2:
            above = line + above
        elif kind > 2:  # each byte needs the one before: a loop over Python's integers
            undo = _average if kind == 3 else _paeth
            flat = undo(line.ravel().tolist(), above.ravel().tolist(), channels)
            above = np.array(flat, np.uint8).reshape(width, channels)
        else:
            above = line
        lines.append(above)
    return np.stack(lines)


def _average(line: list[int], above: list[int], channels: int) -> list[int]:
    out = [0] * channels
    for i, (x, up) in enumerate(zip(line, above, strict=True)):
        out.append((x + (out[i] + up) // 2) & 255)
    return out[channels:]


def _paeth(line: list[int], above: list[int], channels: int) -> list[int]:
    out, corners = [0] * channels, [0] * channels + above
    for i, (x, up, corner) in enumerate(zip(line, above, corners, strict=False)):
        left = out[i]
        from_left, from_up = abs(up - corner), abs(left - corner)
        from_corner = abs(left + up - 2 * corner)
        if from_left <= from_up and from_left <= from_corner:
            guess = left
        else:
            guess = up if from_up <= from_corner else corner
        out.append((x + guess) & 255)
    return out[channels:]


def _look_up(indices: np.ndarray, palette: bytes) -> UInt8[np.ndarray, "H W 3"]:
    colours = np.frombuffer(palette[: len(palette) // 3 * 3], np.uint8).reshape(-1, 3)
    if indices.max() >= len(colours):
        raise ValueError("a damaged PNG picture (palette)")
    return colours[indices]
