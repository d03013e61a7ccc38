import numpy as np
import pytest

from seqzoo.tasks.lra.expression_trees import CHECKSUMS, Grammar, checksum_of
from seqzoo.tasks.lra.expressions import (
    CLOSE_TOKEN,
    FIRST_OPERATOR,
    evaluate_tokens,
    tokens_to_expression,
)
from tests.references import listops as reference

SHORT = Grammar(min_length=20, max_length=100)
COUNT = 2000


@pytest.fixture(scope="module")
def trees():
    """Parsed random trees of ours and of the recursion."""
    ours = [SHORT.sample(i * 4999 % CHECKSUMS, "test", i) for i in range(COUNT)]
    parsed = [reference.parse(tokens_to_expression(tokens).split()) for tokens in ours]
    return parsed, reference.accepted_trees(0, COUNT, 20, 100)


def operators(tree):
    if isinstance(tree, int):
        return []
    return [tree[0], *(name for part in tree[1:] for name in operators(part))]


def digits(tree):
    return [tree] if isinstance(tree, int) else [d for part in tree[1:] for d in digits(part)]


STATISTICS = {
    "length": reference.length,
    "depth": reference.depth,
    "root arguments": len,
    "arguments that are digits": lambda tree: np.mean([isinstance(p, int) for p in tree[1:]]),
    "operators": lambda tree: len(operators(tree)),
    "sums": lambda tree: operators(tree).count("[SM"),
    "root is a minimum": lambda tree: tree[0] == "[MIN",
    "first digit": lambda tree: digits(tree)[0],
    "last digit": lambda tree: digits(tree)[-1],
    "zeros": lambda tree: digits(tree).count(0),
    "value": reference.value,
}


@pytest.mark.of_the_day("official trees", 3)
@pytest.mark.parametrize("name", STATISTICS)
def test_distribution_is_that_of_the_official_recursion(trees, name):
    ours, theirs = ([STATISTICS[name](tree) for tree in some] for some in trees)
    spread = np.sqrt((np.var(ours) + np.var(theirs)) / COUNT)
    assert abs(np.mean(ours) - np.mean(theirs)) < 3.5 * spread
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.1)


@pytest.mark.of_the_day("official trees", 3)
def test_values_are_those_of_numpy(trees):
    for i, tree in enumerate(trees[0][:300]):
        tokens = SHORT.sample(i * 4999 % CHECKSUMS, "test", i)
        assert evaluate_tokens(tokens) == reference.value(tree)


def test_every_expression_has_the_checksum_asked_for():
    for i in range(200):
        tokens = SHORT.sample(CHECKSUMS - 1 - i, "test", i)
        assert checksum_of(tokens) == CHECKSUMS - 1 - i


def test_the_checksum_reads_digits_only_and_all_of_them():
    tokens = SHORT.sample(0, "test", 5)
    first, last = (tokens < FIRST_OPERATOR).nonzero()[0][[0, -1]]
    for place in (first, last):
        other = tokens.copy()
        other[place] = other[place] % 10 + 1
        assert checksum_of(other) != 0
    assert checksum_of(tokens[tokens < FIRST_OPERATOR]) == 0


@pytest.mark.parametrize(("least", "most"), [(17, 17), (20, 20), (40, 45), (501, 1999)])
def test_bounds_hold_at_both_ends(least, most):
    grammar = Grammar(min_length=least, max_length=most)
    lengths = [len(grammar.sample(i, "bounds", i)) for i in range(30)]
    assert least <= min(lengths)
    assert max(lengths) <= most


def test_operators_stand_at_depths_below_ten_only():
    grammar = Grammar(min_length=501, max_length=1999)
    for i in range(30):
        tokens = grammar.sample(i, "depth", i).astype(int)
        opened = (tokens >= FIRST_OPERATOR) & (tokens < CLOSE_TOKEN)
        assert np.max(np.cumsum(opened) - np.cumsum(tokens == CLOSE_TOKEN)) == 9


def test_bounds_that_cannot_be_met_are_refused():
    with pytest.raises(ValueError, match="min_length=16"):
        Grammar(min_length=16, max_length=100)
    with pytest.raises(ValueError, match="max_length=19"):
        Grammar(min_length=20, max_length=19)
    with pytest.raises(ValueError, match="widen"):
        Grammar(min_length=50, max_length=60, max_depth=2).sample(0, "never")
