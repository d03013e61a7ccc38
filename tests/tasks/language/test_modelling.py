"""Language modelling as a task: rows, metrics, baselines."""

import bz2
import dataclasses
import json
import lzma
import pickle
import zlib

import jax
import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.language import compressors
from seqzoo.tasks.language.wikitext103 import WikiText103

TEXT = b"".join(b"line %d of some text, some words\n" % (i * i % 977) for i in range(900))


@pytest.fixture
def task(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    return build("bytes", data=str(tmp_path / "text"), length=64)


@pytest.mark.parametrize("rows", ["windows", "packed", "lanes"])
@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_rows_hold_the_text(task, rows, tokenizer):
    task = dataclasses.replace(task, rows=rows, tokenizer=tokenizer, bpe_size=300)
    assert build("bytes", **json.loads(json.dumps(dataclasses.asdict(task)))) == task
    for split in ("train", "validation", "test"):
        source = task.source(split, 1)
        examples = [source[i] for i in range(len(source))]
        tokens = sum(int((example["targets"] != -100).sum()) for example in examples)
        assert tokens == len(task.stream(split).tokens) - 1
        assert max(example["inputs"].max() for example in examples) < task.spec.vocab_size
        if tokenizer == "bpe":
            first = task.make_tokenizer().bytes_of[task.stream(split).tokens[0]]
            counted = sum(example["bytes"] for example in examples)
            assert counted == len(task.text(split).data) - first
        for wrong in (-1, len(source)):
            with pytest.raises(IndexError):
                source[wrong]
    again = pickle.loads(pickle.dumps(source))
    assert len(pickle.dumps(source)) < 1000  # the options, not the text
    assert np.array_equal(again[1]["inputs"], source[1]["inputs"])
    assert task.decode(task.source("train")[0]).startswith("'line 0 of some text")
    assert (task.spec.packed, task.stateful) == (rows == "packed", rows == "lanes")
    assert ("segment_ids" in source[0]) == (rows == "packed")


def test_bits_are_counted_over_bytes_and_words(task):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 4, 5)).astype(np.float32)
    targets = rng.integers(5, size=(3, 4))
    targets[1, 2:] = -100
    weight = np.array([1, 1, 0], np.float32)
    count = np.array([9, 5, 100], np.float32)
    batch = {"targets": targets, "weight": weight, "bytes": count, "words": count / 4}
    found = {k: float(t / w) for k, (t, w) in jax.jit(task.measure)(logits, batch).items()}
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = sum(
        -np.log(p[b, t, targets[b, t]]) for b in (0, 1) for t in range(4) if targets[b, t] >= 0
    )
    assert found["loss"] == pytest.approx(nats / 6, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / 14 / np.log(2), rel=1e-5)
    assert found["nats_per_word"] == pytest.approx(nats / 3.5, rel=1e-5)
    assert task.derived(found)["word_perplexity"] == pytest.approx(np.exp(nats / 3.5), rel=1e-5)
    del batch["bytes"], batch["words"]
    total, size = jax.jit(task.measure)(logits, batch)["bits_per_byte"]
    assert float(total / size) == pytest.approx(nats / 6 / np.log(2), rel=1e-5)
    assert not task.derived({"loss": 1.0})


def test_words_of_all_rows_are_the_published_number(tmp_path, monkeypatch):
    data = b" \n = T = \n \n" + b" some words here . \n" * 60
    words = len(data.split()) + data.count(b"\n")
    splits = ("train", "validation", "test")
    monkeypatch.setattr(WikiText103, "LINES", dict.fromkeys(splits, data.count(b"\n")))
    monkeypatch.setattr(WikiText103, "WORDS", dict.fromkeys(splits, words))
    for short in ("train", "valid", "test"):
        (tmp_path / f"wiki.{short}.tokens").write_bytes(data)
    task = build("wikitext103", data=str(tmp_path), length=100)
    source = task.source("test")
    counted = sum(source[i]["words"] for i in range(len(source)))
    assert counted == pytest.approx(words * (len(data) - 1) / len(data), rel=1e-5)
    best = task.baselines()["xz -9"]
    bits = 8 * len(lzma.compress(data, preset=9)) / len(data)
    assert best == pytest.approx(2 ** (bits * len(data) / words), rel=1e-5)


def test_baselines_are_what_the_compressors_reach(task, cache_folder):
    data = TEXT[len(TEXT) * 19 // 20 :]
    bits = task.baselines("test")
    assert bits["zlib -9"] == 8 * len(zlib.compress(data, 9)) / len(data)
    assert bits["bzip2 -9"] == 8 * len(bz2.compress(data, 9)) / len(data)
    assert bits["xz -9"] == 8 * len(lzma.compress(data, preset=9)) / len(data)
    assert bits["xz -9 after train"] < bits["xz -9"]
    p = np.bincount(np.frombuffer(data, np.uint8)) / len(data)
    assert bits["byte frequencies"] == pytest.approx(-(p[p > 0] * np.log2(p[p > 0])).sum())
    assert len(list(cache_folder.glob("compressed-*.json"))) == 1
    assert task.baselines("test") == bits
    assert "xz -9 after train" not in task.baselines("train")
    assert not task.higher_is_better


def test_of_long_texts_the_beginning_is_compressed(monkeypatch):
    monkeypatch.setattr(compressors, "MOST", 1_000_000)
    data = np.frombuffer(TEXT, np.uint8)
    long = np.tile(data, 1_100_000 // len(data) + 1)
    assert "zlib -9 (first 1 MB)" in compressors.bits_per_byte(long)


def test_part_of_the_validation_split_can_count(task):
    part = dataclasses.replace(task, validation_bytes=200)
    assert len(part.source("validation")) == 4  # 199 targets
    assert len(part.source("test")) == len(task.source("test"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be an integer, at least 1"),
        ({"rows": "row"}, "rows must be one of windows, packed, lanes; got 'row'"),
        ({"tokenizer": "x"}, "tokenizer must be one of byte, bpe"),
        ({"bpe_size": 256}, "bpe_size must be an integer, 257 to"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("bytes", **options)


def test_a_text_shorter_than_a_row_is_refused(task):
    with pytest.raises(ValueError, match=r"test split has \d+ tokens; .*length=5000"):
        dataclasses.replace(task, length=5000).source("test")
