"""Checkpoints that are not what they say: an error names what, before anything is read."""

import json
import pathlib
import re
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from seqzoo.models import from_pretrained
from seqzoo.models.pretrained import load
from seqzoo.models.pretrained.folder import is_published
from tests.models.pretrained.published import folder

NORM = "model.norm.weight"


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A Llama that may be damaged; reading a tensor of it fails."""

    def never(*args):
        raise AssertionError("tensors were read")

    monkeypatch.setattr(load, "fill", never)
    return shutil.copytree(folder("llama"), tmp_path / "llama")


def weights(path):
    return path / "model.safetensors"


def header_of(path):
    data = weights(path).read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def write(path, header, body, size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if size is None else size
    weights(path).write_bytes(struct.pack("<Q", length) + text + body)


def in_header(change):
    """The damage of a header that `change` is given to change in place."""

    def damage(path):
        header, body = header_of(path)
        change(header)
        write(path, header, body)

    return damage


def entry(**fields):
    return in_header(lambda header: header[NORM].update(fields))


def in_config(**fields):
    def damage(path):
        config = json.loads((path / "config.json").read_text())
        config |= {k: v for k, v in fields.items() if v is not ...}
        config = {k: v for k, v in config.items() if fields.get(k) is not ...}
        (path / "config.json").write_text(json.dumps(config))

    return damage


def in_tensors(change):
    def damage(path):
        arrays = load_file(weights(path))
        change(arrays)
        save_file(arrays, weights(path))

    return damage


def raw(data):
    return lambda path: weights(path).write_bytes(data)


def moved(header):
    """The second tensor begins where the first does."""
    spans = sorted((e["data_offsets"], n) for n, e in header.items() if n != "__metadata__")
    (_, first), (_, second) = spans[:2]
    width = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    start = header[first]["data_offsets"][0]
    header[second]["data_offsets"] = [start, start + width]


def sparse(path):
    with weights(path).open("wb") as f:
        f.write(struct.pack("<Q", 100_000_001))
        f.truncate(100_000_100)


def twice(path):
    header, body = header_of(path)
    text = json.dumps(header)
    write(path, (text[:-1] + f', "{NORM}": {json.dumps(header[NORM])}' + "}").encode(), body)


def only(name):
    """The weights under another name, which is no safetensors file."""
    return lambda path: weights(path).rename(path / name)


def indexed(change):
    """Two files and an index, with a fault put in."""

    def damage(path):
        arrays = load_file(weights(path))
        weights(path).unlink()
        names = sorted(arrays)
        where = {n: f"part-{1 + (i % 2)}.safetensors" for i, n in enumerate(names)}
        for file in set(where.values()):
            save_file({n: arrays[n] for n in names if where[n] == file}, path / file)
        index = {"metadata": {}, "weight_map": where}
        change(path, index)
        (path / "model.safetensors.index.json").write_text(json.dumps(index))

    return damage


def second_file(path):
    save_file({"a": np.zeros(1, np.float32)}, path / "other.safetensors")
    weights(path).rename(path / "first.safetensors")


FILES = {
    "empty": (raw(b""), "no header"),
    "seven bytes": (raw(b"\x01" * 7), "no header"),
    "a page of HTML": (raw(b"<!DOCTYPE html><html>Not found</html>"), "above the format's limit"),
    "a pointer": (raw(b"version https://git-lfs.github.com/spec/v1\n"), "above the format's limit"),
    "a header of 2^63": (raw(struct.pack("<Q", 2**63) + b"{}"), "above the format's limit"),
    "a header of 100 MB": (sparse, "above the format's limit"),
    "a header past the end": (lambda p: write(p, b"{}", b"", size=99), "cut off"),
    "no JSON": (lambda p: write(p, b"{nothing", b""), "no JSON"),
    "no UTF-8": (lambda p: write(p, b'{"\xff": 1}', b""), "no JSON"),
    "a list": (lambda p: write(p, b"[1, 2]", b""), "no object"),
    "deep": (lambda p: write(p, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""), "deeply"),
    "a name twice": (twice, f"'{NORM}' stands twice"),
    "cut off": (lambda p: weights(p).write_bytes(weights(p).read_bytes()[:-9]), "cut off"),
    "bytes at the end": (
        lambda p: weights(p).write_bytes(weights(p).read_bytes() + b"x"),
        "belong to no tensor",
    ),
    "past the end": (entry(data_offsets=[10**9, 10**9 + 64]), f"'{NORM}' ends at byte"),
    "overlapping": (in_header(moved), "overlap"),
    "a hole": (in_header(lambda h: h.pop(NORM)), "belong to no tensor"),
    "offsets in reverse": (entry(data_offsets=[64, 0]), f"'{NORM}'.*hold -64"),
    "negative offsets": (entry(data_offsets=[-64, 0]), "data_offsets"),
    "three offsets": (entry(data_offsets=[0, 32, 64]), "two data_offsets"),
    "a negative size": (entry(shape=[-16]), "shape"),
    "a size that is true": (entry(shape=[True]), "shape"),
    "a broken size": (entry(shape=[16.5]), "shape"),
    "a vast size": (entry(shape=[10**30, 10**30]), f"'{NORM}'"),
    "another dtype": (entry(dtype="F33"), "unknown dtype 'F33'"),
    "a dtype that is a number": (entry(dtype=32), "unknown dtype 32"),
    "float8": (entry(dtype="F8_E4M3"), "quantised"),
    "no dtype": (in_header(lambda h: h[NORM].pop("dtype")), f"'{NORM}' needs dtype"),
    "one field more": (entry(codec="zip"), f"'{NORM}' needs dtype"),
    "a number for a tensor": (in_header(lambda h: h.update({NORM: 3})), f"'{NORM}' needs"),
    "metadata": (in_header(lambda h: h.update(__metadata__=3)), "__metadata__"),
}
FOLDERS = {
    "no folder": (shutil.rmtree, "does not exist"),
    "no config": (lambda p: (p / "config.json").unlink(), "has no config.json"),
    "no weights": (lambda p: weights(p).unlink(), "has no safetensors"),
    "a pickle": (only("pytorch_model.bin"), "pytorch_model.bin.*run any code"),
    "another pickle": (only("model.pt"), "model.pt.*safetensors"),
    "two files": (second_file, "several files and no"),
    "no index": (
        lambda p: (p / "model.safetensors.index.json").write_text("{"),
        "index.json: no JSON",
    ),
    "an index of nothing": (
        lambda p: (p / "model.safetensors.index.json").write_text("{}"),
        "weight_map",
    ),
    "a file missing": (
        indexed(lambda p, i: (p / "part-2.safetensors").unlink()),
        "lacks part-2.safetensors",
    ),
    "a file elsewhere": (
        indexed(lambda p, i: i["weight_map"].update({NORM: "../x.safetensors"})),
        "no safetensors file of its folder",
    ),
    "another file": (
        indexed(
            lambda p, i: i["weight_map"].update(
                {n: "part-1.safetensors" for n in i["weight_map"] if n == NORM}
                | {"lm_head.weight": "part-2.safetensors"}
            )
        ),
        "part-",
    ),
    "a tensor too many in the index": (
        indexed(lambda p, i: i["weight_map"].update(more="part-1.safetensors")),
        "'more' in part-1.safetensors, which does not hold it",
    ),
    "a tensor that the index lacks": (
        indexed(lambda p, i: i["weight_map"].pop(NORM)),
        f"'{NORM}' in no file",
    ),
}
CONFIGS = {
    "no JSON": (lambda p: (p / "config.json").write_text("model"), "config.json: no JSON"),
    "a list": (lambda p: (p / "config.json").write_text("[]"), "no object"),
    "no kind": (in_config(model_type=...), "lacks 'model_type'"),
    "another kind": (in_config(model_type="lama"), "did you mean 'llama'"),
    "a kind that is a list": (in_config(model_type=["llama"]), "model_type"),
    "a classifier": (in_config(architectures=["LlamaForTokenClassification"]), "architectures"),
    "two architectures": (in_config(architectures=["LlamaForCausalLM"] * 2), "architectures"),
    "an encoder": (in_config(is_encoder_decoder=True), "is_encoder_decoder=True"),
    "no width": (in_config(hidden_size=...), "lacks 'hidden_size'"),
    "a width in words": (in_config(hidden_size="16"), "hidden_size must be a size"),
    "a negative width": (in_config(hidden_size=-16), "hidden_size must be a size"),
    "a width that is true": (in_config(hidden_size=True), "hidden_size must be a size"),
    "no heads": (in_config(num_attention_heads=0), "num_attention_heads must be a size"),
    "heads that do not divide": (in_config(num_key_value_heads=3), "num_kv_heads"),
    "an odd head": (in_config(head_dim=3), "cannot be rotated"),
    "a bias in words": (in_config(attention_bias="no"), "attention_bias must be true or false"),
    "endless eps": (in_config(rms_norm_eps=float("inf")), "rms_norm_eps must be a number"),
    "another activation": (in_config(hidden_act="relu6"), "hidden_act='relu6'"),
    "another rope": (
        in_config(rope_parameters={"rope_type": "longrope", "rope_theta": 1e4}),
        "rope_type='longrope'",
    ),
    "a rope with more": (
        in_config(rope_parameters={"rope_type": "default", "rope_theta": 1e4, "spin": 2}),
        "rope_parameters: not handled.*spin=2",
    ),
    "a key that nobody reads": (in_config(attention_sinks=4), "attention_sinks=4"),
    "quantised": (in_config(quantization_config={"bits": 4}), "quantization_config"),
    "more layers than tensors": (in_config(num_hidden_layers=10**6), "1000000 layers"),
    "endless layers": (in_config(num_hidden_layers=10**9), "depth must be 1 to"),
    "one layer more": (in_config(num_hidden_layers=3), r"no tensor 'model\.layers\.2\."),
    "one layer less": (in_config(num_hidden_layers=1), r"takes the tensor 'model\.layers\.1\."),
    "tied, and not equal": (in_config(tie_word_embeddings=True), "lm_head.weight"),
    "another vocabulary": (in_config(vocab_size=38), r"shape \[37, 16\]; the config asks for"),
    "a wider network": (in_config(intermediate_size=40), "gate_proj.weight' has the shape"),
    "biases that are not there": (in_config(mlp_bias=True), "no tensor .*bias"),
}
TENSORS = {
    "one missing": (in_tensors(lambda t: t.pop(NORM)), f"no tensor '{NORM}'"),
    "one more": (
        in_tensors(lambda t: t.update(extra=np.zeros(2, np.float32))),
        "takes the tensor 'extra'",
    ),
    "turned": (
        in_tensors(lambda t: t.update({"lm_head.weight": t["lm_head.weight"].T.copy()})),
        r"lm_head.weight' has the shape \[16, 37\]",
    ),
    "whole numbers": (in_tensors(lambda t: t.update({NORM: np.ones(16, np.int32)})), "of I32"),
    "twice as wide": (in_tensors(lambda t: t.update({NORM: np.ones(16)})), "jax_enable_x64"),
}
CASES = {
    f"{kind}: {name}": case
    for kind, cases in (
        ("file", FILES),
        ("folder", FOLDERS),
        ("config", CONFIGS),
        ("tensor", TENSORS),
    )
    for name, case in cases.items()
}


@pytest.mark.every_case
@pytest.mark.parametrize("name", CASES)
def test_a_malformed_checkpoint_is_named_and_nothing_is_read(name, checkpoint):
    damage, message = CASES[name]
    damage(checkpoint)
    with pytest.raises(ValueError, match=r"(?s)^.+$") as caught:
        from_pretrained(checkpoint)
    text = str(caught.value)
    assert re.search(message, text), text
    assert len(text) < 1000
    raised = pathlib.Path(caught.traceback[-1].path)
    assert raised.is_relative_to(pathlib.Path(load.__file__).parents[1])  # not a library's
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["0.5", "[]", '"model_type"', "null", "{"])
def test_a_folder_whose_configuration_is_no_object_holds_no_published_weights(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    assert not is_published(tmp_path)
