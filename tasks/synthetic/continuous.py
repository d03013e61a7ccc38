"""Real inputs: the adding problem, and what can be remembered of a band-limited white signal."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float64

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.generated import ExtrapolationTask, GeneratedTask, check_true
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.task import (
    Example,
    Metrics,
    Split,
    check_count,
    measure_regression,
)

RMS = 0.5  # of the signal before its first sample is taken away


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adding(ExtrapolationTask):
    """The sum of two marked numbers among `length` uniform ones, read at the last step."""

    name: ClassVar[str] = "adding"
    description: ClassVar[str] = "adding problem: the sum of two marked numbers"
    main_metric: ClassVar[str] = "mse"
    cite: ClassVar[str] = "Hochreiter & Schmidhuber 1997; halves as in S4, pairs as in TCN"

    train_size: int = 45_000  # nine tenths of the published 50 000
    validation_size: int = 5_000  # examples of the validation split
    length: int = 1_000  # steps
    halves: bool = True  # one mark in each half; False: any two positions

    def __post_init__(self) -> None:
        super().__post_init__()
        shortest = min(self.length, self.test_length or self.length)
        check_true(self, shortest >= 2, f"lengths must be at least 2; got {shortest}")

    @property
    def spec(self) -> ModelSpec:
        """Number and mark in, one number out."""
        return ModelSpec(head="regress", features=2, outputs=1, length=self._longest)

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        length = self._length(split)
        if self.halves:
            marks = [draws.below(length // 2), length // 2 + draws.below(length - length // 2)]
        else:
            marks = draws.subset(length, 2)
        inputs = np.zeros((length, 2), np.float32)
        inputs[:, 0] = draws.uniform(length)
        inputs[marks, 1] = 1
        return {"inputs": inputs, "targets": inputs[marks, 0].sum(keepdims=True)}

    def measure(self, outputs: Float[Array, "B L 1"], batch: Mapping[str, Array]) -> Metrics:
        """Mean squared error of the last output."""
        return measure_regression(outputs[:, -1], batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The variance of a sum of two uniform numbers."""
        self.effective_seed(split, 0)
        return {"always 1": 1 / 6}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The marked numbers, where they stand, and their sum."""
        values, marks = np.asarray(example["inputs"]).T
        parts = [f"{values[i]:.4f} at {i}" for i in np.flatnonzero(marks)]
        return f"{' + '.join(parts)} = {float(example['targets'][0]):.4f}"


class Signal(NamedTuple):
    """The shape of a white signal."""

    length: int  # steps
    dt: float  # seconds a step
    frequency: float  # Hz, the highest


@dataclasses.dataclass(frozen=True, kw_only=True)
class WhiteSignalTask(GeneratedTask):
    """A task on a white signal without frequencies above a highest one."""

    main_metric: ClassVar[str] = "mse"

    def __post_init__(self) -> None:
        super().__post_init__()
        length, dt, frequency = self._signal
        number = all(isinstance(x, int | float) for x in (dt, frequency))
        check_true(
            self,
            number and dt > 0 and 1 / (length * dt) <= frequency <= 0.5 / dt,
            "frequency must be from 1 / (length dt) to 1 / (2 dt) Hz; got "
            f"{frequency=!r}, {dt=!r}, {length=}",
        )

    @property
    @abc.abstractmethod
    def _signal(self) -> Signal:
        """What is drawn."""

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """The first samples of both."""
        inputs, targets = (np.asarray(example[name]) for name in ("inputs", "targets"))
        head = " ".join(f"{x:+.3f}" for x in inputs[:8, 0])
        answer = " ".join(f"{x:+.3f}" for x in targets.ravel()[:8])
        return f"{head} ... ({len(inputs)} steps) -> {answer} ... ({targets.size} numbers)"

    def _zero_error(self, places: np.ndarray) -> float:
        """Exact expectation of the squared signal, averaged over `places` (negative: a zero)."""
        variance = signal_variance(self._signal)
        return float(np.where(places >= 0, variance[places], 0).mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class DelayTask(WhiteSignalTask):
    """The signal some steps ago, at every step; before the first there is 0."""

    @property
    @abc.abstractmethod
    def _lags(self) -> tuple[int, ...]:
        """Steps, one for each output."""

    @property
    def spec(self) -> ModelSpec:
        """One number in, one for each lag out."""
        length = self._signal.length
        return ModelSpec(head="regress", features=1, outputs=len(self._lags), length=length)

    def _delayed(self, signal: np.ndarray) -> Example:
        targets = np.zeros((len(signal), len(self._lags)), np.float32)
        for i, lag in enumerate(self._lags):
            targets[lag:, i] = signal[: len(signal) - lag]
        return {"inputs": signal.astype(np.float32)[:, None], "targets": targets}

    def measure(self, outputs: Float[Array, "B L C"], batch: Mapping[str, Array]) -> Metrics:
        """Mean squared error over steps and lags; that of each lag where there are several."""
        measured = measure_regression(outputs, batch)
        if len(self._lags) > 1:
            for i, lag in enumerate(self._lags):
                own = {**batch, "targets": batch["targets"][..., i]}
                measured[f"mse_lag_{lag}"] = measure_regression(outputs[..., i], own)["mse"]
        return measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delay(DelayTask):
    """The signal `lag` steps ago, at every step; with num_lags > 1, output i is that i lags ago."""

    name: ClassVar[str] = "delay"
    description: ClassVar[str] = "give back a white signal 1000 steps later"
    cite: ClassVar[str] = "Gu et al. 2023, arXiv 2206.12037 (HiPPO), continuous delay"

    train_size: int = 16_384  # examples to train on
    validation_size: int = 1_024  # examples of the validation split
    test_size: int = 1_024  # examples of the test split
    length: int = 4_000  # steps
    dt: float = 2.5e-4  # seconds a step
    frequency: float = 1_000.0  # Hz, at most 1 / (2 dt)
    lag: int = 1_000  # steps
    num_lags: int = 1  # lags up to `lag`, each with an output of its own

    def __post_init__(self) -> None:
        check_count(self, "length", least=2)
        check_count(self, "num_lags")
        check_count(self, "lag", least=0, most=(self.length - 1) // self.num_lags)
        super().__post_init__()

    @property
    def _signal(self) -> Signal:
        return Signal(self.length, self.dt, self.frequency)

    @property
    def _lags(self) -> tuple[int, ...]:
        return tuple(i * self.lag for i in range(1, self.num_lags + 1))

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        return self._delayed(white_signal(draws, self._signal))

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The expected square of what is asked for."""
        self.effective_seed(split, 0)
        places = np.arange(self.length)[:, None] - np.array(self._lags)
        return {"always 0": self._zero_error(places)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Capacity(DelayTask):
    """LMU's capacity task: five delays from 0 to T at once, the signal scaled to largest size 1.

    One second is T steps, the signal lasts two and a half, its highest frequency is 10 Hz. The
    published runs have T from 100 to 100 000 and 200 signals.
    """

    name: ClassVar[str] = "lmu_capacity"
    description: ClassVar[str] = "five delays of a 10 Hz signal at once (LMU)"
    cite: ClassVar[str] = "Voelker et al. 2019, Legendre Memory Units, section 4.1"

    train_size: int = 100  # examples to train on
    validation_size: int = 100  # examples of the validation split
    test_size: int = 100  # examples of the test split
    delay: int = 100  # T in steps, a multiple of 4

    def __post_init__(self) -> None:
        check_count(self, "delay", least=20)
        check_true(self, self.delay % 4 == 0, f"delay must be a multiple of 4; got {self.delay}")
        super().__post_init__()

    @property
    def _signal(self) -> Signal:
        return Signal(self.delay * 5 // 2, 1 / self.delay, 10.0)

    @property
    def _lags(self) -> tuple[int, ...]:
        return tuple(i * self.delay // 4 for i in range(5))

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        signal = white_signal(draws, self._signal)
        return self._delayed(signal / np.abs(signal).max())

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The mean square of what is asked for, over the split itself: it is scaled row by row."""
        source = self.source(split, seed)
        squares = [np.mean(np.square(source[i]["targets"])) for i in range(len(source))]
        return {"always 0": float(np.mean(squares))}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruction(WhiteSignalTask):
    """The last `window` samples of the signal, all from the state after the last one."""

    name: ClassVar[str] = "reconstruction"
    description: ClassVar[str] = "the last 1000 samples of a white signal from the final state"
    cite: ClassVar[str] = "Gu et al. 2023, arXiv 2206.12037 (HiPPO), reconstruction"

    train_size: int = 16_384  # examples to train on
    validation_size: int = 1_024  # examples of the validation split
    test_size: int = 1_024  # examples of the test split
    length: int = 4_000  # steps
    dt: float = 1e-3  # seconds a step
    frequency: float = 100.0  # Hz, at most 1 / (2 dt)
    window: int = 1_000  # samples to give back

    def __post_init__(self) -> None:
        check_count(self, "length", least=2)
        check_count(self, "window", most=self.length)
        super().__post_init__()

    @property
    def _signal(self) -> Signal:
        return Signal(self.length, self.dt, self.frequency)

    @property
    def spec(self) -> ModelSpec:
        """One number in a step, `window` out after the last."""
        return ModelSpec(
            head="classify", features=1, outputs=self.window, length=self.length, pooling="last"
        )

    def _example(self, draws: Draws, split: Split, index: int) -> Example:
        signal = white_signal(draws, self._signal).astype(np.float32)
        return {"inputs": signal[:, None], "targets": signal[-self.window :].copy()}

    def measure(self, outputs: Float[Array, "B W"], batch: Mapping[str, Array]) -> Metrics:
        """Mean squared error over the window."""
        return measure_regression(outputs, batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The expected square of what is asked for."""
        self.effective_seed(split, 0)
        return {"always 0": self._zero_error(np.arange(self.length - self.window, self.length))}


def white_signal(draws: Draws, signal: Signal) -> Float64[np.ndarray, "length"]:
    """Gaussian noise up to a highest frequency that starts at 0 (S4's and Nengo's white signal).

    Its standard deviation would be 0.5; taking away the first sample makes that larger.
    """
    half, scale = _band(signal)
    normal = draws.normal(2 * (half + 1)).reshape(2, -1)
    normal[1, -1] = 0
    x = np.fft.irfft(scale * (normal[0] + 1j * normal[1]))[: signal.length]
    return x - x[0]


def signal_variance(signal: Signal) -> Float64[np.ndarray, "length"]:
    """The exact variance of `white_signal` at every step, over draws."""
    half, scale = _band(signal)
    # x_t - x_0 has 2 (1 - cos(k t)) of the variance of frequency k; the highest has no sine.
    power = (scale / half) ** 2
    cosines = half * np.fft.irfft(power) - power[-1] * (-1.0) ** np.arange(2 * half) / 2
    last = power[-1] / 4 * ((-1.0) ** np.arange(2 * half) - 1) ** 2
    return (2 * (power[:-1].sum() - cosines) + last)[: signal.length]


def _band(signal: Signal) -> tuple[int, Float64[np.ndarray, "F"]]:
    """Half the period in steps, and the standard deviation of each coefficient."""
    half = -(-signal.length // 2)
    kept = np.fft.rfftfreq(2 * half, d=signal.dt) <= signal.frequency
    lost = np.count_nonzero(~kept) / half
    kept[0] = False
    return half, kept * RMS * np.sqrt(0.5) * np.sqrt(2 * half) / np.sqrt(1 - lost)
