import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from seqzoo.models import param_groups
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.config import config_of
from seqzoo.models.registry import MIXERS
from seqzoo.models.whole.build import build_model
from seqzoo.tasks.describe import check_example
from seqzoo.train.cli.command import dispatch
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.cost.cost import cost
from seqzoo.train.loop.optimizer import make_optimizer
from seqzoo.train.published import PUBLISHED, names, published

CLASSES = {"backbone": BackboneConfig, "optim": OptimConfig, "train": TrainConfig}
# Small enough to be differentiated here.
SHRUNK = {"backbone": {"d_model": 16, "depth": 1}, "mixer": {"d_state": 8, "num_heads": 2}}


@pytest.mark.of_the_day
@pytest.mark.parametrize("family", sorted({name.partition("/")[0] for name in PUBLISHED}))
def test_every_configuration_builds_with_every_key_it_sets(family):
    for name in (n for n in names() if n.startswith(family + "/")):
        preset = published(name)
        experiment = preset.experiment()
        least = 1_000 if experiment.task.name == "uea" else 10_000  # width 16 on two of six sets
        assert cost(experiment)["parameters"] > least
        whole = experiment.to_dict()
        for part, kind in CLASSES.items():
            fields = {field.name for field in dataclasses.fields(kind)}
            for key, value in getattr(preset, part).items():
                assert key in fields
                assert whole[part][key] == value
        options = {field.name for field in dataclasses.fields(config_of(MIXERS[preset.model]))}
        assert set(preset.mixer) <= options
        assert experiment.task.protocol == preset.protocol if preset.protocol else True
        assert preset.source
        assert preset.differs
        assert Experiment.from_dict(whole) == dataclasses.replace(experiment)


def test_figures_of_the_tables():
    """Read from the sources, not from our code."""
    s5 = published("s5/listops").experiment()
    assert (s5.optim.peak_lr, s5.optim.dynamics_lr, s5.train.steps) == (3e-3, 1e-3, 76_800)
    assert (s5.mixer["d_state"], s5.mixer["num_blocks"], s5.backbone.depth) == (16, 8, 8)
    s4d = published("s4d/path_x").experiment()
    assert (s4d.mixer["dt_min"], s4d.optim.peak_lr, s4d.train.batch_size) == (1e-4, 1e-3, 16)
    assert s4d.optim.warmup_steps(s4d.train.steps) == 50_000
    lru = published("lru/path_x").experiment()
    assert lru.mixer["max_phase"] == pytest.approx(math.pi / 10)
    assert not lru.backbone.causal
    assert published("lru/text").experiment().backbone.causal
    worms = published("s5_uea/EigenWorms").experiment()
    assert (worms.mixer["d_state"], worms.mixer["num_blocks"], worms.backbone.depth) == (256, 8, 2)
    assert (worms.task.spec.features, worms.task.split_seed, worms.train.seed) == (7, 2345, 2345)
    image = published("transformer/image").experiment()
    assert (image.backbone.depth, image.mixer["d_head"], image.backbone.dropout) == (1, 8, 0.3)
    assert published("performer/listops").mixer["num_features"] == 2
    assert published("performer/pathfinder").mixer["num_heads"] == 8
    small = published("transformer_small/image").experiment()
    assert (small.backbone.positions, small.optim.weight_decay) == ("learned", 0)


def shrink(preset):
    """The same keys with small sizes."""
    mixer = {k: SHRUNK["mixer"].get(k, v) for k, v in preset.mixer.items()}
    mixer |= {"num_blocks": 1} if "num_blocks" in mixer else {}
    backbone = {**preset.backbone, **SHRUNK["backbone"]}
    return dataclasses.replace(preset, mixer=mixer, backbone=backbone).experiment()


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_a_step_lowers_the_loss(name):
    experiment = shrink(published(name))
    task = experiment.task
    spec = dataclasses.replace(task.spec, length=24)
    model = build_model(
        spec, experiment.model, experiment.backbone, experiment.mixer, rngs=nnx.Rngs(0)
    )
    batch = examples(spec, 6)
    check_example(task, {key: value[0] for key, value in batch.items()})
    graph, params, rest = nnx.split(model, nnx.Param, ...)
    optim = dataclasses.replace(experiment.optim, peak_lr=1e-2, dynamics_lr=1e-3, warmup=0)
    flat, tree = jax.tree.flatten(params)
    groups = dict(
        zip(
            [f"{i:03}" for i in range(len(flat))], jax.tree.leaves(param_groups(model)), strict=True
        )
    )
    tx = make_optimizer(optim, 10, groups)

    def loss(flat):
        net = nnx.merge(graph, jax.tree.unflatten(tree, list(flat.values())), rest, copy=True)
        outputs = net(batch["inputs"], batch.get("segment_ids"))
        total, weight = task.measure(outputs, batch)["loss"]
        return total / weight

    @jax.jit
    def step(flat, state):
        value, grads = jax.value_and_grad(loss)(flat)
        updates, state = tx.update(grads, state, flat)
        return value, optax.apply_updates(flat, updates), state

    now = dict(zip(groups, flat, strict=True))
    state, values = tx.init(now), []
    for _ in range(6):
        value, now, state = step(now, state)
        values.append(float(value))
    assert np.isfinite(values).all()
    assert values[-1] < values[0]


def examples(spec, count):
    rng = np.random.default_rng(0)
    shape = (count, 2, spec.length) if spec.head == "two_tower" else (count, spec.length)
    batch = {"targets": rng.integers(spec.outputs, size=count)}
    if spec.features:
        return batch | {"inputs": jnp.float32(rng.normal(size=(*shape, spec.features)))}
    inputs = rng.integers(1, spec.vocab_size, shape)
    return batch | {"inputs": inputs, "segment_ids": np.ones(shape, int)}


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--published", "s4d/imagee"], "did you mean s4d/image?"),
        (["--published", "s4d/image", "--model", "lru"], "leave out --model"),
        (["--published", "s4d/image", "--batch-size", "64"], "cifar-10-binary.tar.gz"),
        (["--published", "s4d/image", "--data.pixels", "tokens"], "is not of protocol s4"),
    ],
)
def test_the_command_takes_a_configuration(tmp_path, capsys, argv, message):
    assert dispatch(["train", *argv, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err


def test_a_causal_model_cannot_answer_at_the_first_position():
    spec = published("transformer/listops").experiment().task.spec
    with pytest.raises(ValueError, match="set causal=False"):
        build_model(spec, "lru", BackboneConfig(d_model=8), rngs=nnx.Rngs(0))


@pytest.mark.of_the_day("real inputs", 3)
def test_real_inputs_are_classified():
    spec = dataclasses.replace(published("lru/scifar").experiment().task.spec, length=6)
    model = build_model(spec, "lru", BackboneConfig(d_model=8, depth=1), rngs=nnx.Rngs(0))
    assert jax.eval_shape(model, jnp.ones((2, 6, 3))).shape == (2, 10)
