import itertools

import jax
import numpy as np
import pytest

from seqzoo.tasks import build
from tests.tasks.examples import one_hot, value
from tests.tasks.examples import stack as examples

COUNT = 3000


def stack(task, split="train", seed=0, count=COUNT):
    batch = examples(task, split, count, seed)
    return batch["inputs"], batch["targets"]


@pytest.fixture(scope="module")
def small():
    task = build("mqar")
    return task, *stack(task)


def in_order(inputs, targets, task):
    """Slot of the query of each pair of the context, [N, D]."""
    begin = 2 * task.num_pairs
    keys = inputs[:, :begin:2]
    asked = np.where(targets >= 0, inputs, -1)[:, begin::2]
    return (asked[:, None, :] == keys[:, :, None]).argmax(-1)


def test_keys_and_values_come_from_their_halves(small):
    task, inputs, _ = small
    keys, values = inputs[:, :16:2], inputs[:, 1:16:2]
    assert (keys.min(), keys.max()) == (1, 39)
    assert (values.min(), values.max()) == (40, 79)
    for drawn in (keys, values):
        assert all(len(set(row)) == task.num_pairs for row in drawn.tolist())


def test_each_key_is_asked_once_and_labelled_with_its_value(small):
    task, inputs, targets = small
    assert ((targets >= 0).sum(axis=1) == task.num_pairs).all()
    assert (targets[:, :16] == -100).all()
    assert (targets[:, 17::2] == -100).all()
    for row, labels in zip(inputs[:500].tolist(), targets[:500].tolist(), strict=True):
        value_of = dict(zip(row[:16:2], row[1:16:2], strict=True))
        asked = {row[i]: label for i, label in enumerate(labels) if label != -100}
        assert asked == value_of


def test_slots_follow_the_power_law_without_replacement(small):
    task, inputs, targets = small
    slots = in_order(inputs, targets, task)
    p = np.arange(1, 25) ** (task.power - 1.0)
    p /= p.sum()
    second = np.array(
        [sum(p[i] * p[j] / (1 - p[i]) for i in range(24) if i != j) for j in range(24)]
    )
    for place, law in ((0, p), (1, second)):
        counts = np.bincount(slots[:, place], minlength=24)
        chi_square = np.sum((counts - COUNT * law) ** 2 / (COUNT * law))
        assert chi_square < 56  # 23 degrees of freedom: exceeded once in 7000


def test_fillers_are_uniform_over_the_vocabulary_or_zero(small):
    _, inputs, targets = small
    fillers = inputs[:, 16:][targets[:, 16:] == -100]
    counts = np.bincount(fillers, minlength=80)
    expected = len(fillers) / 80
    assert np.sum((counts - expected) ** 2 / expected) < 140  # 79 degrees of freedom
    plain = build("mqar", random_non_queries=False)
    silent, labels = stack(plain, count=100)
    assert (silent[:, 16:][labels[:, 16:] == -100] == 0).all()
    assert np.array_equal(labels, targets[:100])


def test_examples_are_made_again_and_only_train_depends_on_the_seed(small):
    task, inputs, _ = small
    assert np.array_equal(stack(build("mqar"), count=20)[0], inputs[:20])
    assert not np.array_equal(stack(task, seed=1, count=20)[0], inputs[:20])
    for split in ("validation", "test"):
        fixed = stack(task, split, seed=0, count=20)[0]
        assert np.array_equal(fixed, stack(task, split, seed=1, count=20)[0])
        assert not np.array_equal(fixed, inputs[:20])


def test_pinned_example():
    assert build("mqar").decode(build("mqar").source("train")[0]) == (
        "20=45 39=42 38=55 9=67 37=52 16=48 10=69 26=53 | 9?67 at 18, 16?48 at 20, 37?52 at 22, "
        "20?45 at 26, 26?53 at 34, 39?42 at 38, 10?69 at 42, 38?55 at 54"
    )


@pytest.mark.parametrize("length", [64, 4200])
def test_full_contexts_use_every_slot(length):
    task = build("mqar", vocab_size=length + 2, length=length, num_pairs=length // 4)
    inputs, targets = stack(task, count=2)
    slots = np.sort(in_order(inputs, targets, task), axis=1)
    assert np.array_equal(slots, np.tile(np.arange(length // 4), (2, 1)))


def test_accuracy_of_a_guess_among_the_shown_values_is_the_baseline(small):
    task, inputs, targets = small
    guess = np.random.default_rng(0).integers(8, size=(COUNT, 64))
    logits = np.eye(80, dtype=np.float32)[np.take_along_axis(inputs[:, 1:16:2], guess, axis=1)]
    total, weight = jax.jit(task.measure)(logits, {"targets": targets})["accuracy"]
    baselines = task.baselines()
    assert float(total / weight) == pytest.approx(baselines["value of the context"], abs=0.008)
    assert baselines["any value"] == pytest.approx(1 / 40)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 80}, "vocab_size must be an integer, at least 81; got 80"),
        ({"num_pairs": 9, "random_non_queries": False, "vocab_size": 18}, "at least 20; got 18"),
        ({"num_pairs": 17}, "length must be an integer, at least 68; got 64"),
        ({"length": 63}, "length must be even"),
        ({"vocab_size": 81}, "vocab_size must be even"),
        ({"power": 0}, "power must be in"),
        ({"power": "x"}, "power must be in"),
        ({"random_non_queries": "yes"}, "random_non_queries must be true or false"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("mqar", **options)


def test_a_small_vocabulary_goes_with_any_length_where_fillers_are_zeros():
    task = build("mqar", length=512, vocab_size=18, random_non_queries=False)
    batch = examples(task, count=5)
    assert batch["inputs"].shape == (5, 512)
    asked = batch["targets"] >= 0
    assert (asked.sum(1) == 8).all()
    assert (batch["inputs"][:, 16:][~asked[:, 16:]] == 0).all()


def test_the_published_grid_and_nothing_else():
    for length, pairs in ((64, 4), (128, 8), (256, 16), (512, 64)):
        task = build("mqar_zoology", length=length, num_pairs=pairs)
        batch = examples(task, count=3)
        assert ((batch["targets"] >= 0).sum(1) == pairs).all()
        fillers = batch["inputs"][:, 2 * pairs :][batch["targets"][:, 2 * pairs :] < 0]
        assert (fillers == 0).all()
    with pytest.raises(ValueError, match="published together"):
        build("mqar_zoology", length=128)


@pytest.mark.parametrize(("split", "kinds"), [("train", 5), ("test", 7)])
def test_the_mixture_has_its_shares(split, kinds):
    task = build("mqar_based", train_size=90, test_size=70)
    batch = examples(task, split, len(task.source(split)))
    sizes = zip((batch["segment_ids"] > 0).sum(1), (batch["targets"] >= 0).sum(1), strict=True)
    found, counts = np.unique([f"{n}x{d}" for n, d in sizes], return_counts=True)
    assert len(found) == kinds
    expected = {"64x4": 50, **dict.fromkeys(("128x8", "256x16", "256x32", "256x64"), 10)}
    assert dict(zip(found, counts, strict=True)) == (
        expected if split == "train" else dict.fromkeys(found, 10)
    )


def test_the_parts_of_the_mixture_are_drawn_apart():
    task = build("mqar_based", train_size=90, test_size=70)
    rows = [row for split in ("train", "test") for row in examples(task, split, 70)["inputs"]]
    begins = [set(row[:8].tolist()) for row in rows]  # the shortest list of pairs
    shared = [len(a & b) for a, b in itertools.combinations(begins, 2)]
    assert max(shared) < 3  # of 8 from 8192


def test_labels_are_the_values_shown():
    batch = examples(build("mqar_based", test_size=70), "test", 70)
    for row, labels in zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True):
        asked = {row[i]: label for i, label in enumerate(labels) if label >= 0}
        shown = dict(zip(row[: 2 * len(asked) : 2], row[1 : 2 * len(asked) : 2], strict=True))
        assert asked == shown


def test_each_length_and_number_of_pairs_has_its_accuracy():
    task = build("mqar_based", test_size=7, vocab_size=1026)
    batch = examples(task, "test", 7)
    answers = np.where(batch["slice"][:, None] == 1, batch["targets"], -1)
    logits = one_hot(answers, 1026)
    assert value(task, logits, batch, "accuracy_64x8") == 1
    assert value(task, logits, batch, "accuracy_64x4") == 0
    assert value(task, logits, batch, "accuracy") == pytest.approx((batch["slice"] == 1).mean())
