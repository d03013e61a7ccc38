import numpy as np
import pytest

from seqzoo.tasks.lra.retrieval import Retrieval
from seqzoo.tasks.lra.text import Text
from tests.tasks import published

SIZES = {"train_size": 4, "validation_size": 4, "test_size": 4}
PAIRS = {"train_size": 3, "validation_size": 3, "test_size": 3}
TEXTS = [text for text, _ in published.REVIEWS]


@pytest.fixture(params=["parquet", "folder", "archive"])
def imdb(request, tmp_path):
    """A folder with IMDB in each of its formats."""
    if request.param == "parquet":
        published.imdb_parquet(tmp_path)
    elif request.param == "folder":
        published.folder_of(tmp_path, published.imdb_files())
    else:
        published.tar(tmp_path / "aclImdb_v1.tar.gz", published.imdb_files())
    return tmp_path


def test_every_format_of_imdb_gives_the_same_reviews(imdb):
    task = Text(data=str(imdb), protocol="google2020", **SIZES)
    for split in ("train", "validation", "test"):
        source = task.source(split)
        found = {task.decode(example) for example in source}
        expected = {
            f"{text.encode()[:4000].decode('utf-8', 'ignore')}\n= {['negative', 'positive'][label]}"
            for text, label in published.REVIEWS
        }
        assert found == expected


def test_bytes_are_padded_on_the_right_behind_a_token_to_read_out(tmp_path):
    task = Text(data=str(published.imdb_parquet(tmp_path)), protocol="google2020", **SIZES)
    assert (task.spec.vocab_size, task.spec.length, task.spec.pooling) == (258, 4001, "first")
    example = task.source("train")[1]
    content = TEXTS[1].encode()
    assert example["inputs"][0] == 257
    assert (example["inputs"][1 : 1 + len(content)] - 1).tolist() == list(content)
    assert not example["inputs"][1 + len(content) :].any()
    assert example["segment_ids"].sum() == 1 + len(content)
    nystrom = Text(data=str(tmp_path), protocol="nystrom-small", **SIZES)
    assert (nystrom.source("train")[1]["inputs"][: len(content)] - 1).tolist() == list(content)
    long = nystrom.source("train")[3]["inputs"]
    assert (long > 0).all()
    assert len(long) == 4000


def test_characters_are_ranked_by_the_training_texts(tmp_path):
    options = {"protocol": "own", "length": 40, "vocab_size": 12, "min_count": 2}
    task = Text(data=str(published.imdb_parquet(tmp_path)), unit="characters", **options, **SIZES)
    cut = "".join(text[:39] for text in TEXTS)  # what the model sees, as in the original
    ranked = sorted(set(cut), key=lambda c: (-cut.count(c), c))
    ranked = [c for c in ranked if cut.count(c) >= 2][:9]
    assert "".join(map(chr, task.alphabet())) == "".join(ranked)
    ids = {c: i for i, c in enumerate(ranked, 3)}
    for i, text in enumerate(TEXTS):
        tokens = [ids.get(c, 1) for c in text[:39]] + [2]
        example = task.source("train")[i]
        assert example["inputs"].tolist() == tokens + [0] * (40 - len(tokens))
    assert task.spec.vocab_size == 12
    assert "□" in task.decode(task.source("train")[1])  # é is rare


def test_published_settings_of_characters(tmp_path):
    task = Text(data=str(published.imdb_parquet(tmp_path)), **SIZES)
    assert (task.spec.vocab_size, task.spec.length, task.spec.pooling) == (135, 4096, "mean")
    long = task.source("train")[3]["inputs"]
    assert long[4095] == 2
    assert (long[:4095] > 2).all()
    with pytest.raises(ValueError, match=r"length=1000 is not of protocol s4 \(4096\)"):
        Text(length=1000)


def test_the_alphabet_is_counted_once(tmp_path, monkeypatch):
    task = Text(data=str(published.imdb_parquet(tmp_path)), **SIZES)
    first = task.alphabet()
    monkeypatch.setattr(Text, "_count", None)
    assert np.array_equal(task.alphabet(), first)


def test_wrong_counts_are_refused(tmp_path):
    published.aan(tmp_path)
    with pytest.raises(
        ValueError, match=r"test files in .* hold 3 examples, but test_size = 17437"
    ):
        Retrieval(data=str(tmp_path)).source("test")
    published.imdb_parquet(tmp_path)
    with pytest.raises(ValueError, match="hold 4 examples, but train_size = 25000"):
        Text(data=str(tmp_path)).source("train")


def test_missing_data_says_what_to_fetch(tmp_path):
    for kind, words in ((Text, ("42 MB", "huggingface")), (Retrieval, ("8.5 GB", "tsv_data"))):
        with pytest.raises(FileNotFoundError) as caught:
            kind(data=str(tmp_path)).source("train")
        for word in (*words, kind.name, "--data.data"):
            assert word in str(caught.value)
