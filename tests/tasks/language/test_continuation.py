"""Text as it becomes certain: whole characters, stop strings over any tokens, the end."""

import numpy as np
import pytest
import tokenizers as library
from etils import epath

from seqzoo.tasks.language.continuation import Continuation
from seqzoo.tasks.language.tokenizers import BYTES, published

TEXT = "Zwei Wörter, 日本 und drei: STOP nicht."


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Byte-pair encoding that knows few pairs, so that characters are cut, and an end."""
    made = library.Tokenizer(library.models.BPE())
    made.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = library.decoders.ByteLevel()
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=270, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    made.train_from_iterator([TEXT], trainer)
    file = epath.Path(tmp_path_factory.mktemp("words")) / "tokenizer.json"
    file.write_text(made.to_str())
    return published(file)


def said(tokenizer, stop, tokens, end=frozenset()):
    row = Continuation(tokenizer, [int(t) for t in tokens[:3]], stop, end)
    parts = [row.push(int(t)) for t in tokens[3:]]
    return parts, b"".join([*parts, row.rest()])


@pytest.mark.parametrize("stop", [[], ["STOP"], ["x", "STOP ni", "drei: STOP"], ["nie"]])
@pytest.mark.parametrize("kind", ["bytes", "pairs"])
def test_text_ends_before_the_first_stop_string(words, kind, stop):
    tokenizer = BYTES if kind == "bytes" else words
    tokens = tokenizer.encode(TEXT.encode())
    begin = len(tokenizer.decode(tokens[:3]))
    whole = TEXT.encode()[begin:].decode()
    ends = [at for text in stop if (at := whole.find(text)) >= 0]
    parts, text = said(tokenizer, stop, tokens)
    assert text.decode() == whole[: min(ends, default=None)]
    if kind == "pairs":
        for part in parts:
            part.decode()  # never half a character
    assert sum(map(bool, parts)) > 5  # as they come, not all at the end


def test_a_token_ends_it_and_what_follows_is_not_said(words):
    tokens = [*words.encode(b"Zwei W"), 0, *words.encode(b"drei")]
    parts, text = said(words, [], np.asarray(tokens), frozenset({0}))
    assert (words.decode(np.asarray(tokens[:3])) + text).decode() == "Zwei W"
    assert not any(parts[tokens.index(0) - 3 :])


def test_what_is_no_tokenizer_is_named(tmp_path):
    file = epath.Path(tmp_path) / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer"):
        published(file)
