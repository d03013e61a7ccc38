"""Adapters: their arithmetic, what is trained, and their files beside the library's."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from seqzoo.models import from_pretrained, save_pretrained
from seqzoo.models.linear import Linear
from seqzoo.models.partition import partition
from seqzoo.models.pretrained.adapters import (
    OWN,
    Adapted,
    adapt,
    adapted,
    adapter_of,
    merge_adapters,
)
from tests.golden import FOLDER, golden
from tests.helpers import assert_close, x64
from tests.models.pretrained.published import folder

PEFT = FOLDER / "peft"
TOKENS = jnp.arange(14).reshape(2, 7)


def changed(name, text):
    """A published model whose adapter has learned something."""
    model = from_pretrained(folder(name))
    adapt(model, text, rngs=nnx.Rngs(0))
    for i, module in enumerate(adapted(model).values()):
        draw = jax.random.normal(jax.random.key(i), module.lora_b.shape)
        module.lora_b.set_value(draw)
        if module.magnitude is not None:
            module.magnitude.set_value(module.magnitude[...] * (1.5 - draw[..., 0, :] / 4))
    return model


@pytest.mark.every_case
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_a_projection_is_the_formula_in_float64(kind):
    """Outputs and gradients; DoRA's norm is a constant to these."""
    with x64():
        rng = np.random.default_rng(0)
        w, a, b = rng.normal(size=(5, 4)), rng.normal(size=(5, 2)), rng.normal(size=(2, 4))
        x, bias, m, out = (rng.normal(size=n) for n in ((3, 5), 4, 4, (3, 4)))
        linear = Linear(5, 4, param_dtype=np.float64, rngs=nnx.Rngs(0))
        linear.kernel.set_value(jnp.asarray(w))
        linear.bias.set_value(jnp.asarray(bias))

        def made(a, b):
            module = Adapted(linear, jnp.asarray(a), jnp.asarray(b), 1.5, kind == "dora")
            if kind == "dora":
                module.magnitude.set_value(jnp.asarray(m))
            return module

        whole = w + 1.5 * a @ b
        gain = m / np.linalg.norm(whole, axis=0) if kind == "dora" else np.ones(4)
        assert_close(made(a, b)(x), x @ whole * gain + bias, ratio=1e-12)
        assert_close(made(a, b).matrix(), whole * gain, ratio=1e-12)

        grads = jax.grad(lambda a, b: jnp.sum(made(a, b)(x) * out), (0, 1))
        for found, grad in zip(
            grads(jnp.asarray(a), jnp.asarray(b)),
            (1.5 * x.T @ (out * gain) @ b.T, 1.5 * (x @ a).T @ (out * gain)),
            strict=True,
        ):
            assert_close(found, grad, ratio=1e-12)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama", "dora:rank=2,alpha=3,on=(q|v|down)_proj"),
        ("jamba", "lora:rank=2,on=(_proj$)"),
        ("kimi_linear", "lora:rank=2,on=(kv|router|q)_proj"),
    ],
)
def test_an_adapter_changes_nothing_then_streams_and_merges(name, text):
    model = from_pretrained(folder(name))
    before = model(TOKENS)
    adapt(model, text, rngs=nnx.Rngs(0))
    assert_close(model(TOKENS), before, ratio=1e-6)
    learned = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert all(OWN.fullmatch("/".join(map(str, path))) for path, _ in learned)
    model = changed(name, text)
    y = model(TOKENS)
    assert float(jnp.abs(y - before).max()) > 0.1
    first, state = model.extend(TOKENS[:, :3], model.init_state(2))
    rest, _ = model.extend(TOKENS[:, 3:], state)
    assert_close(jnp.concatenate([first, rest], 1), y, ratio=1e-5)
    merge_adapters(model)
    assert not adapted(model)
    assert_close(model(TOKENS), y, ratio=1e-5)


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", ["llama_lora", "gpt2_dora"])
def test_files_of_the_library_give_what_it_gave_and_come_out_again(name, tmp_path):
    base, io = folder(name.partition("_")[0]), golden(f"peft/{name}/io")
    model = from_pretrained(base, adapter=PEFT / name)
    logits = model(jnp.asarray(io["input_ids"]))
    np.testing.assert_allclose(logits, io["logits"], atol=2e-5)
    save_pretrained(model, tmp_path / "adapter")
    save_pretrained(model, tmp_path / "whole", merge=True)
    assert_close(from_pretrained(tmp_path / "whole")(io["input_ids"]), logits, ratio=1e-5)
    again = from_pretrained(base, adapter=tmp_path / "adapter")
    assert_close(again(io["input_ids"]), logits, ratio=1e-6)
    assert adapted(model)  # as it was
    ours, theirs = (
        load_file(p / "adapter_model.safetensors") for p in (tmp_path / "adapter", PEFT / name)
    )
    assert ours.keys() == theirs.keys()


def test_devices_hold_parts_of_an_adapter():
    mesh = jax.make_mesh((2, 4), ("tensor", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    model = from_pretrained(folder("llama"), mesh=mesh, adapter=PEFT / "llama_lora")
    for path, module in adapted(model).items():
        for name in ("lora_a", "lora_b"):
            value = getattr(module, name)[...]
            assert value.sharding.spec == partition(f"{path}/{name}", value.shape, mesh)[0]
            assert partition(f"{path}/{name}", value.shape, mesh)[1]
    io = golden("peft/llama_lora/io")
    with jax.set_mesh(mesh):
        found = jax.jit(lambda m, x: m(x))(model, jnp.asarray(io["input_ids"]))
    np.testing.assert_allclose(found, io["logits"], atol=2e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lore:rank=2", "unknown adapter 'lore'"),
        ("lora:rang=2", "unknown option of adapter 'rang'; did you mean rank"),
        ("lora:rank=two", "rank is an integer"),
        ("lora:rank=0", "rank is at least 1"),
        ("lora:8", "KIND:name=value"),
        ("lora:on=(q", "on is no regular expression"),
        ("lora:on=z_proj", r"found in no projection's path; there are .*q_proj"),
    ],
)
def test_what_is_no_adapter_is_said(text, words):
    with pytest.raises(ValueError, match=words):
        adapt(from_pretrained(folder("llama")), text, rngs=nnx.Rngs(0))


def test_a_text_is_its_value():
    for text in ("dora:rank=2,alpha=3.5,on=q_proj,whole=norm", "lora"):
        assert adapter_of(str(adapter_of(text))) == adapter_of(text)


def damaged(path, change):
    """A copy of a published adapter with another config or other tensors."""
    shutil.copytree(PEFT / "llama_lora", path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | change))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"peft_type": "LOHA"}, "peft_type='LOHA'"),
        ({"use_rslora": True}, "use_rslora=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.'lm_head'"),
        ({"use_dora": True}, "lacks a part of its adapter"),
        ({"r": 0}, "r must be a size"),
    ],
)
def test_files_that_are_not_handled_are_named(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        from_pretrained(folder("llama"), adapter=damaged(tmp_path / "adapter", change))


def test_an_adapter_of_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no projection of the model takes"):
        from_pretrained(folder("gpt2"), adapter=PEFT / "llama_lora")
    with pytest.raises(ValueError, match="is no adapter"):
        from_pretrained(folder("gpt2"), adapter=tmp_path)
