"""Every task of the registry on a few examples: generated ones as they are, others on small files.

    task = small.build("text", tmp_path, monkeypatch)      # files are written below tmp_path

The files are in exactly the published formats; published sizes that are no options are replaced.
"""

import hashlib

import numpy as np

from seqzoo import tasks
from seqzoo.tasks import TASKS
from seqzoo.tasks.language import enwik8, pg19, wikitext103
from seqzoo.tasks.series import archive, ppg
from tests.tasks import published

THREE = {"train_size": 3, "validation_size": 3, "test_size": 3}
LETTERS = bytes(range(97, 123)) * 4
ARTICLE = b" \n = Title = \n \n Some words , all told . \n"
SPLITS = ("train", "validation", "test")


def build(name, root, monkeypatch):
    """The task on what `root` holds, which is made here."""
    if name in FILES:
        return tasks.build(name, **{"data": str(root), **FILES[name](root, monkeypatch)})
    sized = hasattr(TASKS[name], "train_size") and "digits" not in name
    return tasks.build(name, **(THREE if sized else {}))


def _text(root, _):
    published.imdb_parquet(root)
    return dict.fromkeys(THREE, 4)


def _retrieval(root, _):
    published.aan(root)
    return THREE


def _cifar(root, _):
    published.cifar_binary(root, published.cifar(10), published.cifar(3))
    return {"train_size": 8, "validation_size": 2, "test_size": 3}


def _mnist(root, _):
    for part, count in (("train", 10), ("t10k", 3)):
        pixels = published.RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        published.idx(root / f"{part}-images-idx3-ubyte", pixels)
        published.idx(root / f"{part}-labels-idx1-ubyte", np.arange(count))
    return {"train_size": 8, "validation_size": 2, "test_size": 3}


def _pathfinder(side):
    def write(root, _):
        published.pathfinder(root / f"pathfinder{side}/curv_contour_length_14", size=side)
        return {"train_size": 4, "validation_size": 1, "test_size": 1}

    return write


def _speech(root, _):
    published.folder_of(root, published.speech_files())
    return dict.fromkeys(THREE, 2)


def _bytes(root, _):
    (root / "text").write_bytes(LETTERS)
    return {"length": 4}


def _python_source(root, _):
    for i in range(20):
        (root / f"m{i:02}.py").write_text(f"x = {i}\n")
    return {"length": 4}


def _hutter(root, monkeypatch):
    data = LETTERS[:100]
    enwik8._whole.cache_clear()
    for kind in (enwik8.Enwik8, enwik8.Text8):
        monkeypatch.setattr(kind, "SIZE", 100)
        monkeypatch.setattr(kind, "HELD_OUT", 5)
        monkeypatch.setattr(kind, "MD5", hashlib.md5(data).hexdigest())
        (root / kind.name).write_bytes(data)
    return {"length": 4}


def _wikitext(root, monkeypatch):
    wikitext103._text_of_wikipedia.cache_clear()
    kind, lines = wikitext103.WikiText103, ARTICLE.count(b"\n")
    monkeypatch.setattr(kind, "LINES", dict.fromkeys(SPLITS, lines))
    monkeypatch.setattr(kind, "WORDS", dict.fromkeys(SPLITS, len(ARTICLE.split()) + lines))
    for short in ("train", "valid", "test"):
        (root / f"wiki.{short}.tokens").write_bytes(ARTICLE)
    return {"length": 4}


def _books(root, monkeypatch):
    pg19._books.cache_clear()
    monkeypatch.setattr(pg19.PG19, "BOOKS", dict.fromkeys(SPLITS, 2))
    for split in SPLITS:
        published.folder_of(root / split, {"10.txt": b"a book", "11.txt": b"another"})
    return {"length": 4}


def _rows(root, _):
    rows = "".join(f"{'ab' * (1 + i % 3)},{'xy'[i % 2]}\n" for i in range(20))
    (root / "own").mkdir()
    (root / "own" / "rows.csv").write_text("text,label\n" + rows)
    return {"data": str(root / "own"), "inputs": "text", "target": "label"}


def _uea(root, monkeypatch):
    monkeypatch.setitem(archive.SIZES, "Steps", archive.Size(14, 6, 5, 2, 2))
    rows, labels = published.series(20)
    published.series_ts(root / "Steps_TRAIN.ts", rows[:14], labels[:14])
    published.series_ts(root / "Steps_TEST.ts", rows[14:], labels[14:])
    return {"dataset": "Steps"}


def _ppg(root, monkeypatch):
    monkeypatch.setattr(ppg, "STEPS", 256)
    for split in ("train", "val", "test"):
        np.save(root / f"X_{split}.npy", published.RNG.uniform(-1, 1, (2, 256, 6)))
        np.save(root / f"y_{split}.npy", published.RNG.uniform(-1, 1, (2, 2)))
    return {}


def _fasta(root, _):
    (root / "a.fa").write_text(published.fasta(("one", 400), ("two", 200)))
    return {"length": 4}


def _species(root, _):
    _fasta(root, None)
    (root / "b.fna").write_text(published.fasta(("other", 400)))
    return {"length": 4, **THREE}


FILES = {  # task -> writes its files, returns the options that they need
    "text": _text,
    "retrieval": _retrieval,
    "image": _cifar,
    "scifar": _cifar,
    "smnist": _mnist,
    "psmnist": _mnist,
    "pathfinder": _pathfinder(32),
    "path_x": _pathfinder(128),
    "speech_commands": _speech,
    "bytes": _bytes,
    "python_source": _python_source,
    "enwik8": _hutter,
    "text8": _hutter,
    "wikitext103": _wikitext,
    "pg19": _books,
    "rows": _rows,
    "genome": _fasta,
    "genome_species": _species,
    "uea": _uea,
    "ppg_dalia": _ppg,
}
