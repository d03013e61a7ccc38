"""One writer: whoever stood still, was killed, started at once or has other clocks."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from seqzoo.train.folder import lease
from seqzoo.train.folder.lease import LEASE, LOOKS, Lease, LeaseError, LeaseLostError
from seqzoo.train.folder.run_folder import RunFolder
from tests.train.folder import writers


class Clock:
    """A clock that goes on when somebody sleeps; what others do meanwhile is called first."""

    def __init__(self):
        self.now, self.slept, self.meanwhile = 1000.0, 0.0, lambda: None

    def sleep(self, seconds):
        self.meanwhile()
        self.now += seconds
        self.slept += seconds


@pytest.fixture
def clock(monkeypatch):
    """Owners whose processes cannot be seen, on a clock that the test sets."""
    made = Clock()
    monkeypatch.setattr(lease, "now", lambda: made.now)
    monkeypatch.setattr(lease.time, "sleep", made.sleep)
    monkeypatch.setattr(lease, "is_this_one", lambda owner: False)
    monkeypatch.setattr(lease, "runs", lambda owner: None)
    monkeypatch.setattr(lease, "_seen", {})
    return made


def acquired(folder, **options):
    made = Lease(folder, lambda text: None)
    made.acquire(**options)
    return made


def content(folder, number):
    return json.loads((folder / lease.LOCK / f"{number}.json").read_text())


def test_an_owner_that_renews_is_refused_after_its_next_sign(tmp_path, clock):
    owner = acquired(tmp_path)
    clock.meanwhile = owner._renew
    with pytest.raises(LeaseError, match="is in use by process"):
        acquired(tmp_path)
    assert clock.slept < LEASE / 2
    owner.guard()


def test_a_dead_owner_is_succeeded_after_one_lease(tmp_path, clock):
    acquired(tmp_path)._ended.set()
    successor = acquired(tmp_path)
    assert LEASE < clock.slept <= LEASE + 2 * LEASE / LOOKS
    assert os.listdir(tmp_path / lease.LOCK) == ["2.json"]
    successor.guard()


def test_without_a_wait_an_owner_is_watched_from_look_to_look(tmp_path, clock):
    acquired(tmp_path)
    for _ in range(3):
        with pytest.raises(LeaseError):
            acquired(tmp_path, wait=False)
        clock.now += LEASE / 3
    clock.now += 1
    acquired(tmp_path, wait=False).guard()


def test_no_clock_is_compared_with_another_one(tmp_path, clock, monkeypatch):
    """Wall clocks and times of files are hours off, in both directions, and jump."""
    owner = acquired(tmp_path)
    for hours in (-5, 5):
        monkeypatch.setattr(lease.time, "time", lambda hours=hours: 1e9 + 3600 * hours)
        os.utime(tmp_path / lease.LOCK / "1.json", (1e9 - 7200 * hours,) * 2)
        clock.meanwhile = owner._renew
        with pytest.raises(LeaseError):
            acquired(tmp_path)
    owner._ended.set()
    clock.meanwhile, clock.slept = lambda: None, 0.0
    acquired(tmp_path)
    assert clock.slept > LEASE


def test_who_stood_still_and_was_succeeded_writes_nothing_and_says_so(tmp_path, clock):
    owner = acquired(tmp_path)
    successor = acquired(tmp_path)  # while the first one stands still
    for _ in range(2):
        with pytest.raises(LeaseLostError, match="writes nothing more there"):
            owner.guard()
    assert owner.lost()
    with pytest.raises(LeaseLostError):
        owner._renew()
    owner.release()
    successor.guard()
    assert not content(tmp_path, 2).get("released")


def test_who_stood_still_and_was_not_succeeded_goes_on_under_another_number(tmp_path, clock):
    """Who was about to take over in that moment comes too late."""
    owner, other = acquired(tmp_path), Lease(tmp_path)
    clock.now += 2 * LEASE
    owner.guard()
    assert not other._take(2)
    owner.guard()
    assert other._newest().number == 3 - 1
    assert content(tmp_path, 2)["token"] == owner._token


def test_who_comes_with_a_number_of_long_ago_gets_nothing(tmp_path, clock):
    owner = acquired(tmp_path)
    for _ in range(3):
        owner.release()
        owner = acquired(tmp_path)
    late = Lease(tmp_path)
    assert not late._take(2)  # its file had been swept away
    owner.guard()
    assert os.listdir(tmp_path / lease.LOCK) == ["4.json"]


def test_a_released_folder_is_taken_at_once(tmp_path, clock):
    acquired(tmp_path).release()
    acquired(tmp_path)
    assert clock.slept == 0


def test_a_torn_file_and_strays_are_no_owner_that_lives(tmp_path, clock):
    folder = tmp_path / lease.LOCK
    folder.mkdir()
    (folder / "3.json").write_text('{"token": "a", "co')
    for name in (".DS_Store", "._3.json", ".nfs0001", "9.json.tmp", "x.json"):
        (folder / name).write_text("{}")
    acquired(tmp_path).guard()
    assert clock.slept > LEASE
    assert (folder / "4.json").exists()


def test_storage_without_links_is_enough(tmp_path, monkeypatch):
    def no(*_, **__):
        raise OSError(95, "Operation not supported")

    for name in ("link", "symlink"):
        monkeypatch.setattr(os, name, no)
    owner = acquired(tmp_path)
    before = content(tmp_path, 1).get("count", 0)
    owner._renew()
    assert content(tmp_path, 1)["count"] == before + 1
    owner.release()
    assert acquired(tmp_path)._number == 2  # at once: the owner before is known to have left


def test_one_process_does_not_own_a_folder_twice(tmp_path):
    owner = acquired(tmp_path)
    with pytest.raises(LeaseError, match=f"process {os.getpid()} "):
        acquired(tmp_path)
    owner.release()
    acquired(tmp_path).release()


def test_it_is_renewed_while_its_owner_is_busy(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "LEASE", 3.0)
    owner, end = acquired(tmp_path), time.monotonic() + 60
    while content(tmp_path, 1).get("count", 0) < 2 and time.monotonic() < end:
        sum(range(1000))  # as an evaluation does
    assert content(tmp_path, 1)["count"] >= 2
    owner.guard()
    assert owner._number == 1
    owner.release()


HOLD = """
import sys
from pathlib import Path
from seqzoo.train.folder.lease import Lease
Lease(Path(sys.argv[1])).acquire()
print("mine", flush=True)
sys.stdin.read()
"""


@pytest.mark.of_the_day("a killed owner", 3)
def test_an_owner_that_was_killed_is_succeeded_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("waits"))
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **options)
    assert owner.stdout.readline() == "mine\n"
    with pytest.raises(LeaseError, match=f"process {owner.pid} "):
        acquired(tmp_path)
    owner.kill()
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)  # dead, and not buried
    acquired(tmp_path).release()
    owner.communicate()


@pytest.mark.of_the_day("one writer", 3)
def test_processes_of_several_containers_with_one_host_name_never_write_at_once():
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.folder.writers", "--few"],
        capture_output=True,
        text=True,
    )
    if done.returncode == writers.IMPOSSIBLE:
        pytest.skip("namespaces of processes cannot be made here")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["two_at_once"] == 0
    assert found["steps_lost"] == 0
    assert found["owners"] >= 2
    assert found["refused"] >= 1  # no living one is succeeded
    assert found["lost"] >= 1
    assert found["writes"] > 100


def test_a_copy_of_a_folder_at_work_is_free(tmp_path):
    with RunFolder(tmp_path / "run").owned():
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with RunFolder(tmp_path / "copy").owned(wait=False):
            pass
        (tmp_path / "link").symlink_to("run")
        (tmp_path / "run").rename(tmp_path / "moved")
        for name in ("moved", "link"):
            with pytest.raises(LeaseError), RunFolder(tmp_path / name).owned(wait=False):
                pass
            (tmp_path / "moved").rename(tmp_path / "run") if name == "moved" else None
