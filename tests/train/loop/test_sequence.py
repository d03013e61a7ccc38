"""Training with rows divided over devices: `--mesh.seq`."""

import itertools
import re

import jax
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.models import MIXERS, BackboneConfig
from seqzoo.train.config import Experiment, MeshConfig, TrainConfig
from seqzoo.train.loop.data import batch_shapes, to_devices, train_batches
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.state import seed_keys
from seqzoo.train.plan.hlo import Module
from tests.helpers import assert_close
from tests.models.tiny import TINY

# All whose state does not grow with the tokens and whose training form is a linear recurrence.
LINEAR = (
    *("gla", "gated_deltanet", "kda", "deltanet", "rwkv4", "rwkv6", "rwkv7", "mlstm", "retnet"),
    *("simple_gla", "hgrn2", "linear_attention", "lightning_attention", "norm_attention"),
    *("mamba2", "s4d", "s4", "s5", "lru", "min_gru", "min_lstm", "hgrn", "rg_lru", "qrnn"),
    "flash@laplace",
)

CAUSAL = [name for name in TINY if MIXERS[name.partition("@")[0]].causal_form]


def program(mixer, length, *, one=False, batch=4, **mesh):
    experiment = Experiment(
        task=tasks.build("mqar", length=length, num_pairs=2, vocab_size=80),
        model=mixer.partition("@")[0],
        mixer=TINY[mixer],
        backbone=BackboneConfig(d_model=8, depth=1, feedforward="none"),
        train=TrainConfig(steps=4, batch_size=batch),
        mesh=MeshConfig(**mesh),
    )
    return make_program(experiment, devices=jax.devices()[:1] if one else None)


def compiled(made, length):
    task, train = made.experiment.task, made.experiment.train
    batch = batch_shapes(task, train.batch_size, made.rows, length)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return made.step.lower(made.like, batch, key).compile()


def losses(made):
    initial, key = seed_keys(0)
    state, found = made.init(initial), []
    source = made.experiment.task.source("train")
    for batch in itertools.islice(train_batches(source, 4, seed=0, threads=0), 2):
        state, metrics = made.step(state, to_devices(batch, made.rows), key)
        found.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(found)


def sent(mixer, length):
    text = compiled(program(mixer, length, data=2, seq=4), length).as_text()
    return sum(c.sent for c in Module(text).collectives()), text


@pytest.mark.of_the_day("divided rows")
@pytest.mark.parametrize(
    "mesh",
    [
        {"data": 2, "seq": 4},
        pytest.param({"data": 1, "fsdp": 2, "seq": 2, "tensor": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_run_on_divided_rows_has_the_losses_of_one_device(mesh):
    mesh = program("mamba2", 32, **mesh)
    assert_close(losses(mesh), losses(program("mamba2", 32, one=True)), ratio=1e-5)


@pytest.mark.of_the_day("a linear mixer sends")
def test_what_a_linear_mixer_sends_does_not_grow_with_the_length():
    (short, text), (long, _) = sent("gated_deltanet", 32), sent("gated_deltanet", 64)
    assert short == long > 0
    assert "f32[2,8,8]" in text  # B / 2, L / 4, D: the activations of one device
    assert not re.search(r"f32\[\d+,32,8\]", text)


@pytest.mark.slow
@pytest.mark.parametrize("mixer", LINEAR)
def test_what_linear_mixers_send_does_not_grow_with_the_length(mixer):
    assert sent(mixer, 32)[0] == sent(mixer, 64)[0] > 0


def runs_of_collectives(mixer, length, **options):
    made = program(mixer, length, **options)
    return [c.times for c in Module(compiled(made, length).as_text()).collectives()]


PARAMETERS = {"batch": 8, "data": 1, "fsdp": 8}
TOKENS = {"batch": 4, "data": 2, "seq": 4}  # rows too few for all devices


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("mixer", "divided"),
    [
        pytest.param(name, mesh, marks=[] if name == "transformer_vq" else [pytest.mark.slow])
        for name in CAUSAL
        for mesh in (PARAMETERS, TOKENS)
    ],
    ids=str,
)
def test_no_loop_over_tokens_sends(mixer, divided):
    """What is divided is gathered before such a loop, gradients are summed up after it."""
    short, long = (runs_of_collectives(mixer, length, **divided) for length in (16, 32))
    assert max(short) == max(long)
    if divided is PARAMETERS:  # divided tokens of another number may meet the borders elsewhere
        assert sum(short) == sum(long)


@pytest.mark.of_the_day("attention sends", 3)
def test_what_attention_sends_does():
    assert sent("attention", 64)[0] > 1.2 * sent("attention", 32)[0]


def test_a_length_that_the_mesh_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of the mesh's axis seq, 8; got length=36"):
        program("mamba2", 36, data=1, seq=8)
