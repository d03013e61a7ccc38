import jax
import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.skills import brevo
from tests.tasks.examples import one_hot, stack


def words(tokens, ends):
    """Tokens cut after each that `ends` a word."""
    found, word = [], ()
    for token in tokens:
        word = (*word, int(token))
        if ends(token):
            found.append(word)
            word = ()
    assert not word
    return found


def measured(task, answers, batch):
    found = jax.jit(task.measure)(one_hot(answers, task.spec.outputs), batch)
    return {k: float(total / weight) for k, (total, weight) in found.items() if weight > 0}


DEPO2 = {"num_nodes": 40, "num_hops": 16, "symbols": 3, "min_word": 5, "max_word": 7}


@pytest.mark.parametrize("options", [{"num_nodes": 60}, DEPO2], ids=["depo1", "depo2"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_hops_follow_the_pairs(options, split):
    task = build("depo", **options)
    counts, hops = [], []
    for example in (task.source(split)[i] for i in range(40)):
        size = int(example["segment_ids"].sum())
        tokens = [*example["inputs"][1:size].tolist(), int(example["targets"][size - 1])]
        mark = 1 + 2 * task.symbols
        asks = [i for i, token in enumerate(tokens) if token > mark]

        def ends(token):
            return task.symbols < token <= 2 * task.symbols

        pairs = words(tokens[: asks[0]], ends)
        follows = dict(zip(pairs[::2], pairs[1::2], strict=True))
        assert len(follows) == len(pairs) / 2, "every word has one successor"
        labels = iter(example["targets"][example["targets"] >= 0].tolist())
        for begin, end in zip(asks, [*asks[1:], len(tokens)], strict=True):
            asked = tokens[begin + 1 : end]
            (word,), (answer,) = (
                words(part, ends)
                for part in (asked[: asked.index(mark)], asked[asked.index(mark) + 1 :])
            )
            for _ in range(tokens[begin] - mark):
                word = follows[word]
            assert word == answer
            assert tuple(next(labels) for _ in answer) == answer
            hops.append(tokens[begin] - mark)
        assert next(labels, None) is None
        assert len(asks) == min(10, len(follows))
        counts.append(len(follows))
    if split == "test":
        assert set(counts) == {task.num_nodes}
        assert set(hops) == set(task.tested_hops) == {2**i for i in range(4 + (len(options) > 1))}
    else:
        assert min(counts) < 10 < max(counts) <= task.num_nodes
        assert set(hops) == set(range(1, task.num_hops + 1))


@pytest.mark.of_the_day("hops counted", 3)
def test_answers_count_for_each_number_of_hops():
    task = build("depo", num_nodes=12)
    batch = stack(task, "test", 6)
    answers = batch["targets"].copy()
    wrong = int(batch["hops"][0, 0])
    answers[0, np.flatnonzero(batch["part"][0] == 1)[-1]] += 1
    found = measured(task, answers, batch)
    assert found["accuracy"] == pytest.approx(1 - 1 / 60)
    assert found[f"accuracy_{wrong}_hops"] == pytest.approx(1 - 1 / (batch["hops"] == wrong).sum())
    assert all(found[f"accuracy_{k}_hops"] == 1 for k in task.tested_hops if k != wrong)


def read(example, several):
    """Edges, the node asked for and the answer's nodes of a row, from its tokens alone."""
    size = int(example["segment_ids"].sum())
    tokens = [*example["inputs"][:size].tolist(), int(example["targets"][size - 1])]
    asks, gives = tokens.index(brevo.QUERY), tokens.index(brevo.ANSWER)
    assert (tokens[0], tokens[-1]) == (brevo.BOS, brevo.EOS)

    def ends(token):
        return not several or token - 3 > 4

    edges = words(tokens[1:asks], ends)
    (asked,) = words(tokens[asks + 1 : gives], ends)
    return (
        list(zip(edges[::2], edges[1::2], strict=True)),
        asked,
        words(tokens[gives + 1 : -1], ends),
    )


@pytest.mark.parametrize("options", [{}, {"max_word": 4}], ids=["brevo1", "brevo2"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_answer_is_all_that_the_node_needs_after_what_it_needs(options, split):
    task = build("brevo", num_nodes=30, **options)
    sizes = []
    for example in (task.source(split)[i] for i in range(40)):
        edges, asked, answer = read(example, bool(options))
        parents = {}
        for parent, child in edges:
            parents.setdefault(child, set()).add(parent)
        children = [sum(p in own for own in parents.values()) for p in {e[0] for e in edges}]
        assert len(set(edges)) == len(edges)
        assert max(children) <= 4 >= max(map(len, parents.values()))
        needed, more = {asked}, [asked]
        while more:
            fresh = parents.get(more.pop(), set()) - needed
            needed |= fresh
            more += fresh
        assert set(answer) == needed
        assert len(answer) == len(needed)
        for i, node in enumerate(answer):
            assert parents.get(node, set()) <= set(answer[:i])
        sizes.append(len({node for edge in edges for node in edge}))
    assert max(sizes) <= 30
    assert min(sizes) < 10 if split == "train" else min(sizes) > 20


@pytest.mark.of_the_day("any order", 3)
@pytest.mark.parametrize("options", [{}, {"max_word": 3}], ids=["brevo1", "brevo2"])
def test_any_node_that_may_stand_somewhere_counts_there(options):
    task = build("brevo", num_nodes=9, **options)
    batch = stack(task, "test", 4)
    allowed = jax.jit(brevo.allowed)
    for row in range(4):
        example = {name: value[row] for name, value in batch.items()}
        edges, _, answer = read(example, bool(options))
        places = np.flatnonzero(example["targets"] >= 0)
        given = np.concatenate([*answer, [brevo.EOS]])
        assert example["targets"][places].tolist() == given.tolist()
        # By brute force: a token may stand where some node that is ready goes on with it.
        at, wanted = 0, []
        for step, node in enumerate(answer):
            done = set(answer[:step])
            ready = [n for n in answer if n not in done and {p for p, c in edges if c == n} <= done]
            for i in range(len(node)):
                wanted.append({n[i] for n in ready if n[:i] == node[:i] and len(n) > i})
                at += 1
        wanted.append({brevo.EOS})
        for token in range(task.spec.outputs):
            got = allowed(np.full(batch["targets"].shape, token), batch)[row][places]
            assert got.tolist() == [token in may for may in wanted]
    answers = np.maximum(batch["targets"], 0)
    answers[0, np.flatnonzero(batch["targets"][0] >= 0)[-1]] = brevo.BOS
    found = measured(task, answers, batch)
    assert found["accuracy"] == 0.75
    assert found["token_accuracy"] == pytest.approx(1 - 1 / (batch["targets"] >= 0).sum())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("depo", {"num_nodes": 2}, "num_nodes must be an integer, 3 to"),
        ("depo", {"symbols": 2, "max_word": 1}, "2 words can be made of these tokens; 225 need"),
        ("depo", {"min_word": 3}, "min_word must be an integer, 1 to 2; got 3"),
        ("brevo", {"max_word": 2}, "16 names can be made of these tokens; 70 nodes need"),
        ("brevo", {"num_nodes": 1}, "num_nodes must be an integer, 3 to"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
