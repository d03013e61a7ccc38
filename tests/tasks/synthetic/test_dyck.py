import numpy as np
import pytest

from seqzoo.tasks import build
from tests.tasks.examples import stack, value


@pytest.fixture(scope="module")
def small():
    task = build("dyck", num_kinds=3)
    return task, stack(task, count=2000)


def test_strings_are_balanced_and_the_state_is_right(small):
    task, batch = small
    for i in range(300):
        row = {name: x[i].tolist() for name, x in batch.items()}
        count = sum(row["segment_ids"])
        tokens = row["inputs"][1:count]
        assert row["inputs"][0] == 6
        assert row["targets"][:count] == [*tokens, 7]
        assert set(row["targets"][count:]) <= {-100}
        stack = []
        for place in range(count):
            if place:
                token = tokens[place - 1]
                if token < 3:
                    stack.append((token, place))
                else:
                    assert stack.pop()[0] == token - 3
            assert row["depth"][place] == len(stack) <= task.max_depth
            assert row["closer"][place] == (3 + stack[-1][0] if stack else -1)
            assert row["distance"][place] == (place - stack[-1][1] if stack else 0)
        assert not stack
        assert 3 <= count <= 84


def test_the_next_token_follows_the_automaton(small):
    _, batch = small
    depth, targets = batch["depth"], batch["targets"]
    real = (batch["segment_ids"] > 0) & (np.arange(depth.shape[1]) > 1)
    opens = targets < 3
    at = {d: real & (depth == d) for d in range(4)}
    assert not opens[at[3]].any(), "a full stack is closed"
    for d in (1, 2):
        assert opens[at[d]].mean() == pytest.approx(0.5, abs=0.02)
    assert (targets[at[0]] == 7).mean() == pytest.approx(0.5, abs=0.03)
    kinds = np.bincount(targets[real & opens], minlength=3)
    assert np.abs(kinds / kinds.sum() - 1 / 3).max() < 0.02


@pytest.mark.parametrize(("depth", "longest"), [(3, 84), (5, 180)])
def test_test_strings_are_longer(depth, longest):
    task = build("dyck", max_depth=depth)
    sizes = stack(task, "test", 300)["segment_ids"].sum(1)
    assert task.lengths("test") == (longest + 1, 2 * longest)
    assert sizes.min() == longest + 1
    assert sizes.max() <= 2 * longest
    sizes = stack(task, "train", 300)["segment_ids"].sum(1)
    assert task.lengths("train") == (sizes.min(), longest)
    assert sizes.max() <= longest
    assert task.spec.length == 2 * longest


def test_a_model_that_knows_the_automaton_keeps_all_rules(small):
    task, batch = small
    logits = np.full((*batch["depth"].shape, 8), -30.0, np.float32)
    inner = batch["depth"] < 3
    logits[inner, :3] = np.log(1 / 3)
    np.put_along_axis(logits, np.maximum(batch["closer"], 0)[..., None], 0.0, -1)
    logits[batch["depth"] == 0, 3:6] = -30
    logits[batch["depth"] == 0, 7] = 0
    logits[batch["depth"] == 0, :3] = np.log(1 / 3)
    for name in ("accuracy", "no_closing_if_empty", "no_opening_if_full", "no_end_if_open"):
        assert value(task, logits, batch, name) == 1, name


def test_all_closing_brackets_alike_close_nothing_right(small):
    task, batch = small
    logits = np.zeros((*batch["depth"].shape, 8), np.float32)
    assert value(task, logits, batch, "accuracy") == task.baselines()["any closing bracket"] == 0
    assert value(task, logits, batch, "no_end_if_open") == 1


def test_accuracy_is_a_mean_over_distances(small):
    task, batch = small
    # Right only just behind an open bracket, which is one distance of those that occur.
    logits = np.full((*batch["depth"].shape, 8), -30.0, np.float32)
    near = (batch["closer"] >= 0) & (batch["distance"] == 0)
    wrong = 3 + (batch["closer"] - 3 + 1) % 3
    answer = np.where(near, batch["closer"], wrong)
    np.put_along_axis(logits, np.maximum(answer, 0)[..., None], 0.0, -1)
    counted = (batch["segment_ids"] > 0) & (batch["closer"] >= 0)
    distances = len(np.unique(batch["distance"][counted]))
    assert value(task, logits, batch, "accuracy") == pytest.approx(1 / distances)
