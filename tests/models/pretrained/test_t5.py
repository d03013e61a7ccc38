"""T5: both versions beside a reference in float64, what is written, meshes, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seqzoo.models import draw, from_pretrained, generate, sample, save_pretrained
from tests.helpers import assert_close
from tests.models.pretrained.published import folder, published
from tests.references import t5

NAME = "t5_enc_dec"
CONFIG = json.loads((folder(NAME) / "config.json").read_text())
# Version 1.1, as its own files say it: gated, a head of its own, unequal depths.
NEWER = {
    **{k: v for k, v in CONFIG.items() if k not in ("scale_decoder_outputs", "dense_act_fn")},
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "num_layers": 3,
}


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """A folder of version 1.1 with random weights, and its tensors."""
    rng, place = np.random.default_rng(0), tmp_path_factory.mktemp("t5")
    old = load_file(folder(NAME) / "model.safetensors")
    tensors = {"lm_head.weight": rng.normal(size=old["shared.weight"].shape)}
    for name, array in old.items():
        inner = name.replace(".wi.", ".wi_0."), name.replace(".wi.", ".wi_1.")
        tensors |= {new: array + 0.3 * rng.normal(size=array.shape) for new in set(inner)}
    for name in [n for n in tensors if n.startswith("encoder.block.1")]:
        again = name.replace("block.1", "block.2")
        tensors[again] = tensors[name] + 0.1 * rng.normal(size=tensors[name].shape)
    tensors = {name: np.asarray(array, np.float32) for name, array in tensors.items()}
    save_file(tensors, place / "model.safetensors")
    (place / "config.json").write_text(json.dumps(NEWER))
    return place, tensors


def test_the_reference_is_what_the_library_gives():
    io = published(NAME)
    tensors = load_file(folder(NAME) / "model.safetensors")
    found = t5.logits(tensors, CONFIG, io["input_ids"], io["decoder_input_ids"])
    assert_close(found, io["logits"], ratio=1e-6)


@pytest.mark.of_the_day("version 1.1", 6)
def test_version_1_1_equals_the_reference_and_comes_out_as_it_was(newer, tmp_path):
    place, tensors = newer
    rng = np.random.default_rng(1)
    inputs, tokens = rng.integers(37, size=(2, 20)), rng.integers(37, size=(2, 24))
    model = from_pretrained(place, scan=False)
    found = model(jnp.asarray(inputs), jnp.asarray(tokens))
    assert_close(found, t5.logits(tensors, NEWER, inputs, tokens), ratio=1e-5)  # float32
    save_pretrained(model, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(again[name].tobytes() == array.tobytes() for name, array in tensors.items())


@pytest.mark.of_the_day("writing", 6)
def test_what_is_written_follows_from_what_is_read():
    model, length = from_pretrained(folder(NAME)), 4
    rows = [[5, 7, 1, 9, 20], [30, 2]]
    key = jax.random.key(3)
    drawn = np.stack(list(generate(model, rows, length, key, samples=2, temperature=0.7)), 1)
    assert drawn.shape == (4, length)
    ids = np.array([[1] * 5, [0, 0, 0, 1, 1]])
    inputs = np.array([rows[0], [8, 8, 8, *rows[1]]])
    both = (jnp.asarray(np.repeat(part, 2, 0)) for part in (inputs, ids))
    inputs, ids = both
    tokens = jnp.concatenate([jnp.zeros((4, 1), int), jnp.asarray(drawn)], 1)
    logits = model(inputs, tokens, ids)
    for t in range(length):
        wanted = draw(logits[:, t], jax.random.fold_in(key, t), temperature=0.7)
        assert wanted.tolist() == drawn[:, t].tolist()
    with pytest.raises(ValueError, match="length is at least 1, and with the prompt at most"):
        list(generate(from_pretrained(folder(NAME), max_length=8), rows, 9, key))
    with pytest.raises(ValueError, match="writes another text than it reads; use generate"):
        sample(model, inputs, 3, key)
    with pytest.raises(ValueError, match="continues what start"):
        model.extend(tokens, model.decoder.init_state(4))
    with pytest.raises(ValueError, match="got 4 rows of tokens and 2 of inputs"):
        model(inputs[:2], tokens)


@pytest.mark.slow
def test_a_mesh_computes_what_one_device_does():
    io, alone = published(NAME), from_pretrained(folder(NAME))
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    rows = [jnp.asarray(np.tile(io[n], (2, 1))) for n in ("input_ids", "decoder_input_ids")]
    with jax.set_mesh(mesh):
        model = from_pretrained(folder(NAME), mesh=mesh)
        kernel = model.decoder.stack.units.reader.cross.q_proj.kernel
        assert not kernel.sharding.is_fully_replicated
        found = jax.jit(lambda m, *rows: m(*rows))(model, *rows)
    assert_close(found, alone(*rows), ratio=1e-5)


@pytest.mark.slow
def test_gradients_reach_every_parameter_and_no_padding():
    from flax import nnx

    io, model = published(NAME), from_pretrained(folder(NAME))
    inputs, tokens = (jnp.asarray(io[n]) for n in ("input_ids", "decoder_input_ids"))
    ids = jnp.ones(inputs.shape, int).at[:, -3:].set(0)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, inputs):
        model = nnx.merge(graphdef, params, rest)
        return jnp.square(model(inputs, tokens, ids)).mean()

    value, grads = jax.value_and_grad(loss)(params, inputs)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))
    assert loss(params, inputs.at[:, -3:].set(9)) == pytest.approx(float(value), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-relu"}, "feed_forward_proj='gated-relu' is not handled"),
        ({"is_encoder_decoder": False}, "is_encoder_decoder=False is not handled"),
        ({"num_decoder_layers": 3}, "no tensor 'decoder.block.2.layer"),
        ({"relative_attention_num_buckets": 2}, "num_buckets is at least 4"),
        ({"tie_word_embeddings": False}, "no tensor 'lm_head.weight'"),
    ],
)
def test_what_is_not_handled_is_refused_by_name(change, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, **change}))
    (tmp_path / "model.safetensors").symlink_to(folder(NAME).resolve() / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        from_pretrained(tmp_path)
