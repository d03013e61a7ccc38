"""Where the numbers of files go: shards, dtypes, meshes, and back."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from seqzoo.models import from_pretrained, save_pretrained
from seqzoo.models.partition import partition
from seqzoo.models.pretrained import fill, load
from seqzoo.models.pretrained import folder as checkpoints
from seqzoo.models.pretrained.rules import bind
from seqzoo.models.pretrained.slots import slots_of
from tests.golden import golden
from tests.helpers import assert_close
from tests.models.pretrained.published import folder


def parameters(model):
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in flat}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for path, a in first.items():
        assert a.dtype == second[path].dtype, path
        np.testing.assert_array_equal(np.asarray(a), np.asarray(second[path]), path)


def test_several_files_with_an_index_are_one_checkpoint(tmp_path):
    model = from_pretrained(folder("llama"))
    save_pretrained(model, tmp_path / "parts", max_shard_bytes=4000)
    names = sorted(p.name for p in (tmp_path / "parts").glob("*.safetensors"))
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    assert len(names) > 3
    index = json.loads((tmp_path / "parts/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(names)
    assert_same(parameters(model), parameters(from_pretrained(tmp_path / "parts")))


@pytest.fixture
def mixed(tmp_path):
    """A Mamba in bfloat16, its rates in float32 and one norm in float16."""
    path = shutil.copytree(folder("mamba"), tmp_path / "mixed")
    arrays = load_file(path / "model.safetensors")
    kinds = {"A_log": np.float32, "norm_f.weight": np.float16}

    def kind(name):
        return next((k for end, k in kinds.items() if name.endswith(end)), jnp.bfloat16)

    arrays = {name: array.astype(kind(name)) for name, array in arrays.items()}
    save_file(arrays, path / "model.safetensors")
    return path


def test_every_parameter_has_the_dtype_of_its_tensor_and_goes_out_with_it(mixed, tmp_path):
    model = from_pretrained(mixed)
    found = {path.rpartition("/")[2]: a.dtype for path, a in parameters(model).items()}
    assert (found["A_log"], found["embedding"]) == (jnp.float32, jnp.bfloat16)
    assert parameters(model)["encoder/backbone/norm/norm/scale"].dtype == jnp.float16
    save_pretrained(model, tmp_path / "again")
    before, after = (load_file(p / "model.safetensors") for p in (mixed, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert (array.dtype, array.tobytes()) == (after[name].dtype, after[name].tobytes()), name


@pytest.mark.parametrize("said", [{}, {"torch_dtype": "bfloat16"}, {"dtype": "bfloat16"}])
def test_products_are_in_the_dtype_of_the_config_or_the_one_asked_for(said, mixed):
    config = json.loads((mixed / "config.json").read_text())
    (mixed / "config.json").write_text(json.dumps(config | said))
    wanted = "bfloat16" if said else "float32"
    assert from_pretrained(mixed).encoder.dtype == wanted
    model = from_pretrained(mixed, dtype="float32", param_dtype=jnp.float16)
    assert model.encoder.dtype == "float32"
    assert {a.dtype for a in parameters(model).values()} == {jnp.dtype("float16")}


def test_layers_of_two_dtypes_come_together_in_the_wider_one(tmp_path):
    path = shutil.copytree(folder("mamba"), tmp_path / "two")
    arrays = load_file(path / "model.safetensors")
    name = "backbone.layers.0.mixer.D"
    arrays[name] = arrays[name].astype(np.float16)
    save_file(arrays, path / "model.safetensors")
    found = parameters(from_pretrained(path))["encoder/backbone/stack/units/mixer/D"]
    np.testing.assert_array_equal(found[0], arrays[name])
    np.testing.assert_array_equal(found[1], arrays["backbone.layers.1.mixer.D"])


WIDE = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "vocab_size": 96, "head_dim": 16},
    "gpt2": {"n_embd": 64, "n_positions": 32, "vocab_size": 96},  # q, k and v in one tensor
}


@pytest.fixture(scope="module")
def wide(request, tmp_path_factory):
    """A model of widths that eight devices divide, with random weights."""
    name = getattr(request, "param", "llama")
    path = tmp_path_factory.mktemp("wide") / name
    path.mkdir()
    config = json.loads((folder(name) / "config.json").read_text()) | WIDE[name]
    (path / "config.json").write_text(json.dumps(config))
    translation = load.translate(config)
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for bound in bind(translation.rules, slots_of(load.abstract(translation)))
        for name, shape in zip(bound.tensors, bound.expected(), strict=True)
    }
    save_file(arrays, path / "model.safetensors")
    return path


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("wide", "explicit"), [("llama", False), ("gpt2", True)], indirect=["wide"]
)
def test_a_mesh_gets_its_parts_and_no_device_a_whole_array(explicit, wide, monkeypatch):
    """Neither of what is read, nor of what is made of it; and nothing is sent around."""
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((1, 8), ("data", "fsdp"), axis_types=(kind, kind))
    seen, programs = [], []
    read, writer = fill._read, fill._writer

    def spy_read(tensors, places, at_once):
        out = read(tensors, places, at_once)
        seen.extend(out.values())
        return out

    def spy_writer(*how):
        write = writer(*how)

        def run(*args):
            programs.append(write.lower(*args).compile().as_text())
            return write(*args)

        return run

    expected = parameters(from_pretrained(wide))
    monkeypatch.setattr(fill, "_read", spy_read)
    monkeypatch.setattr(fill, "_writer", spy_writer)
    model = from_pretrained(wide, mesh=mesh)
    assert_same(expected, parameters(model))
    for path, array in parameters(model).items():
        assert array.sharding.spec == partition(path, array.shape, mesh)[0], path
        if path.endswith(("kernel", "embedding", "position_embed")):
            assert largest_part(array) == array.size // 8, path
    assert len(seen) == len(checkpoints.open_checkpoint(wide).tensors)
    assert all(largest_part(a) == a.size // 8 for a in seen if a.ndim > 1)
    assert not [p for p in programs if "all-gather" in p]


def largest_part(array):
    return max(shard.data.size for shard in array.addressable_shards)


def test_a_mesh_computes_what_one_device_does(wide):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 96, (2, 7)))
    expected = from_pretrained(wide)(tokens)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda m, x: m(x))(from_pretrained(wide, mesh=mesh), tokens)
    assert_close(found, expected, ratio=1e-5)


def test_what_is_saved_was_loaded_or_has_a_config(tmp_path):
    model = from_pretrained(folder("llama"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="not empty; give a new folder"):
        save_pretrained(model, tmp_path)
    config = json.loads(model.published) | {"hidden_size": 32}
    with pytest.raises(ValueError, match="describes another model"):
        save_pretrained(model, tmp_path / "new", config=config)
    model.published = None
    with pytest.raises(ValueError, match="give config="):
        save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_length_sizes_the_state_and_layers_may_lie_apart():
    model = from_pretrained(folder("llama"), max_length=16, scan=False)
    shapes = [a.shape for a in jax.tree.leaves(model.init_state(3).inner)]
    assert max(shape[1] for shape in shapes if len(shape) == 4) == 16
    assert all(a.ndim <= 2 for a in parameters(model).values())
    io = golden("hf/llama/io")
    np.testing.assert_allclose(model(jnp.asarray(io["input_ids"])), io["logits"], atol=2e-5)


def test_what_files_have_once_must_still_be_one(tmp_path):
    model = from_pretrained(folder("deberta_v2_mlm"))
    tables = model.encoder.backbone.stack.units.mixer.positions.embed
    tables.set_value(tables[...].at[1, 0, 0].add(1e-3))
    with pytest.raises(ValueError, match=r"one 'deberta.encoder.rel_embeddings.weight' for all"):
        save_pretrained(model, tmp_path / "again")


def test_a_name_of_the_hub_needs_its_library_and_nothing_else(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(folder("llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert_same(
        parameters(from_pretrained("some/llama")), parameters(from_pretrained(folder("llama")))
    )
    assert asked == [("some/llama", list(checkpoints.WANTED))]
    assert not any(pattern.endswith((".py", ".bin")) for pattern in checkpoints.WANTED)
    monkeypatch.setattr(checkpoints.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install huggingface_hub"):
        from_pretrained("some/llama")
    with pytest.raises(ValueError, match="does not exist"):
        from_pretrained("../some/llama")
