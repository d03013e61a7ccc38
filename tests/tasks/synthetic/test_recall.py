import numpy as np
import pytest

from seqzoo.tasks import build
from tests.tasks.rows import one_hot, stack, value


def test_the_published_grid_and_nothing_else():
    for length, pairs in ((64, 4), (128, 8), (256, 16), (512, 64)):
        task = build("mqar_zoology", length=length, num_pairs=pairs)
        batch = stack(task, count=3)
        assert ((batch["targets"] >= 0).sum(1) == pairs).all()
        fillers = batch["inputs"][:, 2 * pairs :][batch["targets"][:, 2 * pairs :] < 0]
        assert (fillers == 0).all()
    with pytest.raises(ValueError, match="published together"):
        build("mqar_zoology", length=128)


@pytest.mark.parametrize(("split", "kinds"), [("train", 5), ("test", 7)])
def test_the_mixture_has_its_shares(split, kinds):
    task = build("mqar_based", train_size=90, test_size=70)
    batch = stack(task, split, len(task.source(split)))
    sizes = zip((batch["segment_ids"] > 0).sum(1), (batch["targets"] >= 0).sum(1), strict=True)
    found, counts = np.unique([f"{n}x{d}" for n, d in sizes], return_counts=True)
    assert len(found) == kinds
    expected = {"64x4": 50, **dict.fromkeys(("128x8", "256x16", "256x32", "256x64"), 10)}
    assert dict(zip(found, counts, strict=True)) == (
        expected if split == "train" else dict.fromkeys(found, 10)
    )


def test_labels_are_the_values_shown():
    batch = stack(build("mqar_based", test_size=70), "test", 70)
    for row, labels in zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True):
        asked = {row[i]: label for i, label in enumerate(labels) if label >= 0}
        shown = dict(zip(row[: 2 * len(asked) : 2], row[1 : 2 * len(asked) : 2], strict=True))
        assert asked == shown


def test_each_length_and_number_of_pairs_has_its_accuracy():
    task = build("mqar_based", test_size=7, vocab_size=1026)
    batch = stack(task, "test", 7)
    answers = np.where(batch["slice"][:, None] == 1, batch["targets"], -1)
    logits = one_hot(answers, 1026)
    assert value(task, logits, batch, "accuracy_64x8") == 1
    assert value(task, logits, batch, "accuracy_64x4") == 0
    assert value(task, logits, batch, "accuracy") == pytest.approx((batch["slice"] == 1).mean())
