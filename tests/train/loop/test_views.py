"""Views in the loop: on meshes, from checkpoints, of several seeds, and what is refused."""

import contextlib
import dataclasses
import functools

import jax
import numpy as np
import pytest

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.selfsupervised.views import Momentum
from seqzoo.tasks import build
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.loop.program import make_program, replica_keys
from seqzoo.train.loop.streams import RunData
from tests.helpers import assert_close, assert_trees_close

BACKBONE = BackboneConfig(d_model=8, depth=1, feedforward="none", scan=False)
OPTIM = OptimConfig(name="sgd", peak_lr=0.1)  # Adam makes as much of rounding as of a gradient
TRAIN = TrainConfig(steps=4, batch_size=8, threads=0, eval_every=0)
SIZES = {"train_size": 16, "validation_size": 4, "test_size": 4, "length": 16, "num_pairs": 2}
OPTIONS = {"moco": {"queue": 16}, "dino": {"prototypes": 8, "small": 1}}


def task_of(objective, **options):
    own = OPTIONS.get(objective, {}) | options
    return build(f"{objective}:mqar", of=build("mqar", **SIZES), dim=8, hidden=8, **own)


def experiment(objective, mesh=None, **train):
    train = dataclasses.replace(TRAIN, **train)
    parts = {"backbone": BACKBONE, "optim": OPTIM, "train": train, "mesh": mesh or MeshConfig()}
    return Experiment(task=task_of(objective), model="indrnn", **parts)


@functools.cache
def program_of(objective, count, **train):
    mesh = MeshConfig(fsdp=2) if count > 1 else None
    return make_program(experiment(objective, mesh, **train), devices=jax.devices()[:count])


def steps(program, state, first, last):
    """The state after some steps, and their metrics."""
    batches = RunData(program.experiment, program.mesh).train.beginning(first)
    key, lines = replica_keys(program.experiment)[1], []
    for _ in range(first, last):
        batch = next(batches)
        rows = jax.tree.map(lambda x: jax.device_put(x, program.rows), batch)
        state, metrics = program.step(state, rows, key)
        lines.append(jax.device_get(metrics))
    return state, lines


def start(program):
    return program.init(replica_keys(program.experiment)[0])


def host(state):
    return jax.tree.map(np.asarray, state)


def assert_equal(one, two):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_target_lies_as_its_parameters_do():
    for objective in ("moco", "dino"):
        program = program_of(objective, 4)
        like, followers = program.like, program.plan.of_kind(Momentum)
        pairs = {
            p: p.replace("views/target/copies/encoder", "encoder")
            .replace("views/target/copies/projector", "views/projector")
            .replace("views/target/copies/prototypes", "views/top")
            for p in followers
        }
        assert len(pairs) > 5
        for follower, own in pairs.items():
            assert like.rest[follower].sharding == like.params[own].sharding
        assert any("fsdp" in str(like.rest[p].sharding.spec) for p in followers)
        assert not any("target" in path for path in like.params)
        moments = jax.tree_util.tree_leaves_with_path(like.opt_state)
        assert not any("target" in jax.tree_util.keystr(path) for path, _ in moments)


OFTEN = pytest.mark.of_the_day("views divided", 3)


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param("moco", marks=OFTEN),
        pytest.param("dino", marks=pytest.mark.slow),
        pytest.param("swav", marks=pytest.mark.slow),
    ],
)
def test_a_divided_batch_is_one_batch_and_a_checkpoint_goes_on(objective, tmp_path):
    divided = program_of(objective, 4)
    halfway, first = steps(divided, start(divided), 0, 2)
    checkpoints = Checkpoints(tmp_path)
    with contextlib.closing(checkpoints):
        checkpoints.save(halfway, {"step": 2})
        checkpoints.wait()
        again = checkpoints.restore(2, divided.like)
    kept = host(halfway)
    end, second = steps(divided, halfway, 2, 4)
    resumed, third = steps(divided, again, 2, 4)
    assert any(np.any(kept.rest[p] != end.rest[p]) for p in kept.rest)
    assert_equal((end, second), (resumed, third))
    alone = program_of(objective, 1)
    whole, lines = steps(alone, start(alone), 0, 4)
    for one, two in zip([*first, *second], lines, strict=True):
        assert_close(one["loss"], two["loss"], ratio=1e-5)
    assert_trees_close(host(end).rest, host(whole).rest, ratio=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["simclr", "moco", "byol", "simsiam", "swav", "dino"])
def test_seeds_side_by_side_are_seeds_alone(objective):
    together = make_program(experiment(objective, replicas=2), devices=jax.devices()[:1])
    state, lines = steps(together, start(together), 0, 3)
    alone = make_program(experiment(objective, seed=1), devices=jax.devices()[:1])
    single, own = steps(alone, start(alone), 0, 3)
    for one, two in zip(lines, own, strict=True):
        assert_close(one["loss"][1], two["loss"], ratio=1e-4)
    # A bias before a norm is rounding alone, so that a ratio of its own says nothing.
    second = [x[1].ravel() for x in jax.tree.leaves(host(state).rest)]
    first = [x.ravel() for x in jax.tree.leaves(host(single).rest)]
    assert_close(np.concatenate(second), np.concatenate(first), ratio=1e-5)


@pytest.mark.slow
def test_packed_rows_are_the_same_views():
    """DINO's targets are of some of the views, and the tables of packed rows of all."""
    apart, joined = (
        make_program(experiment("dino", pack=pack), devices=jax.devices()[:1]) for pack in (0, -1)
    )
    batch = next(RunData(joined.experiment, joined.mesh).train.beginning(0))
    assert batch["packed_tokens"].shape[0] < 3 * len(batch["inputs"])
    (one, first), (two, second) = (steps(p, start(p), 0, 2) for p in (apart, joined))
    for a, b in zip(first, second, strict=True):
        assert_close(a["loss"], b["loss"], ratio=1e-5)
    assert_trees_close(host(one).rest, host(two).rest, ratio=1e-4)


WRONG = {
    "temperature must be positive; got 0": ("simclr", {"temperature": 0}),
    "temperature must be positive; got nan": ("moco", {"temperature": float("nan")}),
    "target_temperature must be positive": ("dino", {"target_temperature": -0.1}),
    "sharpness must be positive": ("swav", {"sharpness": 0.0}),
    "views must be an integer, at least 2; got 1": ("byol", {"views": 1}),
    "queue must be an integer, at least 1": ("moco", {"queue": 0}),
    r"momentum must be in \[0, 1\]; got 1.5": ("byol", {"momentum": 1.5}),
    r"centre must be in \(0, 1\]": ("dino", {"centre": 0}),
    "prototypes must be an integer, at least 2": ("swav", {"prototypes": 1}),
    r"small_crop must be in \(0, crop=0.6\]": ("dino", {"small_crop": 0.7}),
    r"crop must be a share in \(0, 1\]": ("simsiam", {"crop": 0}),
    r"mask must be a share in \[0, 1\)": ("simsiam", {"mask": 1}),
    "flip needs pictures": ("simclr", {"flip": 0.5}),
    "jitter needs real inputs": ("simclr", {"jitter": 0.5}),
    "draws must be an integer": ("simclr", {"draws": 0}),
}


@pytest.mark.parametrize("said", WRONG)
def test_wrong_options_are_refused(said):
    objective, options = WRONG[said]
    with pytest.raises(ValueError, match=said):
        task_of(objective, **options)


def test_runs_that_are_another_loss_are_refused():
    with pytest.raises(ValueError, match="queue must be a multiple of batch_size"):
        experiment("moco", batch_size=12)
    with pytest.raises(ValueError, match="microbatches are another loss"):
        experiment("simclr", accumulate=2)
    with pytest.raises(ValueError, match="leave out the adapter, or choose simclr or simsiam"):
        experiment("byol", adapter="lora:rank=2", init_from="somewhere")
    with pytest.raises(ValueError, match=r"several documents.*--data.of.rows windows"):
        build("simclr:bytes", of={"rows": "packed"})
    with pytest.raises(ValueError, match="rows that continue each other"):
        build("simclr:bytes", of={"rows": "lanes"})
