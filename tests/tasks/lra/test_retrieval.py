import numpy as np
import pytest

from seqzoo.tasks.data import cache
from seqzoo.tasks.lra.retrieval import Retrieval
from tests.tasks import published

PAIRS = {"train_size": 3, "validation_size": 3, "test_size": 3}


@pytest.mark.parametrize(
    "layout", ["lra_release/lra_release/tsv_data", "tsv_data", "data/aan", "."]
)
def test_pairs_are_read_wherever_they_are(tmp_path, layout):
    published.aan(tmp_path / layout)
    task = Retrieval(data=str(tmp_path), protocol="nystrom-small", **PAIRS)
    assert (task.spec.head, task.spec.vocab_size, task.spec.length) == ("two_tower", 257, 4000)
    for split in ("train", "validation", "test"):
        for example, (label, _, _, *texts) in zip(task.source(split), published.PAIRS, strict=True):
            assert example["targets"] == float(label)
            for row, text in zip(example["inputs"], texts, strict=True):
                content = text.encode()[:4000]
                assert (row[: len(content)] - 1).tolist() == list(content)
                assert not row[len(content) :].any()


def test_pairs_in_characters_share_an_alphabet(tmp_path):
    task = Retrieval(data=str(published.aan(tmp_path)), **PAIRS)
    source = task.source("train")
    assert source[0]["inputs"].shape == (2, 4000)
    first = source[1]["inputs"]
    alphabet = task.alphabet()
    assert "".join(chr(alphabet[i - 3]) for i in first[0, :12]) == "café society"
    assert first[0, 12] == 2
    assert (first[1, :3999] == 3).all()  # x is the commonest
    assert first[1, 3999] == 2
    assert "café society" in task.decode(source[1])
    assert task.prepare("test")[2]["targets"] == 1


def test_reading_continues_from_the_cache(tmp_path, cache_folder):
    task = Retrieval(data=str(published.aan(tmp_path)), protocol="google2020", **PAIRS)
    first = task.source("test")[1]["inputs"]
    assert isinstance(task.rows("test"), cache.CachedRows)
    assert np.array_equal(task.source("test")[1]["inputs"], first)
    assert first[0, 0] == first[1, 0] == 257


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.0\ta\tb\tc", "expected 5 columns separated by tabs; got 4"),
        ("", "got 1"),
        ("2.0\ta\tb\tc\td", "label must be 0.0 or 1.0; got '2.0'"),
        ("label\ta\tb\tc\td", "got 'label'"),
        ("1.0\ta\tb\tc\td\te", "got 6"),
    ],
)
def test_malformed_lines_are_named(tmp_path, line, message):
    file = published.aan(tmp_path) / "new_aan_pairs.test.tsv"
    file.write_text(f"1.0\ta\tb\tc\td\n{line}\n0.0\ta\tb\tc\td\n")
    with pytest.raises(ValueError, match=message) as caught:
        Retrieval(data=str(tmp_path), **PAIRS).source("test")
    assert f"{file}, line 2: " in str(caught.value)


def test_bytes_that_are_no_text_are_named(tmp_path):
    file = published.aan(tmp_path) / "new_aan_pairs.test.tsv"
    file.write_bytes(b"1.0\ta\tb\tc\td\n" * 2 + b"1.0\ta\tb\t\xff\td")
    with pytest.raises(ValueError, match=r"test.tsv, line 3: .*utf-8"):
        Retrieval(data=str(tmp_path), **PAIRS).source("test")
