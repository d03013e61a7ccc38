import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data import cache, digest
from seqzoo.tasks.data.cache_folder import thorough
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
    kept = cache.keep(KEY, Toy())  # three chunks
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

    kept = cache.keep(KEY, Toy(3))
    loaded = datasets.load_from_disk(str(kept.path))
    assert loaded[2] == {"tokens": [0, 1], "target": 1.0}
    assert json.loads((kept.path / "key.json").read_text()) == KEY


def test_threads_read_the_same():
    kept = cache.keep(KEY, Toy())
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(kept.__getitem__, range(1300)))
    assert equal(read, Toy())


def test_a_damaged_set_is_named(cache_folder):
    path = cache.keep(KEY, Toy()).path
    arrow = next(path.glob("*.arrow"))
    whole = arrow.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (whole[:middle], flipped, b"", b"<html>"):
        arrow.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{path} is damaged \(.*delete this folder"):
            cache.find(KEY)
    arrow.unlink()
    with pytest.raises(ValueError, match=f"{path} is damaged"):
        cache.find(KEY)
    arrow.write_bytes(whole)
    (path / "sums.json").unlink()  # as earlier versions kept their sets
    assert equal(cache.find(KEY), Toy())


def test_of_large_files_samples_are_checked_and_all_when_asked(monkeypatch):
    monkeypatch.setattr(digest, "BLOCK", 64)
    path = cache.keep(KEY, Toy()).path
    arrow = next(path.glob("*.arrow"))
    whole = arrow.read_bytes()
    assert len(whole) > 4 * digest.BLOCK * digest.SAMPLES
    between = (len(whole) - digest.BLOCK) * 7 // (digest.SAMPLES - 1) + 2 * digest.BLOCK
    for place, seen in ((0, True), (len(whole) - 1, True), (between, False)):
        arrow.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with thorough(), pytest.raises(ValueError, match="not as it was written"):
            cache.find(KEY)
        if seen:
            with pytest.raises(ValueError, match="not as it was written"):
                cache.find(KEY)
        else:
            assert len(cache.find(KEY)) == 1300


def test_the_slower_of_two_writers_takes_what_is_there(cache_folder):
    cache.keep(KEY, Toy())
    assert equal(cache.keep(KEY, Toy(5)), Toy())
    assert len(list(cache_folder.iterdir())) == 1


def test_a_failing_row_leaves_nothing(cache_folder):
    class Failing(Toy):
        def __getitem__(self, i):
            raise ValueError(f"row {i}")

    with pytest.raises(ValueError, match="row 0"):
        cache.keep(KEY, Failing())
    assert not list(cache_folder.iterdir())


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


@pytest.mark.of_the_day("several processes")
def test_several_processes_make_the_same_set():
    task = build("listops_short", train_size=1200)
    alone = [task.source("train", 5).rows[i] for i in range(1200)]
    assert equal(task.prepare("train", 5, progress=False, workers=2).rows, alone)
    assert not multiprocessing.active_children()


SLOW_SAVE = """
import time
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


@pytest.mark.of_the_day("killed generation")
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
        cache.keep(KEY, Counted(marks, fails_at=45), workers=1, progress=False)
    assert cache.find(KEY) is None
    (parts,) = cache_folder.iterdir()
    made = {int(path.stem) for path in parts.iterdir()}
    assert made >= {0, 10, 20, 30}
    assert 40 not in made
    (parts / "20.arrow").write_bytes(b"cut")  # a damaged part is made again
    os.utime(parts, (0, 0))  # and an old one is not swept away
    for mark in marks.iterdir():
        mark.unlink()
    kept = cache.keep(KEY, Counted(marks), workers=1, progress=False)
    assert equal(kept, Toy(64))
    again = set(range(64)) - {i for begin in made - {20} for i in range(begin, begin + 10)}
    assert {int(mark.name) for mark in marks.iterdir()} == again
    assert list(cache_folder.iterdir()) == [kept.path]
