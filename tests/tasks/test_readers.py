"""Every reader of files against every fault: the right examples, or one sentence that helps."""

import dataclasses
import gzip
import os
import re
import shutil
import threading
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqzoo import tasks
from seqzoo.tasks.data import digest
from seqzoo.tasks.data import identity as identities
from seqzoo.tasks.data.folders import stray
from seqzoo.tasks.data.identity import changes, identity
from seqzoo.tasks.language import enwik8, modelling, pg19, wikitext103
from tests.tasks import published, small

SPLITS = ("train", "validation", "test")
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n"
EIGHT = {"train_size": 8, "validation_size": 2, "test_size": 3}
FOUR = dict.fromkeys(small.THREE, 4)


def emptied(root):
    """Name -> content of all files of a folder, which are taken away."""
    found = {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def as_tar(name):
    return lambda root: published.tar(root / name, emptied(root))


def as_zip(name):
    def change(root):
        contents = emptied(root)
        with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in contents.items():
                archive.writestr(f"folder/{member}", content)

    return change


def as_packed(pattern):
    return lambda root: as_gzip(root, pattern)


def as_gzip(root, pattern="*ubyte"):
    for path in list(root.glob(pattern)):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def as_array(root):
    (file,) = root.glob("*/*/metadata/1.npy")
    np.save(file, np.array([line.split() for line in file.read_text().splitlines()]))


def as_rows(*names, folder="data"):
    """Parquet with the files called so, one row each, in place of them."""

    def change(root):
        for split, name in zip(SPLITS, names, strict=True):
            files = sorted(path for path in root.glob(name) if path.name[0] != ".")
            texts = [path.read_text() for path in files]
            for path in files:
                path.unlink()
            path = root / folder / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(exist_ok=True)
            pq.write_table(pa.table({"text": texts}), path, write_page_checksum=True)

    return change


def text8_cut(root):
    data = emptied(root)["text8"].decode()
    for name, part in (("a", data[:90]), ("b", data[90:95]), ("c", data[95:])):
        (root / name).write_text(part)
    as_rows("a", "b", "c")(root)


def imdb_files(root, _):
    published.folder_of(root, published.imdb_files())
    return FOUR


def with_pictures(column, side, channels):
    def write(root, _):
        for split, count in (("train", 10), ("test", 3)):
            shape = (count, side, side, channels)
            pixels = published.RNG.integers(0, 256, shape, dtype=np.uint8)
            made = [published.png(x, filters=(2,)) for x in pixels]
            path = root / f"{split}-00000-of-00001.parquet"
            published.picture_parquet(path, column, made, np.arange(count))
        return EIGHT

    return write


def listops(root, _):
    lines = "Source\tTarget\n( ( ( [MAX 3 ) 9 ) ] )\t9\n[SM 9 4 ]\t3\n[MIN 5 2 ]\t2\n"
    for name in ("train", "val", "test"):
        (root / f"basic_{name}.tsv").write_text(lines)
    return small.THREE


def uea_arff(root, monkeypatch):
    options = small.FILES["uea"](root, monkeypatch)
    for path in list(root.glob("*.ts")):
        path.unlink()
    rows, labels = published.series(20)
    published.series_arff(root / "Steps_TRAIN.arff", rows[:14], labels[:14])
    published.series_arff(root / "Steps_TEST.arff", rows[14:], labels[14:])
    return options


class Reader(NamedTuple):
    """A format: its task, the file that is damaged, what makes the files and what changes them."""

    task: str
    victim: str  # a pattern below the folder
    change: object = lambda root: None
    write: object = None
    cuts: bool = True  # a shorter file can be told
    flips: bool = False  # a flipped byte can be told
    lines: bool = False  # edited by people
    anything: bool = False  # any bytes are an example


TARS = "aclImdb_v1.tar.gz", "cifar-10-binary.tar.gz", "speech_commands_v0.02.tar.gz"
WORDS = ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")
BOOKS = tuple(f"{split}/*.txt" for split in SPLITS)
READERS = {
    "IMDB in Parquet": Reader("text", "plain_text/test-*"),
    "IMDB in folders": Reader("text", "*/test/pos/1_7.txt", write=imdb_files, cuts=False),
    "IMDB in its archive": Reader("text", TARS[0], as_tar(TARS[0]), imdb_files, flips=True),
    "AAN": Reader("retrieval", "*.test.tsv", lines=True),
    "CIFAR-10": Reader("scifar", "test_batch.bin"),
    "CIFAR-10 in its archive": Reader("scifar", TARS[1], as_tar(TARS[1]), flips=True),
    "CIFAR-10 in Parquet": Reader("scifar", "test-*", write=with_pictures("img", 32, 3)),
    "MNIST": Reader("smnist", "t10k-images-idx3-ubyte"),
    "MNIST's labels": Reader("smnist", "t10k-labels-idx1-ubyte"),
    "MNIST in gzip": Reader("smnist", "t10k-images*", as_gzip, flips=True),
    "MNIST in Parquet": Reader("smnist", "test-*", write=with_pictures("image", 28, 1)),
    "Pathfinder's pictures": Reader("pathfinder", "*/*/imgs/1/sample_4.png", flips=True),
    "Pathfinder's list": Reader("pathfinder", "*/*/metadata/1.npy", lines=True),
    "Pathfinder's array": Reader("pathfinder", "*/*/metadata/1.npy", as_array),
    "Speech": Reader("speech_commands", "zero/ab2*"),
    "Speech's list": Reader("speech_commands", "testing_list.txt", lines=True),
    "Speech's archive": Reader("speech_commands", TARS[2], as_tar(TARS[2]), flips=True),
    "ListOps": Reader("listops", "basic_test.tsv", write=listops, lines=True),
    "enwik8": Reader("enwik8", "enwik8", flips=True),
    "enwik8 in zip": Reader("enwik8", "enwik8.zip", as_zip("enwik8.zip"), flips=True),
    "text8 in Parquet": Reader("text8", "data/test-*", text8_cut, flips=True),
    "WikiText": Reader("wikitext103", WORDS[2], lines=True),
    "WikiText in zip": Reader("wikitext103", "*.zip", as_zip("wikitext-103-v1.zip"), flips=True),
    "WikiText in Parquet": Reader(
        "wikitext103", "*/test-*", as_rows(*WORDS, folder="wikitext-103-v1"), flips=True
    ),
    "PG-19": Reader("pg19", "test/10.txt", cuts=False, anything=True),
    "PG-19 in Parquet": Reader("pg19", "data/test-*", as_rows(*BOOKS), flips=True),
    "UEA": Reader("uea", "Steps_TEST.ts", lines=True),
    "UEA as ARFF": Reader("uea", "Steps_TEST.arff", write=uea_arff, lines=True),
    "PPG-DaLiA": Reader("ppg_dalia", "X_test.npy"),
    "FASTA": Reader("genome", "a.fa", cuts=False, lines=True),
    "FASTA in gzip": Reader("genome", "a.fa.gz", as_packed("a.fa"), flips=True),
    "any text": Reader("bytes", "text", cuts=False, anything=True),
}


@pytest.fixture(params=READERS.values(), ids=READERS.keys())
def reader(request):
    return request.param


def build(reader, root, monkeypatch, strays=lambda root: None):
    """The task on files below `root`, and the file to damage."""
    root.mkdir()
    monkeypatch.setattr(published, "RNG", np.random.default_rng(0))
    options = (reader.write or small.FILES[reader.task])(root, monkeypatch)
    strays(root)
    reader.change(root)
    strays(root)
    (victim,) = (p for p in root.glob(reader.victim) if not stray(p.relative_to(root)))
    return tasks.build(reader.task, data=str(root), **options), victim


def held_out(task, split="test"):
    """The examples of a split, from the files as they are now."""
    for cached in (enwik8._whole, pg19._books, wikitext103._text_of_wikipedia):
        cached.cache_clear()
    for cached in (modelling._text_of, modelling._stream_of, modelling._stream_for):
        cached.cache_clear()
    shutil.rmtree(Path(task.data) / TARS[2].removesuffix(".tar.gz"), ignore_errors=True)
    source = task.source(split)
    return [
        {name: np.asarray(value).tobytes() for name, value in source[i].items()}
        for i in range(len(source))
    ]


def outcome(task, victim):
    """The examples, or the one sentence that names the file and says what to do."""
    try:
        return held_out(task)
    except ValueError as error:
        said = str(error)
        assert victim.name in said or f"files in {task.data} hold" in said
        assert re.search(r"fetch|git lfs pull|set (these|that) option", said), said
        assert "\n" not in said
        assert len(said) < 700
        return said


@pytest.mark.of_the_day
def test_a_damaged_file_is_named(reader, tmp_path, monkeypatch):
    task, victim = build(reader, tmp_path / "data", monkeypatch)
    whole, right = victim.read_bytes(), held_out(task)

    def told(content):
        victim.write_bytes(content)
        return outcome(task, victim)

    assert "Git LFS pointer" in told(POINTER)
    if not reader.anything:
        assert "is empty" in told(b"") or "in folders" in str(reader) or not reader.cuts
        assert "a page for browsers" in told(PAGE)
        other = b"\x80\x04pickle" if victim.suffix != ".zip" else gzip.compress(b"text")
        assert isinstance(told(other), str)
    size = len(whole)
    for end in (size // 3, 2 * size // 3, size - 9, size - 1) if reader.cuts else ():
        found = told(whole[:end])
        assert isinstance(found, str) or found == right, end
        assert isinstance(found, str) or end == size - 1, end
    told_apart = 0
    for place in np.linspace(0, size - 1, 9).astype(int) if reader.flips else ():
        found = told(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert isinstance(found, str) or found == right, place
        told_apart += isinstance(found, str)
    assert told_apart >= 2 * reader.flips
    assert told(whole) == right


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.lines])
def test_texts_are_read_as_people_save_them(name, tmp_path, monkeypatch):
    task, victim = build(READERS[name], tmp_path / "data", monkeypatch)
    whole, right = victim.read_bytes().replace(b"\r\n", b"\n"), held_out(task)
    for saved in (
        whole.rstrip(b"\n") if name != "WikiText" else whole,  # whose lines are counted
        whole + b"\n\n",
        b"\xef\xbb\xbf" + whole,
        whole.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + whole.replace(b"\n", b"\r\n") + b"\r\n",
    ):
        victim.write_bytes(saved)
        assert held_out(task) == right, saved[:40]


def strew(root):
    """What systems leave in every folder, copies of the real files among them."""
    files = [path for path in root.rglob("*") if path.is_file()]
    for folder in {path.parent for path in files}:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".nfs000000001", ".~lock.a#"):
            (folder / name).write_bytes(b"\x00\x05\x16\x07")
    for path in files:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07 a resource fork")
        for left in ("__MACOSX", "lost+found", ".Trash-0"):
            copy = root / left / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())


@pytest.mark.of_the_day
def test_a_pipe_is_no_file_and_is_not_waited_for(reader, tmp_path, monkeypatch):
    task, victim = build(reader, tmp_path / "data", monkeypatch)
    victim.unlink()
    os.mkfifo(victim)
    writing = threading.Timer(20, lambda: os.close(os.open(victim, os.O_WRONLY | os.O_NONBLOCK)))
    writing.start()  # ends the wait of who waits
    started = time.monotonic()
    with pytest.raises((ValueError, FileNotFoundError)):
        held_out(task)
    writing.cancel()
    assert time.monotonic() - started < 20


@pytest.mark.of_the_day
def test_strays_are_no_examples(reader, tmp_path, monkeypatch):
    task, _ = build(reader, tmp_path / "clean", monkeypatch)
    right = {split: held_out(task, split) for split in SPLITS}
    task, _ = build(reader, tmp_path / "strewn", monkeypatch, strew)
    assert {split: held_out(task, split) for split in SPLITS} == right


def test_data_are_what_they_hold_and_not_where_they_are(reader, tmp_path, monkeypatch):
    task, victim = build(reader, tmp_path / "data", monkeypatch)
    before = identity(task)
    assert before.keys() == set(SPLITS)
    victim = victim.relative_to(tmp_path / "data")
    (tmp_path / "data").rename(tmp_path / "moved and renamed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("moved and renamed")
    for spelled in (tmp_path / "moved and renamed", "moved and renamed/../link", "link/"):
        assert changes(before, identity(dataclasses.replace(task, data=str(spelled)))) == []
    path = tmp_path / "link" / victim
    times, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    if victim.name == TARS[2]:  # which has been unpacked beside itself
        return
    try:
        moved = identity(dataclasses.replace(task, data=str(tmp_path / "link")))
        said = " ".join(changes(before, moved))
    except ValueError as error:  # a list that names what is not there
        said = str(error)
    assert victim.name in said


def test_large_data_are_sampled_and_read_whole_when_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(digest, "BLOCK", 16)
    monkeypatch.setattr(identities, "READ", 20)
    monkeypatch.setattr(identities, "ENTRIES", 8)
    for i in range(100):
        (tmp_path / f"{i:04}.txt").write_bytes(bytes(4800))
    task = tasks.build("bytes", data=str(tmp_path), pattern="*.txt", splits="cut")
    cheap, whole = (identity(task, ("train",), whole=w) for w in (False, True))
    assert len(cheap["train"]) == 8

    def changed(name, content):
        path = tmp_path / name
        kept = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        now = [identity(task, ("train",), whole=w) for w in (False, True)]
        found = [changes(*pair) for pair in zip((cheap, whole), now, strict=True)]
        path.unlink() if kept is None else path.write_bytes(kept)
        return [len(lines) for lines in found]

    edited = bytes(2400) + b"x" + bytes(2399)
    assert changed("0001.txt", edited) == [0, 1]  # of the same size, and no sample
    assert changed("0001.txt", edited + b"x") == [1, 1]
    assert changed("0000.txt", b"x" + bytes(4799)) == [1, 1]  # a sample
    assert min(changed("0100.txt", b"")) > 0


def test_what_has_changed_is_said():
    before = {"train": {"a": "1", "b": "2"}, "validation": {"c": "3"}}
    assert changes(before, {"train": {"x": "1", "y": "2"}, "validation": {"z": "3"}}) == []
    now = {"train": {"a": "1", "b": "4", "d": "5"}}
    assert changes(before, now) == [
        "train: b has another content",
        "train: d is new",
        "validation: c is gone",
    ]


def test_made_examples_have_no_files():
    assert identity(tasks.build("mqar")) == {}
    assert identity(tasks.build("next_token:listops")) == {}
