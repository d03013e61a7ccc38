"""Small files in exactly the formats of published data sets."""

import gzip
import io
import struct
import tarfile
import wave
import zlib

import numpy as np

RNG = np.random.default_rng(0)
REVIEWS = [
    ('A dull film.<br /><br />\t"Never" again\u2026', 0),
    ("Good, good, good: \u00e9toile!", 1),
    ("", 0),
    ("so-so " * 900, 1),
]
PAIRS = [
    ("1.0", "P00-1001", "W99-0101", '"we cite a stray quote', "and a plain text"),
    ("0.0", "P00-1002", "W99-0102", "caf\u00e9 society", "x" * 5000),
    ("1.0", "P00-1003", "W99-0103", "a", "b"),
]


ADAM7 = [
    (0, 0, 8, 8),
    (0, 4, 8, 8),
    (4, 0, 8, 4),
    (0, 2, 4, 4),
    (2, 0, 4, 2),
    (0, 1, 2, 2),
    (1, 0, 2, 1),
]


def png(
    pixels, filters=(0, 1, 2, 3, 4), colour=None, palette=b"", depth=8, interlaced=False, **other
):
    """A PNG picture whose lines use the filters in turn; pixels [H, W] or [H, W, C] in 8 bits.

    `depth` 1 takes bits; 16 takes 8 bits, or with `full` all of them. `size` is one that is a lie.
    """
    pixels = np.asarray(pixels)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels] if colour is None else colour
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    body = b""
    for y, x, down, right in passes:
        part = pixels[y::down, x::right]
        if part.size:
            body += _lines(_packed(part, depth, other.get("full", False)), filters)
    size = other.get("size", (width, height))
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    body = zlib.compress(body)
    parts = [(b"IHDR", header), *([(b"PLTE", palette)] if palette else [])]
    parts += [(b"IDAT", body[:20]), (b"IDAT", body[20:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


def _packed(pixels, depth, full):
    """Pixels as bytes [H, W, bytes a pixel]; bits eight to a byte."""
    if depth == 1:
        return np.packbits(pixels[..., 0].astype(bool), axis=1)[..., None]
    if depth == 16:
        wide = np.asarray(pixels if full else 257 * pixels, ">u2")
        return wide.view(np.uint8).reshape(*pixels.shape[:2], -1)
    return pixels.astype(np.uint8)


def _lines(x, filters):
    kinds = [filters[row % len(filters)] for row in range(len(x))]
    return b"".join(
        bytes([kind]) + _filtered(x.astype(int), row, kind).tobytes()
        for row, kind in enumerate(kinds)
    )


def _filtered(x, row, kind):
    """A line less its prediction, by the five rules of the PNG specification."""
    up = x[row - 1] if row else 0 * x[row]
    left, corner = (np.concatenate([np.zeros_like(y[:1]), y[:-1]]) for y in (x[row], up))
    far = [abs(left + up - corner - y) for y in (left, up, corner)]
    paeth = np.choose(np.argmin(far, axis=0), [left, up, corner])  # ties: left, then up
    guess = [0 * left, left, up, (left + up) // 2, paeth][kind]
    return ((x[row] - guess) % 256).astype(np.uint8)


def parquet(path, columns, metadata=None):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def picture_parquet(path, column, pictures, labels):
    """As `datasets` writes an Image feature: a struct of bytes and path."""
    structs = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(pictures)]
    return parquet(path, {column: structs, "label": list(labels)})


def cifar(count):
    """(pixels [count, 32, 32, 3], labels)."""
    return RNG.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8), np.arange(count) % 10


def cifar_binary(folder, train, test):
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = train
    for i in range(5):
        chosen = slice(i * len(labels) // 5, (i + 1) * len(labels) // 5)
        (folder / f"data_batch_{i + 1}.bin").write_bytes(records(pixels[chosen], labels[chosen]))
    (folder / "test_batch.bin").write_bytes(records(*test))
    return folder


def records(pixels, labels):
    planes = np.moveaxis(pixels, -1, 1).reshape(len(labels), -1)
    return b"".join(bytes([y]) + x.tobytes() for x, y in zip(planes, labels, strict=True))


def idx(path, array):
    array = np.asarray(array, np.uint8)
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def imdb_parquet(folder):
    texts, labels = zip(*REVIEWS, strict=True)
    for part in ("train", "test", "unsupervised"):
        parquet(
            folder / "plain_text" / f"{part}-00000-of-00001.parquet",
            {"text": list(texts), "label": [-1] * 4 if part == "unsupervised" else list(labels)},
        )
    return folder


def imdb_files():
    """name -> content of the original's files; neg before pos."""
    return {
        f"aclImdb/{part}/{'pos' if label else 'neg'}/{i}_7.txt": text.encode()
        for part in ("train", "test")
        for i, (text, label) in enumerate(REVIEWS)
    } | {"aclImdb/train/unsup/0_0.txt": b"no label", "aclImdb/README": b"about"}


def tar(path, files, extra=()):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in extra:
            archive.addfile(info)
    return path


def aan(folder, pairs=PAIRS):
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "eval", "test"):
        lines = "".join("\t".join(pair) + "\n" for pair in pairs)
        (folder / f"new_aan_pairs.{part}.tsv").write_bytes(lines.encode())
    return folder


def pathfinder(folder, count=6, *, size=32, binary=False, empty=None):
    """Pictures of value 7 * i with label i % 2, in two batches."""
    (folder / "metadata").mkdir(parents=True)
    for batch in range(2):
        (folder / "imgs" / str(batch)).mkdir(parents=True)
        lines = []
        for i in range(batch * count // 2, (batch + 1) * count // 2):
            name = f"sample_{i}.png"
            content = b"" if i == empty else png(np.full((size, size), 7 * i), filters=(2,))
            (folder / "imgs" / str(batch) / name).write_bytes(content)
            lines.append(f"imgs/{batch} {name} {i} {i % 2} 1.0 14 4 2 0.5 1 1".split())
        file = folder / "metadata" / f"{batch}.npy"
        if binary:
            np.save(file, np.array(lines))
        else:
            file.write_text("".join(" ".join(line) + "\n" for line in lines))
    return folder


def sound(samples, *, rate=16000, channels=1, width=2):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.asarray(samples, "<i2").tobytes())
    return out.getvalue()


def speech_files(length=16000):
    """name -> content of the archive: two words, one recording for each split."""
    files = {"_background_noise_/hum.wav": sound(np.zeros(20_000)), "README.md": b"about"}
    for k, word in enumerate(("bed", "zero")):
        for i in range(3):
            samples = 1000 * (i + 1) * np.sin(np.arange(length - 100 * i) * (k + 1) / 9)
            files[f"{word}/ab{i}_nohash_0.wav"] = sound(samples)
    files["validation_list.txt"] = b"bed/ab1_nohash_0.wav\nzero/ab1_nohash_0.wav\n"
    files["testing_list.txt"] = b"bed/ab2_nohash_0.wav\nzero/ab2_nohash_0.wav\n"
    return files


def folder_of(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def series_ts(path, rows, labels, stamps=None, said=()):
    """A `.ts` file as the archives have them; rows [L, channels], NaN where a value is missing."""
    classes = " ".join(sorted(set(labels)))
    lines = ["#A comment", f"@problemName {path.stem.partition('_')[0]}"]
    lines += [f"@timeStamps {str(stamps is not None).lower()}", "@missing false"]
    lines += [f"@univariate {str(rows[0].shape[1] == 1).lower()}", f"@classLabel true {classes}"]
    lines += [*said, "@data"]
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        channels = []
        for channel in row.T:
            cells = ["?" if np.isnan(value) else f"{value:.6f}" for value in channel]
            if stamps is not None:
                cells = [f"({t},{cell})" for t, cell in zip(stamps[i], cells, strict=True)]
            channels.append(",".join(cells))
        lines.append(":".join([*channels, label]))
    path.write_text("\n".join(lines) + "\n")


def series_arff(path, rows, labels):
    """An `.arff` file as the archives have them: relational where there are several channels."""
    name, several = path.stem.partition("_")[0], rows[0].shape[1] > 1
    numeric = [f"@attribute att{i} numeric" for i in range(len(rows[0]))]
    lines = ["%A comment", f"@relation '{name}'", ""]
    lines += ["@attribute relationalAtt relational"] * several + numeric
    lines += ["@end relationalAtt"] * several
    lines += [f"@attribute target {{{','.join(sorted(set(labels)))}}}", "", "@data"]
    for row, label in zip(rows, labels, strict=True):
        cells = "\\n".join(",".join(f"{value:.6f}" for value in channel) for channel in row.T)
        lines.append(f"'{cells}',{label}" if several else f"{cells},{label}")
    path.write_text("\n".join(lines) + "\n")


def series(count, steps=5, channels=2, seed=0):
    """Rows of numbers as files have them, and their classes in turns."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(steps, channels)).round(6) for _ in range(count)]
    return rows, [("rest", "walk")[i % 2] for i in range(count)]


def fasta(*records, width=60, seed=0):
    """A FASTA file: random nucleotides for each name and length, in lines as repositories have."""
    rng, lines = np.random.default_rng(seed), []
    for name, length in records:
        letters = "".join(rng.choice(list("ACGT"), length))
        lines += [f">{name} Genus species, complete sequence"]
        lines += [letters[i : i + width] for i in range(0, length, width)]
    return "\n".join(lines) + "\n"
