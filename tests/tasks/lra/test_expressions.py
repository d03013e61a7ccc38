import numpy as np
import pytest

from seqzoo.tasks.lra.expressions import (
    SYMBOLS,
    binarise,
    evaluate_tokens,
    expression_to_tokens,
    tokens_to_expression,
)
from seqzoo.tasks.lra.listops import evaluate
from tests.golden import golden


@pytest.fixture(scope="module")
def theirs():
    rows = golden("lra_listops/listops")
    assert len(rows) == 300
    return rows


def test_official_expressions_have_their_targets(theirs):
    wrong = [row for row in theirs if evaluate(row["Source"]) != int(row["Target"])]
    assert not wrong


def test_official_expressions_round_trip(theirs):
    for row in theirs:
        tokens = expression_to_tokens(row["Source"])
        assert len(tokens) == int(row["Length"])
        assert binarise(tokens) == row["Source"]
        text = tokens_to_expression(tokens)
        assert np.array_equal(expression_to_tokens(text), tokens)
        assert evaluate(text) == int(row["Target"])


def test_the_vocabulary_is_fixed():
    assert " ".join(SYMBOLS) == "0 1 2 3 4 5 6 7 8 9 [MIN [MAX [MED [SM ]"
    assert expression_to_tokens("[SM 0 9 ]").tolist() == [14, 1, 10, 15]
    assert tokens_to_expression([14, 1, 10, 15, 0, 0]) == "[SM 0 9 ]"


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7),
        ("[MED 2 3 ]", 2),  # 2.5, truncated
        ("[MED 9 1 5 ]", 5),
        ("[MED 1 9 4 7 ]", 5),
        ("[SM 9 9 9 ]", 7),
        ("[MIN 4 [MAX 1 8] 6]", 4),
        ("( ( ( [MAX 3 ) 9 ) ] )", 9),
    ],
)
def test_values(expression, value):
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "empty"),
        ("( )", "empty"),
        ("[MAX 1 2", r"1 operator\(s\) without '\]'"),
        ("[MAX 1 2 ] ]", "token 5 follows a complete expression"),
        ("3 4", "token 2 follows"),
        ("] 3", r"token 1, '\]', closes nothing"),
        ("[MAX ]", "token 2 has no value"),
        ("[MAX 1 12 ]", "'12'"),
        ("[AVG 1 2 ]", r"'\[AVG'"),
        ("[MAX 1 X", "'X'"),
        ("( [MAX 1 2 ]", "do not balance"),
        (") [MAX 1 2 ] (", "do not balance"),
    ],
)
def test_malformed_text_is_refused(expression, message):
    with pytest.raises(ValueError, match=message):
        evaluate(expression)


@pytest.mark.parametrize("tokens", [[12, 16, 15], [12, 2, 15, 0], [0], []])
def test_malformed_tokens_are_refused(tokens):
    with pytest.raises(ValueError, match="malformed expression"):
        evaluate_tokens(tokens)
    if 16 in tokens:
        with pytest.raises(ValueError, match="token 16 is not in the vocabulary of 0 to 15"):
            tokens_to_expression(tokens)
