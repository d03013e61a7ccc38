import hashlib
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.lra.expression_trees import CHECKSUMS
from seqzoo.tasks.lra.listops import MOST_EXAMPLES, evaluate, owned_checksum

PINNED = "[SM 3 [MED [MIN 0 [MIN 5 1 0 3 0 4 6 4 ] 9 ] 6 ] [MAX 4 4 4 4 1 ] 0 4 3 6 9 ] = 2"
SIZES = {"train_size": 600, "validation_size": 300, "test_size": 300}


def expressions(task, split, seed=0):
    return [task.decode(example).split(" = ") for example in task.source(split, seed)]


def digest(task, count=5):
    source = task.source("train", 3)
    return hashlib.sha256(b"".join(source[i]["inputs"].tobytes() for i in range(count))).hexdigest()


@pytest.fixture(scope="module")
def short():
    return build("listops_short", **SIZES)


def test_targets_are_the_values(short):
    for split in ("train", "test"):
        for text, value in expressions(short, split)[:200]:
            assert evaluate(text) == int(value)


def test_rows_are_padded_on_the_right(short):
    for i in range(50):
        example = short.source("train")[i]
        length = example["segment_ids"].sum()
        assert 20 <= length <= 100
        assert (example["inputs"][:length] > 0).all()
        assert (example["inputs"][length:] == 0).all()
        assert (example["segment_ids"] == (np.arange(100) < length)).all()
        assert example["inputs"].dtype == example["segment_ids"].dtype == np.int32


def test_no_expression_occurs_twice_in_or_across_splits(short):
    texts = [
        text for split in ("train", "validation", "test") for text, _ in expressions(short, split)
    ]
    texts += [text for text, _ in expressions(short, "train", seed=1)]
    assert len(set(texts)) == 1800


def test_every_index_of_every_split_owns_a_checksum():
    sizes = {"train": 96_000, "validation": 2_000, "test": 2_000}
    owned = [owned_checksum(split, i) for split, size in sizes.items() for i in range(size)]
    assert len(set(owned)) == 100_000
    for split in sizes:
        last = owned_checksum(split, MOST_EXAMPLES - 1)
        assert 0 <= last < CHECKSUMS
        assert last not in {owned_checksum(split, 0), *owned}
    with pytest.raises(ValueError, match=f"1 to {MOST_EXAMPLES}"):
        build("listops", train_size=MOST_EXAMPLES + 1)


def test_the_seed_changes_the_train_split_only(short):
    assert expressions(short, "train") != expressions(short, "train", seed=1)
    assert expressions(short, "test") == expressions(short, "test", seed=1)


def test_examples_do_not_depend_on_the_sizes(short):
    larger = build("listops_short", train_size=601, validation_size=299)
    assert expressions(larger, "train")[:600] == expressions(short, "train")


def test_pinned_example():
    task = build("listops_short")
    assert task.decode(task.source("train")[0]) == PINNED


@pytest.mark.of_the_day(days=4)
@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_examples_are_the_same_in_another_process(hash_seed):
    code = (
        "from seqzoo.tasks import build; import hashlib; s = build('listops').source('train', 3); "
        "print(hashlib.sha256(b''.join(s[i]['inputs'].tobytes() for i in range(5))).hexdigest())"
    )
    env = os.environ | {"PYTHONHASHSEED": hash_seed}
    made = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert made.stdout.strip() == digest(build("listops")), made.stderr


def test_sources_can_be_pickled(short):
    for split in ("train", "test"):
        source = short.source(split)
        again = pickle.loads(pickle.dumps(source))
        assert len(again) == len(source)
        assert np.array_equal(again[7]["inputs"], source[7]["inputs"])


def test_specs():
    assert build("listops").spec.length == 2000
    spec = build("listops_short").spec
    assert (spec.head, spec.vocab_size, spec.outputs, spec.length) == ("classify", 16, 10, 100)
    assert build("listops", length=2048).source("train")[0]["inputs"].shape == (2048,)
    with pytest.raises(ValueError, match="length must be an integer, at least 1999; got 1024"):
        build("listops", length=1024)
    with pytest.raises(ValueError, match="min_length=10"):
        build("listops_short", min_length=10)


@pytest.mark.of_the_day("listops baselines", 3)
def test_baselines_are_those_of_the_official_generator():
    task = build("listops")  # 2000 test examples; tolerances of 3.5 standard errors
    source = task.source("test")
    got = task.baselines("test")
    assert got["majority class"] == pytest.approx(0.169, abs=0.029)
    assert got["root operator"] == pytest.approx(0.371, abs=0.038)
    lengths = np.array([source[i]["segment_ids"].sum() for i in range(len(source))])
    assert lengths.min() > 500
    assert lengths.max() < 2000
    # A branching process of the grammar's numbers, 133,000 accepted: exact to 1 token.
    assert lengths.mean() == pytest.approx(1035, abs=33)
    official = [577, 701, 953, 1311, 1644]
    assert np.quantile(lengths, [0.1, 0.25, 0.5, 0.75, 0.9]) == pytest.approx(official, rel=0.06)


def test_measure_is_classification(short):
    logits = np.eye(10, dtype=np.float32)[[3, 4, 5]]
    batch = {"targets": np.array([3, 4, 6]), "weight": np.array([1.0, 1.0, 1.0])}
    total, weight = jax.jit(short.measure)(logits, batch)["accuracy"]
    assert float(total / weight) == pytest.approx(2 / 3)


def test_protocols_add_their_tokens():
    sizes = {"train_size": 2, "validation_size": 2, "test_size": 2}
    own = build("listops", **sizes)
    expression = own.decode(own.source("test")[0])
    tokens = own.source("test")[0]["inputs"]
    count = int((tokens > 0).sum())
    assert own.spec.pooling is None
    for protocol, length, front, end in [
        ("google2020", 2001, [16], []),
        ("nystrom-small", 2000, [], []),
        ("s4", 2048, [], [16]),
    ]:
        task = build("listops", protocol=protocol, **sizes)
        example = task.source("test")[0]
        whole = [*front, *tokens[:count].tolist(), *end]
        assert example["inputs"].tolist() == whole + [0] * (length - len(whole))
        assert example["segment_ids"].sum() == len(whole)
        assert task.decode(example) == expression
        assert (task.spec.length, task.spec.vocab_size) == (length, 16 + len(front) + len(end))
        assert task.spec.pooling == ("first" if front else "mean")
    with pytest.raises(ValueError, match="length=2000 is not of protocol s4"):
        build("listops", protocol="s4", length=2000)
