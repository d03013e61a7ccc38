"""A run whose folder is in a bucket: what the store cannot do is not asked of it."""

import dataclasses
import importlib.util
import io
import json
import os
import threading

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from seqzoo.train.cli import doctor
from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare import results
from seqzoo.train.compare.comparison import compare
from seqzoo.train.folder import checkpoint, files, owner_files
from seqzoo.train.folder.alive import started, this_process
from seqzoo.train.folder.checkpoint import MANIFEST, Checkpoints
from seqzoo.train.folder.files import run_path
from seqzoo.train.folder.lease import LOCK, LeaseError, LeaseLostError
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop import runner as loop
from seqzoo.train.loop.runner import run_program
from tests.train.compare.test_work import models, stopping, tiny_programs
from tests.train.loop.test_replicas import Selecting
from tests.train.loop.test_runner import StopAfter

RUN = "gs://bucket/run"


class Bucket(DirFileSystem):
    """A store on the disk that renames nothing, links nothing and appends nothing."""

    protocol = "gcs"

    def __init__(self, **_):
        super().__init__(path="/", fs=LocalFileSystem(auto_mkdir=True))

    def _join(self, path):
        return super()._join(path.removeprefix("gs://") if isinstance(path, str) else path)

    def open(self, path, mode="rb", **options):
        assert mode in ("r", "rb", "w", "wb"), mode
        return super().open(path, mode, **options)

    def mv(self, *_, **__):
        raise NotImplementedError


class Writer:
    """Stands for Orbax, which talks to a store by itself."""

    def save(self, path, state):
        path.mkdir(parents=True)
        data = io.BytesIO()
        np.savez(data, *jax.tree.leaves(state))
        (path / "arrays").write_bytes(data.getvalue())

    def restore(self, path, like):
        arrays = np.load(io.BytesIO((path / "arrays").read_bytes()))
        leaves, tree = jax.tree.flatten(like)
        made = (jax.device_put(a, x.sharding) for a, x in zip(arrays.values(), leaves, strict=True))
        return jax.tree.unflatten(tree, made)

    def wait_until_finished(self):
        pass

    close = wait_until_finished


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    fsspec.register_implementation("gcs", Bucket, clobber=True)
    store = fsspec.filesystem("gcs", finalize_on_close=True)  # the one that etils takes
    monkeypatch.setattr(store, "path", str(tmp_path / "store"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        files.importlib.util, "find_spec", lambda name: name == "gcsfs" or found(name)
    )
    monkeypatch.setattr(checkpoint.ocp, "StandardCheckpointer", Writer)
    return tmp_path / "store" / "bucket" / "run"


def test_a_run_stops_and_goes_on_in_a_bucket(program, finished, bucket, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "StopRequest", lambda *_: StopAfter(17))
        assert run_program(program, RUN)["step"] == 17
    assert run_program(program, RUN)["step"] == 40
    assert read_lines(RUN) == read_lines(finished)
    names = {p.name for p in bucket.iterdir()}
    files = {"config.json", "run.toml", "metrics.jsonl", "result.json"}
    assert names == {*files, "checkpoints", LOCK}
    checkpoints = Checkpoints(RUN)
    states = [Writer().restore(checkpoints.place(40) / "state", program.like)]
    assert checkpoints.fault(40) is None
    states.append(checkpoints.restore(40, program.like))
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_report_of_a_run_in_a_bucket_is_written_there(program, bucket, capsys):
    run_program(program, RUN)
    assert dispatch(["report", RUN]) == 0
    assert capsys.readouterr().out.strip() == f"{RUN}/report.html"
    assert "tiny" in (bucket / "report.html").read_text()


def test_the_doctor_takes_a_bucket(bucket, capsys, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert dispatch(["doctor", "--mib", "1", "--out", RUN]) == 0, capsys.readouterr()


@pytest.mark.of_the_day("comparison in a bucket")
def test_a_comparison_stops_and_goes_on_in_a_bucket(bucket, tmp_path, monkeypatch):
    tiny_programs(monkeypatch)
    wanted, options = models(Selecting(), "a", "b"), {"seeds": 2, "vectorise": "always"}
    with monkeypatch.context() as patch:
        stopping(patch, 5)
        assert compare(wanted, "gs://bucket/run", **options).missing == ("a", "b")
    found = compare(wanted, "gs://bucket/run", **options)
    disk = compare(wanted, tmp_path / "disk", **options)
    assert found.models == tuple(
        dataclasses.replace(model, **{name: getattr(other, name) for name in results.TIMED})
        for model, other in zip(disk.models, found.models, strict=True)
    )
    for name in (results.FILE, results.TIMINGS, "report.html", "runs/a/model.json"):
        assert (bucket / name).is_file()


def test_what_has_no_manifest_does_not_count_there(bucket):
    checkpoints = Checkpoints(RUN)
    for step in (1, 2):
        checkpoints.save({"a": np.arange(step)}, {"step": step})
    checkpoints.wait()
    (checkpoints.place(2) / MANIFEST).unlink()
    assert checkpoints.steps() == [1]
    assert checkpoints.newest_whole(print) == 1
    (checkpoints.place(1) / "state" / "arrays").write_bytes(b"short")
    assert checkpoints.fault(1) == "state/arrays has changed"
    checkpoints.save({"a": np.arange(3)}, {"step": 2})  # again, over what is left of the first
    checkpoints.wait()
    assert checkpoints.newest_whole(print) == 2
    assert len(list((bucket / "checkpoints").iterdir())) == 3
    checkpoints.sweep()
    assert len(list((bucket / "checkpoints").iterdir())) == 2


def test_checkpoints_of_before_are_read_there(bucket):
    checkpoints = Checkpoints(RUN)
    checkpoints.save({"a": np.arange(3)}, {"step": 2})
    checkpoints.wait()
    name = checkpoints.place(2).name
    (bucket / "checkpoints" / name).rename(bucket / "checkpoints" / "2")
    assert checkpoints.newest_whole(print) == 2
    np.testing.assert_array_equal(checkpoints.restore(2, {"a": jnp.arange(3)})["a"], np.arange(3))


def test_who_wakes_up_in_a_bucket_writes_over_nothing(bucket, monkeypatch):
    """One stands still while it saves a step, which another one then saves too."""
    awake = threading.Event()

    class Late(Writer):
        def save(self, path, state):
            self.task = path, state

        def wait_until_finished(self):
            awake.wait()
            super().save(*self.task)

    def lost():
        if awake.is_set():
            raise LeaseLostError("another one has it")

    monkeypatch.setattr(checkpoint.ocp, "StandardCheckpointer", Late)
    first = Checkpoints(RUN, guard=lost)
    first.save({"a": np.zeros(3)}, {"step": 2})
    monkeypatch.setattr(checkpoint.ocp, "StandardCheckpointer", Writer)
    second = Checkpoints(RUN)
    second.save({"a": np.ones(3)}, {"step": 2})
    second.wait()
    awake.set()
    with pytest.raises(LeaseLostError):
        first.wait()
    assert second.fault(2) is None
    np.testing.assert_array_equal(second.restore(2, {"a": jnp.ones(3)})["a"], np.ones(3))


def test_a_bucket_has_one_owner(bucket, monkeypatch):
    first, second = RunFolder(RUN), RunFolder(RUN)
    with first.owned():
        assert json.loads((bucket / LOCK / "1.json").read_text())["pid"] == os.getpid()
        with pytest.raises(LeaseError, match="in use by process"), second.owned():
            pass
        seen = (bucket / LOCK / "1.json").read_text()
        first._lease._renew()
        assert (bucket / LOCK / "1.json").read_text() != seen
        (bucket / LOCK / "2.json").write_text("{}")
        with pytest.raises(LeaseLostError, match="writes nothing more"):
            first.guard()
    assert {p.name for p in (bucket / LOCK).iterdir()} == {"1.json", "2.json"}


def test_of_two_that_start_at_once_one_has_the_bucket(bucket, monkeypatch):
    """The other one's object appears between the look and the write, which has a condition."""
    numbers = owner_files.OwnerObjects.numbers

    def other_is_faster(self):
        found = numbers(self)
        (bucket / LOCK).mkdir(parents=True, exist_ok=True)
        mine = json.dumps({"token": "x", "count": 0, **this_process(), "pid": os.getppid()})
        parent = {"started": started(os.getppid())}
        (bucket / LOCK / "1.json").write_text(json.dumps(json.loads(mine) | parent))
        return found

    monkeypatch.setattr(owner_files.OwnerObjects, "numbers", other_is_faster)
    with pytest.raises(LeaseError, match="in use by process"), RunFolder(RUN).owned():
        pass


def test_addresses_are_refused_before_anything_is_written(capsys):
    argv = ["train", "--task", "mqar", "--model", "attention", "--out", "gs://bucket/run"]
    if importlib.util.find_spec("gcsfs") is None:
        assert dispatch(argv) == 2
        said = capsys.readouterr().err
        assert "pip install 'seqzoo[gcs]'" in said
        assert "gcsfuse" in said
    with pytest.raises(ValueError, match="gs://BUCKET/RUN"):
        run_path("s3://bucket/run")
