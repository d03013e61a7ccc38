"""Rows whose far context is out of order: what stays together and what moves."""

import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.tasks.shuffled import block_order, shuffled
from tests.tasks import published


def test_blocks_stay_whole_and_change_places_within_their_segment():
    ids = np.array([1] * 10 + [2] * 5 + [0] * 12)
    order = block_order(ids, 4, 7)
    assert sorted(order) == list(range(27))
    assert np.array_equal(ids[order], ids)
    assert all(block_order(ids, 4, i)[15:].tolist() == [*range(15, 27)] for i in range(9))
    blocks = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [10, 11, 12, 13], [14]]
    text = " ".join(map(str, order))
    assert all(" ".join(map(str, block)) in text for block in blocks)
    assert len({tuple(block_order(ids, 4, i)) for i in range(40)}) > 6
    assert block_order(ids, 12, 0).tolist() == list(range(27))  # each segment is one block
    assert np.array_equal(block_order(ids, 4, 7), order)


def test_labels_of_steps_go_along_and_those_of_rows_stay():
    words = tasks.build("mqar", test_size=5, length=16, num_pairs=2, vocab_size=18)
    classes = tasks.build("listops_short", test_size=5)
    for task, along in ((words, True), (classes, False)):
        source = task.source("test")
        moved = shuffled(task, source, 4)
        assert len(moved) == len(source)
        for i in range(5):
            whole = np.ones(len(source[i]["inputs"]), int)
            order = block_order(source[i].get("segment_ids", whole), 4, i)
            assert np.array_equal(moved[i]["inputs"], source[i]["inputs"][order])
            targets = source[i]["targets"]
            assert np.array_equal(moved[i]["targets"], targets[order] if along else targets)
    with pytest.raises(IndexError):
        moved[len(source)]


def test_both_rows_of_a_pair_are_shuffled_each_by_itself(tmp_path):
    published.aan(tmp_path)
    sizes = dict.fromkeys(("train_size", "validation_size", "test_size"), 3)
    task = tasks.build("retrieval", data=str(tmp_path), **sizes)
    whole = task.source("test")[1]
    moved = shuffled(task, task.source("test"), 4)[1]
    assert np.array_equal(moved["segment_ids"], whole["segment_ids"])
    for i in range(2):
        order = block_order(whole["segment_ids"][i], 4, 1, i)
        assert np.array_equal(moved["inputs"][i], whole["inputs"][i][order])
    assert (moved["inputs"] != whole["inputs"]).any(1).all()


def test_what_has_no_order_to_lose_is_refused(tmp_path, monkeypatch):
    task = tasks.build("listops_short", test_size=5)
    for block in (0, task.spec.length):
        with pytest.raises(ValueError, match="at least 1 step and fewer than a row"):
            shuffled(task, task.source("test"), block)
    (tmp_path / "text").write_bytes(b"some words " * 90)
    lanes = tasks.build("bytes", data=str(tmp_path), length=8)
    monkeypatch.setattr(type(lanes), "stateful", True)
    with pytest.raises(ValueError, match=r"carries its state .* leave out --controls"):
        shuffled(lanes, lanes.source("test"), 4)
