import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data import atomic, cache
from seqzoo.tasks.data import cache_folder as folders
from seqzoo.tasks.language import corpus
from seqzoo.tasks.language.compressors import bits_per_byte
from seqzoo.tasks.language.tokenizers import bpe


@pytest.fixture(autouse=True)
def no_spare():
    folders._temporary.cache_clear()
    yield
    folders._temporary.cache_clear()


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SEQZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert folders.folder() == tmp_path / "xdg" / "seqzoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folders.folder() == tmp_path / ".cache" / "seqzoo"
    monkeypatch.setenv("SEQZOO_CACHE", "~/own")
    assert folders.folder() == tmp_path / "own"


def no_home(monkeypatch, _):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("SEQZOO_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", unknown)


def below_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQZOO_CACHE", str(tmp_path / "file" / "below"))


def not_for_writing(monkeypatch, _):
    monkeypatch.setenv("SEQZOO_CACHE", "/proc/seqzoo")


def full(monkeypatch, tmp_path):
    sync = os.fsync

    def fsync(handle):
        if str(tmp_path) in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(28, "No space left on device")
        sync(handle)

    replace = os.replace

    def renamed(old, new):
        if str(tmp_path) in str(new):
            raise OSError(28, "No space left on device")
        replace(old, new)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    monkeypatch.setattr(atomic.os, "replace", renamed)


def nowhere(monkeypatch, tmp_path):
    below_a_file(monkeypatch, tmp_path)

    def refuse(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(folders.tempfile, "TemporaryDirectory", refuse)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("fault", [no_home, below_a_file, not_for_writing, full, nowhere])
def test_without_a_folder_everything_goes_on_and_that_is_said_once(tmp_path, monkeypatch, fault):
    fault(monkeypatch, tmp_path)
    text = corpus.joined([b"some words, some more words " * 20])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        task = build("listops_short", train_size=8, test_size=8)
        kept = [task.prepare("train", progress=False), task.source("test"), task.source("test")]
        assert [len(source) for source in kept] == [8, 8, 8]
        assert bits_per_byte(text.data)["xz -9"] < 8
        assert bpe(text, 260, "key").decode(bpe(text, 260, "key").encode(b"some")) == b"some"
        for _ in range(2):
            data, starts = corpus.kept_arrays("a", np.uint16, lambda: iter([[1, 2], [3]]))
            assert (data.tolist(), starts.tolist()) == ([1, 2, 3], [0, 2, 3])
    found = [str(w.message) for w in said if w.category is UserWarning]
    assert len(found) == 1
    assert "set SEQZOO_CACHE to a folder that can be written" in found[0]
    assert isinstance(kept[1].rows, cache.CachedRows) == (fault is not nowhere)
    if fault is not nowhere:  # found again, not made again
        assert kept[1].rows.path == kept[2].rows.path
    if fault is not full:  # which the probe would have to fill
        with pytest.raises(ValueError, match="set SEQZOO_CACHE"):
            folders.check_writable()


def test_a_cache_that_is_only_read_is_read(tmp_path, monkeypatch):
    task = build("listops_short", test_size=8)
    there = task.source("test").rows.path
    full(monkeypatch, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert task.source("test").rows.path == there


def test_errors_of_the_data_are_not_those_of_the_cache(tmp_path):
    class Unreadable:
        def __len__(self):
            return 1

        def __getitem__(self, i):
            return {"x": np.frombuffer((tmp_path / "gone").read_bytes(), np.uint8)}

    with pytest.raises(FileNotFoundError, match="gone"):
        cache.keep({"task": "toy", "split": "train"}, Unreadable())


def test_what_is_damaged_is_made_again(cache_folder):
    text = corpus.joined([b"some words, some more words " * 20])
    first = bits_per_byte(text.data), bpe(text, 260, "key").encode(b"some").tolist()
    for path in cache_folder.iterdir():
        for content in ("", "{", "[1]", '{"a": "b"}', "<html>"):
            path.write_text(content)
            again = bits_per_byte(text.data), bpe(text, 260, "key").encode(b"some").tolist()
            assert again == first
            assert json.loads(path.read_text())


def test_damaged_arrays_are_named(cache_folder):
    corpus.kept_arrays("a", np.uint16, lambda: iter([[1, 2], [3]]))
    for file in ("data.bin", "starts.npy"):
        whole = (cache_folder / "a" / file).read_bytes()
        for content in (b"", whole[:-1], bytes([whole[0] ^ 1]) + whole[1:], b"<html>"):
            (cache_folder / "a" / file).write_bytes(content)
            with pytest.raises(ValueError, match=r"a is damaged \(.*delete this folder"):
                corpus.kept_arrays("a", np.uint16, lambda: iter([]))
        (cache_folder / "a" / file).write_bytes(whole)


@pytest.mark.of_the_day("no home", 3)
def test_nobody_without_a_home_needs_one(tmp_path):
    code = """
import os, pwd
pwd.getpwuid = lambda uid: (_ for _ in ()).throw(KeyError(uid))
from seqzoo import tasks
print(len(tasks.build("listops_short", test_size=8).source("test")))
"""
    keep = {k: v for k, v in os.environ.items() if k not in ("HOME", "SEQZOO_CACHE")}
    done = subprocess.run([sys.executable, "-c", code], env=keep, capture_output=True, text=True)
    assert done.stdout == "8\n", done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("SEQZOO_CACHE") == 1
