"""Metrics of scalars and of vectors of classes, on the host and on devices."""

import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.tasks.task import measure_regression, metric_value
from seqzoo.train.loop.evaluate import combine


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_a_vector_is_averaged_over_the_classes_that_have_weight(kind):
    assert metric_value(kind(3.0), kind(4.0)) == 0.75
    assert metric_value(kind([3.0, 0.0, 1.0]), kind([4.0, 0.0, 4.0])) == 0.5
    assert np.isnan(metric_value(kind(0.0), kind(0.0)))  # of nothing there is no mean
    seeds = metric_value(
        kind([[3.0, 1.0], [2.0, 0.0]]), kind([[4.0, 4.0], [4.0, 0.0]]), batch_dims=1
    )
    assert np.array_equal(seeds, [0.5, 0.5])


def test_batches_are_summed_before_dividing():
    batches = [
        {"macro": (np.array([1.0, 0.0]), np.array([1.0, 3.0])), "examples": (2.0, 1.0)},
        {"macro": (np.array([0.0, 3.0]), np.array([1.0, 0.0])), "examples": (1.0, 1.0)},
    ]
    assert combine(batches) == {"macro": (1 / 2 + 3 / 3) / 2, "examples": 3}


def test_squared_errors_are_averaged_over_a_row_then_over_rows():
    outputs = jnp.array([[[1.0, 2.0]], [[3.0, 3.0]], [[9.0, jnp.nan]]])
    batch = {"targets": np.zeros((3, 1, 2)), "weight": np.array([1.0, 1.0, 0.0])}
    found = measure_regression(outputs, batch)
    total, weight = found["mse"]
    assert float(total / weight) == pytest.approx((2.5 + 9.0) / 2)
    of_twos = measure_regression(outputs, {**batch, "targets": np.full((3, 1, 2), 2.0)})
    total, weight = of_twos["relative_mse"]
    assert float(total / weight) == pytest.approx((0.5 + 1.0) / (4.0 + 4.0))
