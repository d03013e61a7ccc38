import errno
import json
import multiprocessing
import os
import pickle
import pwd
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data import cache
from seqzoo.tasks.lra.listops import GeneratedRows

KEY = {"task": "toy", "split": "train", "seed": 0}


class Toy:
    """Rows that can be counted."""

    def __init__(self, size=1300):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"tokens": np.arange(i % 7, dtype=np.uint8), "target": np.float32(i / 2)}


def equal(rows, others, count=None):
    return len(rows) == len(others) and all(
        np.array_equal(rows[i][name], others[i][name]) and rows[i][name].dtype == column.dtype
        for i in range(len(rows))
        for name, column in others[i].items()
    )


def test_what_is_read_is_what_was_written(cache_folder):
    assert cache.find(KEY) is None
    kept = cache.write(KEY, Toy())  # three chunks
    assert equal(kept, Toy())
    assert equal(cache.find(KEY), Toy())
    assert equal(pickle.loads(pickle.dumps(kept)), Toy())
    assert cache.find(KEY | {"seed": 1}) is None
    assert [path.parent for path in [kept.path]] == [cache_folder]
    assert not list(cache_folder.glob(".*"))
    for wrong in (-1, 1300):
        with pytest.raises(IndexError):
            kept[wrong]


def test_the_set_is_a_datasets_folder():
    import datasets

    kept = cache.write(KEY, Toy(3))
    loaded = datasets.load_from_disk(str(kept.path))
    assert loaded[2] == {"tokens": [0, 1], "target": 1.0}
    assert json.loads((kept.path / "key.json").read_text()) == KEY


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SEQZOO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.folder() == tmp_path / "xdg" / "seqzoo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.folder() == tmp_path / ".cache" / "seqzoo"


def test_threads_read_the_same():
    kept = cache.write(KEY, Toy())
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(kept.__getitem__, range(1300)))
    assert equal(read, Toy())


def test_a_damaged_set_is_named(cache_folder):
    path = cache.write(KEY, Toy()).path
    arrow = next(path.glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[: arrow.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        cache.find(KEY)


def test_the_slower_of_two_writers_takes_what_is_there(cache_folder):
    cache.write(KEY, Toy())
    assert equal(cache.write(KEY, Toy(5)), Toy())
    assert len(list(cache_folder.iterdir())) == 1


def test_a_failing_row_leaves_nothing(cache_folder):
    class Failing(Toy):
        def __getitem__(self, i):
            raise ValueError(f"row {i}")

    with pytest.raises(ValueError, match="row 0"):
        cache.write(KEY, Failing())
    assert not list(cache_folder.iterdir())


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Where a cache that cannot be written is replaced, anew for this test."""
    monkeypatch.setattr(cache, "_stand_in", None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    yield tmp_path / "tmp"
    if cache._stand_in:
        cache._stand_in.cleanup()


def no_home(monkeypatch, tmp_path):
    for name in ("HOME", "SEQZOO_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: {}["no such user"])


def below_a_file(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQZOO_CACHE", str(tmp_path / "file" / "below"))


def full_from_the_start(monkeypatch, tmp_path):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "_try", full)


def full_on_the_way(monkeypatch, tmp_path):
    def save(chunks, path, name, real=cache._save):
        if path.is_relative_to(cache.folder()):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(chunks, path, name)

    monkeypatch.setattr(cache, "_save", save)


@pytest.mark.parametrize("trouble", [no_home, below_a_file, full_from_the_start, full_on_the_way])
def test_without_a_cache_sets_live_as_long_as_the_process(monkeypatch, tmp_path, stand_in, trouble):
    trouble(monkeypatch, tmp_path)
    task = build("listops_short", train_size=8, test_size=8)
    with pytest.warns(UserWarning, match="until this command ends") as said:
        source = task.source("test")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task.prepare("train")
    assert len(said) == 1
    for split, made in (("test", source), ("train", task.source("train"))):
        assert made.rows.path.is_relative_to(stand_in)
        assert task.source(split).rows.path == made.rows.path  # found again, not made again


def test_where_nothing_can_be_written_examples_are_made_when_they_are_read(
    monkeypatch, tmp_path, stand_in
):
    below_a_file(monkeypatch, tmp_path)
    stand_in.rmdir()
    stand_in.write_text("")
    task = build("listops_short", train_size=8, test_size=8)
    with pytest.warns(UserWarning, match="SEQZOO_CACHE"):
        source = task.source("test")
    assert isinstance(source.rows, GeneratedRows)
    with pytest.raises(OSError, match="tmp"):
        task.prepare("train")


def test_train_sets_are_cached_when_prepared_and_test_sets_at_first_use(cache_folder):
    task = build("listops_short", train_size=20, test_size=10)
    lazy = task.source("train")
    assert isinstance(lazy.rows, GeneratedRows)
    assert not cache_folder.exists()
    task.prepare("train")
    cached = task.source("train")
    assert isinstance(cached.rows, cache.CachedRows)
    for i in range(20):
        for name, array in lazy[i].items():
            assert np.array_equal(cached[i][name], array)
            assert cached[i][name].dtype == array.dtype
    assert isinstance(task.source("train", seed=1).rows, GeneratedRows)
    assert isinstance(task.source("test").rows, cache.CachedRows)
    assert len(list(cache_folder.iterdir())) == 2


def test_several_processes_make_the_same_set():
    task = build("listops_short", train_size=1200)
    alone = [task.source("train", 5).rows[i] for i in range(1200)]
    assert equal(task.prepare("train", 5, progress=False, workers=2).rows, alone)
    assert not multiprocessing.active_children()


SLOW_SAVE = """
import time
import warnings
from seqzoo.tasks.data import cache
from seqzoo.tasks import build
save = cache._save
def slow(chunks, path, name):
    save(chunks, path, name)
    print("saved", flush=True)
    time.sleep(60)
cache._save = slow
build("listops_short", test_size=50).source("test")
"""


def test_a_killed_generation_leaves_no_half_set(cache_folder):
    made = subprocess.Popen([sys.executable, "-c", SLOW_SAVE], stdout=subprocess.PIPE)
    assert made.stdout.readline() == b"saved\n"
    made.kill()
    made.wait()
    left = list(cache_folder.iterdir())
    assert [path.name.startswith(".listops_short-test-") for path in left] == [True]
    task = build("listops_short", test_size=50)
    assert cache.find(task._rows("test", 0).key) is None
    os.utime(left[0], (0, 0))  # the next to write the set sweeps it away, an hour later
    assert len(task.source("test")) == 50
    assert [path.name.startswith("listops_short") for path in cache_folder.iterdir()] == [True]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_parent(cache_folder):
    code = "from seqzoo.tasks import build; build('listops').prepare('train', workers=2)"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        deadline = time.time() + 60
        while len(_session(parent.pid)) < 3 and time.time() < deadline:
            time.sleep(0.2)
        assert len(_session(parent.pid)) >= 3
        time.sleep(5)
        parent.kill()
        parent.wait()
        while _session(parent.pid) and time.time() < deadline:
            time.sleep(0.2)
        assert not _session(parent.pid)
        assert not list(cache_folder.glob("listops-*"))
    finally:
        for pid in _session(parent.pid):
            os.kill(pid, signal.SIGKILL)


def _session(leader):
    """The processes of a session, by /proc/<pid>/stat; zombies do not count."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                state, _, _, session = file.read().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(name))
    return found


class Counted(Toy):
    """Rows that leave a mark in a folder when they are made, and fail at one index."""

    chunk = 10

    def __init__(self, marks, fails_at=None):
        super().__init__(64)
        self.marks, self.fails_at = marks, fails_at

    def __getitem__(self, i):
        if i == self.fails_at:
            raise ValueError(f"row {i}")
        (self.marks / f"{i}").touch()
        return super().__getitem__(i)


def test_an_interrupted_set_is_continued(tmp_path, cache_folder):
    marks = tmp_path / "marks"
    marks.mkdir()
    with pytest.raises(ValueError, match="row 45"):
        cache.write(KEY, Counted(marks, fails_at=45), workers=1, progress=False)
    assert cache.find(KEY) is None
    (parts,) = cache_folder.iterdir()
    made = {int(path.stem) for path in parts.iterdir()}
    assert made >= {0, 10, 20, 30}
    assert 40 not in made
    (parts / "20.arrow").write_bytes(b"cut")  # a damaged part is made again
    os.utime(parts, (0, 0))  # and an old one is not swept away
    for mark in marks.iterdir():
        mark.unlink()
    kept = cache.write(KEY, Counted(marks), workers=1, progress=False)
    assert equal(kept, Toy(64))
    again = set(range(64)) - {i for begin in made - {20} for i in range(begin, begin + 10)}
    assert {int(mark.name) for mark in marks.iterdir()} == again
    assert list(cache_folder.iterdir()) == [kept.path]
