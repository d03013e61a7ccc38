import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.synthetic.continuous import Signal, signal_variance, white_signal
from tests.tasks.examples import stack, value


@pytest.mark.parametrize("halves", [True, False])
def test_adding_sums_the_marked_numbers(halves):
    task = build("adding", length=51, halves=halves)
    batch = stack(task, count=2000)
    numbers, marks = batch["inputs"][..., 0], batch["inputs"][..., 1]
    assert (marks.sum(1) == 2).all()
    assert np.allclose((numbers * marks).sum(1), batch["targets"][:, 0])
    first = marks.argmax(1)
    assert (first.min(), first.max()) == (0, 24) if halves else first.max() > 25
    outputs = np.ones((2000, 51, 1), np.float32)
    assert value(task, outputs, batch, "mse") == pytest.approx(1 / 6, abs=0.015)
    assert task.baselines() == {"always 1": pytest.approx(1 / 6)}
    outputs[:, -1] = batch["targets"]
    assert value(task, outputs, batch, "loss") == 0


def test_adding_extrapolates():
    task = build("adding", length=20, test_length=33)
    assert task.source("train")[0]["inputs"].shape == (20, 2)
    assert task.source("test")[0]["inputs"].shape == (33, 2)
    assert task.spec.length == 33


def test_white_signal_equals_its_sum_of_waves():
    """The recipe of the paper as a loop: cosines and sines of all frequencies up to the highest."""
    length, dt, frequency = 12, 0.01, 30.0
    got = white_signal(Draws("x"), Signal(length, dt, frequency))
    normal = Draws("x").normal(2 * 7).reshape(2, 7)
    kept = [k for k in range(1, 7) if k / (length * dt) <= frequency]
    lost = sum(k / (length * dt) > frequency for k in range(7)) / 6
    x = np.zeros(length)
    for t in range(length):
        for k in kept:
            turn = 2 * np.pi * k * t / length
            wave = normal[0, k] * np.cos(turn) - normal[1, k] * np.sin(turn)
            x[t] += 2 * wave * 0.5 * np.sqrt(0.5) * np.sqrt(length) / length
    assert np.allclose(got, (x - x[0]) / np.sqrt(1 - lost))


@pytest.mark.parametrize(
    "signal", [Signal(200, 0.01, 10.0), Signal(50, 0.01, 50.0), Signal(51, 0.01, 5)]
)
def test_variance_is_that_of_many_signals(signal):
    drawn = np.array([white_signal(Draws("v", i), signal) for i in range(4000)])
    assert np.allclose(drawn.var(0), signal_variance(signal), atol=0.06)
    assert np.allclose(drawn[:, 0], 0)
    power = np.abs(np.fft.rfft(drawn[:, : signal.length // 2 * 2], axis=1)[:, 1:]) ** 2
    if signal.length == 200:
        assert power[:, 20:].max() < 1e-12 * power.max(), "nothing above the highest frequency"


def test_delay_gives_back_earlier_samples():
    task = build("delay", length=100, dt=0.01, frequency=20.0, lag=30, num_lags=2)
    batch = stack(task, count=500)
    for x, y in zip(batch["inputs"][:20, :, 0], batch["targets"][:20], strict=True):
        for i, lag in enumerate((30, 60)):
            assert np.array_equal(y[:, i], [0 if t < lag else x[t - lag] for t in range(100)])
    zeros = np.zeros((500, 100, 2), np.float32)
    assert value(task, zeros, batch, "mse") == pytest.approx(task.baselines()["always 0"], rel=0.1)
    later = value(task, zeros, batch, "mse_lag_60")
    assert later == pytest.approx(np.square(batch["targets"][..., 1]).mean(), rel=1e-5)


def test_capacity_is_five_delays_of_a_scaled_signal():
    task = build("lmu_capacity", delay=40)
    batch = stack(task, "test", 100)
    assert batch["targets"].shape == (100, 100, 5)
    assert np.allclose(np.abs(batch["inputs"]).max((1, 2)), 1)
    for i, lag in enumerate((0, 10, 20, 30, 40)):
        assert np.array_equal(batch["targets"][:, lag:, i], batch["inputs"][:, : 100 - lag, 0])
    zeros = np.zeros((100, 100, 5), np.float32)
    assert value(task, zeros, batch, "mse") == pytest.approx(task.baselines()["always 0"], rel=1e-5)


def test_reconstruction_asks_for_the_end_of_the_signal():
    task = build("reconstruction", length=100, dt=0.01, frequency=20.0, window=30)
    batch = stack(task, count=500)
    assert np.array_equal(batch["targets"], batch["inputs"][:, 70:, 0])
    assert (task.spec.head, task.spec.pooling, task.spec.outputs) == ("classify", "last", 30)
    error = value(task, np.zeros((500, 30), np.float32), batch, "mse")
    assert error == pytest.approx(task.baselines()["always 0"], rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("delay", {"frequency": 2001.0}, "frequency must be"),
        ("delay", {"frequency": 0.5}, "frequency must be"),
        ("delay", {"lag": 4000}, "lag must be an integer, 0 to 3999"),
        ("reconstruction", {"window": 4001}, "window must be"),
        ("lmu_capacity", {"delay": 101}, "multiple of 4"),
        ("adding", {"length": 1}, "lengths must be at least 2"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
