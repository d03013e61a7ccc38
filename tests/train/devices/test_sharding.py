"""The rule table, and training on eight devices."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from seqzoo.models import MIXERS, PRESETS, ModelSpec, build_model
from seqzoo.models.partition import partition
from seqzoo.models.whole.build import default_backbone
from seqzoo.train.config import MeshConfig
from seqzoo.train.devices.sharding import check_batch, hybrid, make_mesh, place
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.state import blueprint, seed_keys
from seqzoo.train.plan.plan import Plan, devices_of
from tests.helpers import assert_close, assert_trees_close
from tests.train import tiny
from tests.train.tiny_run import experiment


@functools.cache
def curve(**mesh):
    devices = jax.devices()[:1] if not mesh else jax.devices()
    config = dataclasses.replace(experiment(), mesh=MeshConfig(**mesh))
    program = make_program(config, make_model=lambda r: tiny.TinyModel(rngs=r), devices=devices)
    initial, key = seed_keys(0)
    state, losses = program.init(initial), []
    for batch in tiny.batches(10):
        state, metrics = program.step(state, jax.device_put(batch, program.rows), key)
        losses.append(float(metrics["loss"]))
    return state, np.array(losses)


@pytest.mark.of_the_day
@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str)
def test_eight_devices_have_the_loss_curve_of_one(mesh):
    one, losses = curve()
    state, eight = curve(**mesh)
    assert_close(eight, losses, ratio=1e-5)
    # Adam divides by the root of tiny moments, which magnifies the order of a sum.
    assert_trees_close(jax.device_get(state.params), jax.device_get(one.params), ratio=1e-3)


def test_parameters_and_moments_are_born_divided():
    state, _ = curve(data=2, fsdp=2, tensor=2)
    embedding = state.params["embed/embedding"]
    assert embedding.addressable_shards[0].data.size == embedding.size // 4
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == embedding.shape]
    assert len(moments) == 2
    assert all(m.sharding == embedding.sharding for m in moments)


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("blocks/mixer/q_proj/kernel", (3, 16, 32), P(None, "fsdp", "tensor")),
        ("blocks/mixer/out_proj/kernel", (3, 32, 16), P(None, "tensor", "fsdp")),
        ("blocks/feedforward/up_proj/kernel", (3, 16, 31), P(None, "fsdp", None)),
        ("blocks/norm/scale", (3, 16), P(None, None)),
        ("blocks/mixer/log_dt", (3, 16), P(None, None)),
        ("embed/embedding", (64, 16), P("tensor", "fsdp")),
    ],
)
def test_rules_speak_of_trailing_dimensions(path, shape, axes):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    assert partition(path, shape, mesh) == (axes, True)


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", [*MIXERS, *PRESETS])
def test_every_parameter_of_every_model_is_named_by_a_rule(name):
    spec = ModelSpec(head="lm", vocab_size=16, outputs=16, length=32)
    plan = blueprint(lambda rngs: build_model(spec, name, None, {}, rngs=rngs))
    mesh = make_mesh()
    assert [path for path in plan.params if not partition(path, (8, 8, 8), mesh)[1]] == []


# Large and yet whole everywhere, on purpose: small against the rest of the layer.
WHOLE = re.compile(r".*/(conv|mix\w*|decay\w*|log_\w+|[ABCD](_\w+)?|projection|bonus)(/kernel)?")


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", [*MIXERS, *PRESETS])
def test_every_large_parameter_is_divided(name):
    spec = ModelSpec(head="lm", vocab_size=64, outputs=64, length=32)
    config = dataclasses.replace(default_backbone(name), d_model=192)
    shapes = nnx.eval_shape(lambda: build_model(spec, name, config, {}, rngs=nnx.Rngs(0)))
    state = {
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value"): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(shapes, nnx.Param))
    }
    for axis in ("fsdp", "tensor"):
        mesh = make_mesh(MeshConfig(**{axis: 2}))
        whole = [
            path
            for path, shape in state.items()
            if math.prod(shape) >= 2**14 and axis not in partition(path, shape, mesh)[0]
        ]
        assert [path for path in whole if not WHOLE.fullmatch(path)] == [], axis


def test_one_batch_axis_runs_between_slices():
    assert hybrid([2, 4, 8, 1, 1, 1, 1], 2) == ([1, 4, 8, 1, 1, 1, 1], [2, 1, 1, 1, 1, 1, 1])
    assert hybrid([1, 4, 8, 1, 1, 1, 1], 4) == ([1, 1, 8, 1, 1, 1, 1], [1, 4, 1, 1, 1, 1, 1])
    assert hybrid([1, 4, 8, 1, 1, 1, 8], 4) == ([1, 4, 8, 1, 1, 1, 2], [1, 1, 1, 1, 1, 1, 4])
    with pytest.raises(ValueError, match="multiple of the 3 slices"):
        hybrid([2, 4, 8, 1, 1, 1, 1], 3)


@pytest.mark.slow
def test_slices_are_neighbours_on_the_slow_axis():
    pytest.importorskip("libtpu", reason="libtpu describes TPUs; the extra `tpu` installs it")
    mesh = make_mesh(
        MeshConfig(replica=2, data=1, fsdp=-1),
        devices_of(Plan(topology="v5e:2x4", slices=2)),
    )
    assert mesh.shape["fsdp"] == 8
    for number, row in enumerate(mesh.devices):
        assert {device.slice_index for device in row.flat} == {number}


def test_what_no_rule_names_is_divided_by_shape_and_reported():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    tree = {"mystery": jnp.zeros((3, 4096)), "small": jnp.zeros(4), "norm/scale": jnp.zeros(8)}
    placement = place(jax.eval_shape(lambda: tree), mesh)
    assert placement.shardings["mystery"].spec == P(None, "fsdp")
    assert placement.by_shape == ("mystery", "small")


def test_a_mesh_or_batch_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="multiply to the number of devices, 8"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(ValueError, match="multiple of the 8 devices"):
        check_batch(make_mesh(), 8, 2)
