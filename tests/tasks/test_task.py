import jax
import numpy as np
import pytest

from seqzoo.tasks import build, task
from tests.references import task_metrics

measure_classes = jax.jit(task.measure_classes)
measure_tokens = jax.jit(task.measure_tokens)
WEIGHT = np.array([1.0, 0.0, 1.0, 0.5], np.float32)


def value(metrics):
    return {name: float(total / weight) for name, (total, weight) in metrics.items()}


def check(actual, desired):
    assert actual.keys() == desired.keys()
    for name, number in desired.items():
        assert actual[name] == pytest.approx(number, rel=1e-5), name


def test_classes_equal_the_loop():
    rng = np.random.default_rng(0)
    logits = 5 * rng.normal(size=(4, 10)).astype(np.float32)
    targets = np.array([logits[0].argmax(), 3, logits[2].argmin(), logits[3].argmax()])
    batch = {"targets": targets, "weight": WEIGHT}
    got = value(measure_classes(logits, batch))
    check(got, task_metrics.classes(logits, targets, WEIGHT))


@pytest.mark.parametrize("weight", [WEIGHT, None])
def test_tokens_equal_the_loop(weight):
    rng = np.random.default_rng(1)
    logits = 5 * rng.normal(size=(4, 6, 8)).astype(np.float32)
    targets = rng.integers(8, size=(4, 6))
    targets[:, ::2] = logits.argmax(-1)[:, ::2]
    targets[rng.random((4, 6)) < 0.5] = -100
    targets[2] = -100  # a row without labels counts in no mean
    targets[3] = [-100, -100, -100, -100, 1, -100]
    batch = {"targets": targets} if weight is None else {"targets": targets, "weight": weight}
    got = value(measure_tokens(logits, batch))
    check(got, task_metrics.tokens(logits, targets, np.ones(4) if weight is None else weight))


def test_rows_of_weight_zero_may_hold_anything():
    logits = np.zeros((2, 3, 5), np.float32)
    logits[1] = np.nan
    batch = {"targets": np.ones((2, 3), int), "weight": np.array([1.0, 0.0])}

    def loss(logits):
        return measure_tokens(logits, batch)["loss"][0]

    assert value(measure_tokens(logits, batch))["loss"] == pytest.approx(np.log(5))
    assert np.isfinite(np.asarray(jax.jit(jax.grad(loss))(logits))[0]).all()


def test_totals_of_batches_add_up():
    rng = np.random.default_rng(2)
    logits, targets = rng.normal(size=(6, 10)).astype(np.float32), rng.integers(10, size=6)
    parts = [
        measure_classes(logits[s], {"targets": targets[s], "weight": np.ones(3)})
        for s in (slice(3), slice(3, 6))
    ]
    summed = {
        name: float(sum(part[name][0] for part in parts) / sum(part[name][1] for part in parts))
        for name in parts[0]
    }
    check(summed, task_metrics.classes(logits, targets, np.ones(6)))


def test_bfloat16_logits_are_measured_in_float32():
    logits = np.full((1, 1000), 0.1)
    batch = {"targets": np.array([0])}
    got = measure_classes(jax.numpy.asarray(logits, jax.numpy.bfloat16), batch)
    assert float(got["loss"][0]) == pytest.approx(np.log(1000), rel=1e-5)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match=r"'valid' of task mqar.*'validation'"):
        build("mqar").source("valid")


@pytest.mark.parametrize(
    ("name", "options", "positions"),
    [
        ("listops_short", {"train_size": 3}, 100),  # padded
        ("adding", {"length": 50}, 50),  # two numbers a position
        ("retrieval", {}, 2 * 4000),  # both rows of a pair
    ],
)
def test_tokens_are_counted_alike_for_any_axes_in_front(name, options, positions):
    asked = build(name, **options)
    if name == "retrieval":  # its files are not here
        ids = np.zeros((2, 4000), np.int32)
        ids[0, :7] = ids[1, :5] = 1
        example, real = {"inputs": ids, "segment_ids": ids}, 12
    else:
        example = asked.source("train")[0]
        real = int(example["segment_ids"].sum()) if "segment_ids" in example else positions
    batch = {key: np.stack([value] * 3) for key, value in example.items()}
    seeds = {key: np.stack([value] * 2) for key, value in batch.items()}
    for counted, rows in ((example, 1), (batch, 3), (seeds, 6)):
        assert asked.positions(counted) == rows * positions
        assert asked.real_tokens(counted) == rows * real
    assert asked.positions(jax.eval_shape(lambda: batch)) == 3 * positions
    filled = {**seeds, "weight": np.array([[1.0, 1.0, 0.0]] * 2, np.float32)}
    assert asked.real_tokens(filled) == 4 * real
