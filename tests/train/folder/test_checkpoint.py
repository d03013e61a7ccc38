"""Checkpoints are whole or absent, and damage of every kind is found."""

import json
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from seqzoo.train.folder import checkpoint
from seqzoo.train.folder.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.folder.lease import LeaseLostError

STATE = {"a": jax.numpy.arange(6.0), "step": jax.numpy.int32(1)}


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path, keep=2)
    for step in (5, 10):
        made.save({**STATE, "step": jax.numpy.int32(step)}, {"step": step})
    made.wait()
    yield made
    made.close()


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "flipped bit": flip,
    "truncated": halve,
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_to_any_file_falls_back_to_the_newest_whole_one(checkpoints, kind):
    newest, kept = checkpoints.folder / "10", checkpoints.folder / "kept"
    shutil.copytree(newest, kept)
    files = sorted(p.relative_to(newest) for p in newest.rglob("*") if p.is_file())
    assert len(files) > 8
    for name in files:
        DAMAGE[kind](newest / name)
        said = []
        assert checkpoints.newest_whole(said.append) == 5, name
        assert "checkpoint 10 is damaged" in said[0]
        shutil.rmtree(newest)
        shutil.copytree(kept, newest)
    assert checkpoints.newest_whole(said.append) == 10


STRAYS = (
    ".DS_Store",
    "._meta.json",
    "Thumbs.db",
    "desktop.ini",
    ".nfs000000000001",
    "meta (1).json",
)


def test_what_others_leave_there_is_no_damage(checkpoints):
    """File managers, network file systems, backups: in every folder, and beside the checkpoints."""
    folders = [p for p in checkpoints.folder.rglob("*") if p.is_dir()]
    for folder in (checkpoints.folder, *folders):
        for name in STRAYS:
            (folder / name).write_bytes(b"stray")
    (checkpoints.folder / "20").write_bytes(b"no folder")
    (checkpoints.folder / "10 (copy)").mkdir()
    said = []
    assert checkpoints.newest_whole(said.append) == 10
    assert said == []
    assert checkpoints.restore(10, like_of(STATE))["step"] == 10
    checkpoints.save(STATE, {"step": 15})
    checkpoints.wait()
    assert checkpoints.steps() == [10, 15]


def like_of(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def test_what_an_earlier_owner_left_unfinished_is_swept_away(checkpoints):
    left = checkpoints.folder / "15.abc.partial"
    left.mkdir()
    checkpoints.sweep()
    assert not left.exists()
    assert checkpoints.steps() == [5, 10]


def test_who_has_lost_the_folder_adds_and_removes_nothing(tmp_path):
    def lost():
        raise LeaseLostError("taken over")

    made = Checkpoints(tmp_path, keep=1)
    made.save(STATE, {"step": 1})
    made.wait()
    made._guard = lost
    with pytest.raises(LeaseLostError):
        made.save(STATE, {"step": 2})
    made._guard = lambda: None
    made.save(STATE, {"step": 2})
    made._guard = lost  # while it is being written
    with pytest.raises(LeaseLostError):
        made.wait()
    assert made.steps() == [1]
    made.close()


def test_a_round_trip_is_exact(checkpoints):
    state = checkpoints.restore(10, like_of(STATE))
    assert state["step"] == 10
    np.testing.assert_array_equal(state["a"], STATE["a"])
    assert checkpoints.meta(10) == {"step": 10}


def test_neither_a_write_nor_its_digests_hold_up_the_loop(tmp_path, monkeypatch):
    made, allowed = Checkpoints(tmp_path), threading.Event()
    whole = checkpoint._entry

    def entry(*path):
        _ = allowed.wait(10) or allowed.set()
        return whole(*path)

    monkeypatch.setattr(checkpoint, "_entry", entry)
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = step(jax.tree.map(jax.numpy.copy, STATE))
    made.save(state, {"step": 1})
    assert not made.steps()  # the digests wait, the loop does not
    state = step(step(state))  # on the same memory, where the device can
    allowed.set()
    made.wait()
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    np.testing.assert_array_equal(made.restore(1, like)["a"], STATE["a"] + 1)
    made.close()


def test_if_all_are_damaged_it_stops_and_says_so(checkpoints):
    for step in (5, 10):
        flip(checkpoints.folder / str(step) / "meta.json")
    with pytest.raises(CheckpointError, match="no whole checkpoint is left"):
        checkpoints.newest_whole(print)


def test_a_checkpoint_that_was_never_finished_does_not_count(checkpoints, tmp_path):
    (checkpoints.folder / "10").rename(checkpoints.folder / "15.partial")
    assert checkpoints.steps() == [5]
    assert Checkpoints(tmp_path / "new").newest_whole(print) is None


def test_the_newest_and_the_best_are_kept(checkpoints):
    for step in (15, 20, 25):
        checkpoints.save(STATE, {"step": step}, keep_also=5)
    checkpoints.wait()
    assert checkpoints.steps() == [5, 20, 25]


def test_a_damaged_one_is_replaced_when_its_step_comes_again(checkpoints):
    flip(checkpoints.folder / "10" / "meta.json")
    checkpoints.save(STATE, {"step": 10})
    checkpoints.wait()
    assert checkpoints.fault(10) is None


@pytest.mark.parametrize("where", ["orbax", "manifest"])
def test_a_failed_write_leaves_the_earlier_ones_whole(checkpoints, monkeypatch, where):
    def full(*_):
        raise OSError(28, "No space left on device")

    if where == "orbax":
        monkeypatch.setattr(checkpoints._orbax, "save", full)
    else:
        monkeypatch.setattr(checkpoint, "write_atomically", full)

    def save():
        checkpoints.save(STATE, {"step": 15})
        checkpoints.wait()

    with pytest.raises(CheckpointError, match=r"No space left on device.*steps 5, 10"):
        save()
    assert [p.name for p in sorted(checkpoints.folder.iterdir())] == ["10", "5"]
    assert checkpoints.newest_whole(print) == 10


@pytest.mark.of_the_day("no large files", 3)
def test_a_storage_that_refuses_large_files_leaves_the_earlier_ones_whole(tmp_path):
    """The kernel refuses the write, as it does on a full disk."""
    code = """
import resource, signal, sys, jax
from seqzoo.train.folder.checkpoint import CheckpointError, Checkpoints
from seqzoo.train.folder.lease import LeaseLostError
c = Checkpoints(sys.argv[1])
c.save({"a": jax.numpy.ones(4)}, {"step": 1}); c.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    c.save({"a": jax.random.normal(jax.random.key(0), (1_000_000,))}, {"step": 2}); c.wait()
except CheckpointError as error:
    print("refused:", error)
print(c.steps(), c.newest_whole(print))
c.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert "refused: the checkpoint of step 2 could not be written" in done.stdout, done.stderr
    assert done.stdout.strip().endswith("[1] 1")


def test_the_manifest_lists_every_other_file(checkpoints):
    folder = checkpoints.folder / "10"
    listed = json.loads((folder / "manifest.json").read_text())["files"]
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert listed.keys() == there - {"manifest.json"}
