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
