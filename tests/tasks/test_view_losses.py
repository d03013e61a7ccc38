"""Losses between views against loops in float64; a row of weight 0 is no example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.spec import Seen
from seqzoo.tasks import build
from seqzoo.tasks.pretraining import losses
from tests.helpers import assert_close
from tests.references import views as reference

RNG = np.random.default_rng(0)
REAL, FILL, SMALL = 5, 2, 2  # examples, rows that only fill the batch, small views
TASKS = {
    "simclr": {"temperature": 0.3},
    "moco": {"queue": 14, "temperature": 0.3},
    "byol": {},
    "simsiam": {},
    "swav": {"temperature": 0.2, "sharpness": 0.3, "rounds": 2, "small": SMALL},
    "dino": {"temperature": 0.2, "target_temperature": 0.1, "small": SMALL},
}


def numbers(*shape):
    return RNG.normal(size=shape)


def seen_of(objective):
    """What a model might give: online values, targets and memories that differ."""
    views = 2 + SMALL * (objective in ("swav", "dino"))
    targets = 1 if objective == "moco" else 2
    queue = numbers(14, 6)
    queue /= np.linalg.norm(queue, axis=1, keepdims=True)
    rows = REAL + FILL
    parts = numbers(rows, views, 6), numbers(rows, views, 6), numbers(rows, targets, 6)
    return Seen(*parts, queue, numbers(6))


def loss_of(objective, seen):
    online, target = seen.online[:REAL], seen.target[:REAL]
    if objective == "simclr":
        return reference.nt_xent(online[:, 0], online[:, 1], 0.3)
    if objective == "moco":
        return reference.info_nce(online[:, 1], target[:, 0], seen.queue, 0.3)
    if objective == "byol":
        return reference.byol(online, target)
    if objective == "simsiam":
        return reference.simsiam(online, target)
    if objective == "swav":
        codes = np.concatenate([target, online[:, 2:]], 1)
        return _swav(online, codes)
    return reference.dino(online, target, seen.centre, 0.2, 0.1)


def _swav(online, scores):
    total, count = np.zeros(REAL), 0
    for t in range(2):
        codes = reference.sinkhorn(scores[:, t], 0.3, 2)
        for v in {*range(online.shape[1])} - {t}:
            count += 1
            total += [
                reference.cross_entropy(c, x, 0.2) for c, x in zip(codes, online[:, v], strict=True)
            ]
    return total / count


@pytest.fixture(scope="module")
def measured():
    """Objective -> (what a model gave, the metrics), of one compiled program."""
    tasks = {name: build(f"{name}:sdigits", **options) for name, options in TASKS.items()}
    given = {name: seen_of(name) for name in tasks}
    weight = np.float32([1] * REAL + [0] * FILL)

    def all_of(given):
        batch = {"weight": weight, "targets": np.zeros(REAL + FILL)}
        return {name: task.measure(given[name], batch) for name, task in tasks.items()}

    found = jax.jit(all_of)(jax.tree.map(jnp.float32, given))
    return {name: (given[name], found[name]) for name in tasks}


@pytest.mark.parametrize("objective", TASKS)
def test_each_loss_is_that_of_its_paper(measured, objective):
    seen, found = measured[objective]
    total, count = found["loss"]
    assert float(count) == REAL
    assert_close(total, np.sum(loss_of(objective, seen)), ratio=2e-6)


def test_collapse_is_measured_of_the_first_views(measured):
    seen, found = measured["byol"]
    z = seen.embedded[:REAL, 0]
    assert_close(found["effective_rank"][0] / REAL, reference.effective_rank(z), ratio=1e-5)
    assert_close(found["spread"][0] / REAL, reference.spread(z), ratio=1e-5)


def test_collapse_is_said():
    task = build("byol:sdigits", dim=6)
    alike = np.tile(numbers(6), (REAL, 1)).astype(np.float32)
    few = (numbers(REAL, 1) * numbers(6)).astype(np.float32)  # both ways along one line
    measure = jax.jit(
        lambda z: (losses.spread(z, jnp.ones(REAL)), losses.effective_rank(z, jnp.ones(REAL)))
    )
    for z, spread, rank in ((alike, 0, 1), (few, None, 1), (numbers(REAL, 6), None, None)):
        found = dict(zip(("spread", "effective_rank"), map(float, measure(z)), strict=True))
        assert spread is None or found["spread"] == pytest.approx(spread, abs=1e-3)
        assert rank is None or found["effective_rank"] == pytest.approx(rank, abs=1e-3)
        assert bool(task.warnings(found)) == (rank is not None)
    of_two = {"spread": np.array([0.9, 0.01]), "effective_rank": np.array([5.0, 1.2])}
    assert "in 1 of 2 replicas: their spread is 0.01" in task.warnings(of_two)[0]


def test_no_row_of_weight_0_and_no_equal_view_spoils_a_gradient():
    """Zeros have no direction; a view equals its fellow where nothing is changed."""
    task = build("simclr:sdigits")
    batch = {"weight": np.float32([1, 1, 1, 0]), "targets": np.zeros(4)}

    def loss(z):
        z = jnp.stack([z, z], 1)
        return task.measure(Seen(z, z, z, None, None), batch)["loss"][0]

    gradient = jax.jit(jax.grad(loss))(jnp.float32([[1, 2], [2, 1], [0, 0], [np.inf, 3]]))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() > 0
    assert np.abs(gradient[3]).max() == 0
