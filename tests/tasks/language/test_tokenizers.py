import json
import subprocess
import sys

import numpy as np
import pytest

from seqzoo.tasks.language.corpus import Corpus, joined
from seqzoo.tasks.language.tokenizers import BYTES, LETTERS, bpe

TEXT = (
    "def décode(x):\n    return x + x  # 𝕏 \t and more words, words words\n\n\nclass A:\n    pass\n"
)


@pytest.fixture
def text():
    return joined([(TEXT * 50).encode(), b"other words " * 30])


def test_letters_and_bytes_come_back():
    data = b"the quick brown fox"
    assert LETTERS.encode(b" az").tolist() == [0, 1, 26]
    assert LETTERS.decode(LETTERS.encode(data)) == data
    every = bytes(range(256))
    assert BYTES.decode(BYTES.encode(every)) == every
    with pytest.raises(ValueError, match=r"byte 65 at offset 3 is none of"):
        LETTERS.encode(b"abcA")


def test_bpe_gives_text_back_and_knows_its_bytes(text):
    tokenizer = bpe(text, 300, "key")
    for data in (TEXT.encode(), "naïve ẞ 🙂\r\n\x00".encode(), b""):
        ids = tokenizer.encode(data)
        assert tokenizer.decode(ids) == data
        assert tokenizer.bytes_of[ids].sum() == len(data)
    assert tokenizer.size == 300
    assert len(tokenizer.encode(TEXT.encode())) < len(TEXT.encode()) / 1.5


@pytest.mark.of_the_day("bpe again", 3)
def test_bpe_is_learned_once_and_the_same_every_time(text, cache_folder, monkeypatch):
    bpe(text, 280, "key")
    (path,) = cache_folder.glob("bpe-280-key-*.json")
    first = path.read_text()
    assert bpe(Corpus.one(np.zeros(0, np.uint8)), 280, "key").size == 280  # from the cache
    code = (
        "import sys; from pathlib import Path; "
        "from seqzoo.tasks.language.corpus import joined; "
        "from seqzoo.tasks.language.tokenizers import bpe; "
        "bpe(joined([Path(p).read_bytes() for p in sys.argv[1:]]), 280, 'other')"
    )
    files = []
    for i, document in enumerate(text.documents()):
        files.append(path.with_name(f"{i}.txt"))
        files[-1].write_bytes(document)
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True)
    (other,) = cache_folder.glob("bpe-280-other-*.json")
    assert json.loads(other.read_text()) == json.loads(first)


def test_too_large_a_vocabulary_and_text_that_is_none_are_refused(text):
    with pytest.raises(ValueError, match=r"tokenizer of \d+ tokens, not 5000"):
        bpe(text, 5000, "key")
    with pytest.raises(ValueError, match=r"not UTF-8 .*use tokenizer='byte'"):
        bpe(text, 300, "key").encode(b"\xff\xfe")


def test_long_text_is_encoded_in_pieces(text, monkeypatch):
    from seqzoo.tasks.language import tokenizers

    tokenizer = bpe(text, 300, "key")
    whole = tokenizer.encode(TEXT.encode() * 20)
    monkeypatch.setattr(tokenizers, "PIECE", 100)
    cut = tokenizer.encode(TEXT.encode() * 20)
    assert tokenizer.decode(cut) == TEXT.encode() * 20
    assert np.array_equal(cut, whole)  # pieces end at line ends, where no token crosses
