"""A run whose examples share rows is the run whose examples have their own."""

import dataclasses
import itertools
from typing import ClassVar

import jax
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.shared_rows import PACKED
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop import runner, streams
from seqzoo.train.loop.data import to_devices
from seqzoo.train.loop.evaluate import evaluate
from seqzoo.train.loop.program import make_program, mesh_for, replica_keys
from seqzoo.train.loop.runner import run
from seqzoo.train.loop.streams import RunData
from tests.helpers import assert_close, assert_trees_close, x64
from tests.train.loop.test_runner import StopAfter
from tests.train.tiny import CLASSES, VOCAB, Tiny
from tests.train.tiny_run import SlowRows

pytestmark = pytest.mark.of_the_day(days=3)

LENGTH = 12


@dataclasses.dataclass(frozen=True)
class Short(SlowRows):
    """Rows that are mostly padding, every one of another length."""

    def __getitem__(self, index):
        row = super().__getitem__(index)["inputs"]
        size = 1 + (7 * index + self.stream[1]) % 6 + 6 * (index % 4 == 0)
        inputs = np.where(np.arange(LENGTH) < size, np.tile(row, 2), 0)
        ids = (inputs > 0).astype(np.int32)
        return {"inputs": inputs, "targets": row[0] % CLASSES, "segment_ids": ids}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Padded(Tiny):
    """The class is that of the first token; most of a row is padding."""

    name: ClassVar[str] = "padded"

    @property
    def spec(self):
        return ModelSpec(head="classify", vocab_size=VOCAB, outputs=CLASSES, length=LENGTH)

    def _source(self, split, seed):
        return Short(*dataclasses.astuple(super()._source(split, seed)))


def experiment(*, pack=LENGTH, mesh=None, task=None, model="lru", wide=False, **changes):
    fields = {"steps": 3, "batch_size": 8, "eval_every": 1, "threads": 0, "save_every": 1}
    dtypes = {"dtype": "float64", "param_dtype": "float64"} if wide else {}
    return Experiment(
        task=task or Padded(),
        model=model,
        backbone=BackboneConfig(d_model=8, depth=1, expansion=1.0, **dtypes),
        optim=OptimConfig(peak_lr=1e-2),
        train=TrainConfig(pack=pack, **{**fields, **changes}),
        mesh=MeshConfig(**mesh or {"data": 1}),
    )


def trained(made, steps=2):
    """Losses, gradient norms and validation results of a few steps, and the parameters."""
    devices = jax.devices()[: made.mesh.data * made.mesh.fsdp]
    program = make_program(made, devices=devices)
    data = RunData(made, program.mesh)
    first, key = replica_keys(made)
    state, found, packed = program.init(first), [], 0
    for batch in itertools.islice(data.train, steps):
        packed += PACKED[0] in batch
        state, metrics = program.step(state, to_devices(batch, program.rows), key)
        found.append([np.asarray(metrics[name]) for name in ("loss", "accuracy", "grad_norm")])
    held = evaluate(program, state.params, state.rest, made.task.source("validation"))
    values = np.concatenate([np.ravel(found), np.ravel([held["loss"], held["accuracy"]])])
    return values, jax.device_get(state.params), packed


def test_a_packed_run_equals_the_unpacked_one():
    with x64():
        own, params, none = trained(experiment(pack=0, wide=True, model="attention"))
        shared, same, packed = trained(experiment(wide=True, model="attention"))
    assert (none, packed) == (0, 2)
    assert_close(shared, own, ratio=1e-10)
    assert_trees_close(same, params, ratio=1e-9)  # Adam divides by small moments


@pytest.mark.of_the_day("packed microbatches")
def test_devices_microbatches_and_replicas_pack_their_own_parts():
    sizes = {"batch_size": 16, "replicas": 2}
    own, params, _ = trained(experiment(pack=0, **sizes))
    many = {"mesh": {"data": 2}, "accumulate": 2}
    shared, same, packed = trained(experiment(**sizes, **many))
    assert packed == 2
    assert_close(shared, own)
    assert_trees_close(same, params, ratio=1e-4)


def test_a_packed_batch_holds_the_examples_of_its_batch():
    first = experiment()
    mesh = make_program(first, devices=jax.devices()[:1]).mesh
    plain = RunData(experiment(pack=0), mesh)
    shared = RunData(first, mesh)
    batches = list(itertools.islice(shared.train, 6))
    for one, two in zip(batches, plain.train, strict=False):
        for name, value in two.items():
            np.testing.assert_array_equal(one[name], value)
        flat = one["inputs"].ravel()[one[PACKED[0]]]
        assert (one[PACKED[0]] >= 0).sum() == one["segment_ids"].sum()
        assert (flat[one[PACKED[0]] >= 0] > 0).all()
        assert one[PACKED[0]].size < one["inputs"].size
    later = next(shared.train.beginning(4))
    assert all(np.array_equal(later[name], batches[4][name]) for name in later)


def test_processes_with_seeds_of_their_own_pack_the_same_batches(monkeypatch):
    """Also where only the other's seed has no room: together they run one program."""
    made = experiment(replicas=2, batch_size=16)
    mesh = mesh_for(made, jax.devices()[:1])
    whole = list(itertools.islice(RunData(made, mesh).train, 40))
    assert len({PACKED[0] in batch for batch in whole}) == 2
    for place in range(2):
        monkeypatch.setattr(streams, "seeds_of_process", lambda *_, place=place: [place])
        for batch, own in zip(whole, RunData(made, mesh).train, strict=False):
            assert own.keys() == batch.keys()
            for name, value in batch.items():
                np.testing.assert_array_equal(own[name], value[[place]])


@pytest.mark.of_the_day("packed batches without room")
def test_a_batch_without_room_is_trained_as_it_is(monkeypatch):
    own, params, _ = trained(experiment(pack=0))
    made = RunData._packing
    monkeypatch.setattr(
        RunData, "_packing", lambda *args: dataclasses.replace(made(*args), rows=1, own=[0])
    )
    shared, same, packed = trained(experiment())
    assert packed == 0
    np.testing.assert_array_equal(shared, own)
    assert_trees_close(same, params, ratio=0.0)


@pytest.mark.of_the_day("packed runs")
def test_a_packed_run_stops_and_continues(tmp_path, monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "padded", Padded)
    made, devices = experiment(replicas=2), jax.devices()[:1]
    with monkeypatch.context() as patch:
        patch.setattr(runner, "StopRequest", lambda *_: StopAfter(2))
        assert run(made, tmp_path / "a", devices=devices)["step"] == 2
    run(made, tmp_path / "a", devices=devices)
    run(made, tmp_path / "b", devices=devices)
    assert read_lines(tmp_path / "a") == read_lines(tmp_path / "b")
    plain = dataclasses.replace(made, train=dataclasses.replace(made.train, pack=0))
    with pytest.raises(ValueError, match="pack"):
        RunFolder(tmp_path / "a").check(plain, {})


def test_what_cannot_be_packed_is_said_before_anything_is_compiled():
    for made, message in (
        ({"pack": 5}, "12 tokens; got pack=5: -1 takes what it needs"),
        ({"model": "fnet"}, "fnet takes one segment"),
        ({"mesh": {"data": 1, "seq": 4}}, "choose --mesh.seq 1 or --pack 0"),
        ({"task": Tiny()}, "rows of task tiny have no padding, .* choose --pack 0"),
        ({"task": tasks.build("python_source", rows="packed")}, "full as they are"),
    ):
        made = experiment(**made)
        with pytest.raises(ValueError, match=message):
            make_program(made, devices=jax.devices()[: made.mesh.seq])
    with pytest.raises(ValueError, match="pack is tokens of a row, -1 or 0; got -2"):
        experiment(pack=-2)
    assert experiment(pack=-1).packed_length == 64
