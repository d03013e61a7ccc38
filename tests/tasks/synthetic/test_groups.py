import itertools

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.synthetic.groups import multiplication_table, running_products
from tests.tasks.examples import one_hot, stack, value

ORDERS = {"A5": 60, "S5": 120, "A4xZ5": 60, "Z60": 60, "Z2": 2, "S3xZ2xA4": 144}


@pytest.mark.parametrize("group", ORDERS)
def test_tables_are_groups_with_the_identity_first(group):
    table = multiplication_table(group)
    n = len(table)
    assert n == ORDERS[group]
    every = np.arange(n)
    assert np.array_equal(table[0], every)
    assert np.array_equal(table[:, 0], every)
    assert all(np.array_equal(np.sort(row), every) for row in (*table, *table.T))
    a, b, c = np.random.default_rng(0).integers(n, size=(3, 2000))
    assert np.array_equal(table[table[a, b], c], table[a, table[b, c]])
    commutes = np.array_equal(table, table.T)
    assert commutes == (group[0] == "Z")


def commutators(table):
    n = len(table)
    inverse = table.argmin(1)
    out = {
        int(table[table[a, b], table[inverse[a], inverse[b]]]) for a in range(n) for b in range(n)
    }
    while True:  # what they generate
        more = out | {int(table[a, b]) for a, b in itertools.product(out, out)}
        if more == out:
            return out
        out = more


def test_a5_cannot_be_solved_and_a4xz5_can():
    assert len(commutators(multiplication_table("A5"))) == 60
    assert len(commutators(multiplication_table("A4xZ5"))) == 4
    assert len(commutators(multiplication_table("S5"))) == 60


def test_permutations_compose_as_documented():
    table = multiplication_table("S4")
    elements = list(itertools.permutations(range(4)))
    p, q = elements[5], elements[17]
    assert elements[table[5, 17]] == tuple(p[q[i]] for i in range(4))


@pytest.mark.parametrize("length", [1, 2, 3, 17, 64])
def test_running_products_equal_the_loop(length):
    table = multiplication_table("S5")
    elements = np.random.default_rng(length).integers(120, size=length).astype(np.int32)
    product, expected = 0, []
    for element in elements:
        product = table[product, element]
        expected.append(product)
    assert np.array_equal(running_products("S5", elements), expected)


def test_labels_are_running_products_of_all_lengths():
    task = build("group_words", group="A4xZ5", length=7)
    table = multiplication_table("A4xZ5")
    batch = stack(task, count=300)
    for row, labels, real in zip(
        *(batch[k] for k in ("inputs", "targets", "segment_ids")), strict=True
    ):
        count = int(real.sum()) - 1
        assert row[0] == 60
        product = 0
        for element, label in zip(row[1 : count + 1], labels[1 : count + 1], strict=True):
            product = table[product, element]
            assert label == product
        assert (labels[count + 1 :] == -100).all()
        assert labels[0] == -100
    assert set(batch["segment_ids"].sum(1).tolist()) == {3, 4, 5, 6, 7, 8}


def test_longer_tests_count_unseen_positions_only():
    task = build("parity", length=10, test_length=25)
    train, held_out = stack(task), stack(task, "validation")
    test = stack(task, "test", 500)
    assert train["inputs"].shape[1] == 11
    assert "segment_ids" not in test
    assert (held_out["targets"][:, 1:] >= 0).all()
    assert (test["targets"][:, :11] == -100).all()
    ones = np.cumsum(test["inputs"][:, 1:], axis=1) % 2
    assert np.array_equal(test["targets"][:, 11:], ones[:, 10:])
    assert task.spec.length == 26
    logits = one_hot(np.ones_like(test["targets"]), 2)
    assert value(task, logits, test, "accuracy") == pytest.approx(0.5, abs=0.03)
    assert value(task, logits, test, "sequence_accuracy") == 0


@pytest.mark.parametrize("group", ["", "Q8", "S7", "Z0", "A5 x Z2", "S6xZ2"])
def test_what_is_no_group_is_refused(group):
    with pytest.raises(ValueError, match="group"):
        build("group_words", group=group)
