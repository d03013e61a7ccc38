"""`ppg_dalia`: the heart rate from a wrist's sensors, 49,920 steps (Reiss et al. 2019).

As in Log-NCDE (Walker et al. 2024) and LinOSS: acceleration, pulse, skin response and temperature
at 64 a second, each series between -1 and 1 by its own extremes; windows of 49,920 steps at every
4,992nd; a heart rate for every 128 steps, between -1 and 1 too, measured by its squared error. The
split is of each person's time, 70, 15 and 15%, and which end is held out is drawn without a seed
there: only the prepared arrays (`X_train`, `y_train`, ...) have the published split. From the
persons' own files (`S1/S1.pkl` to S15) it is drawn by a fixed name, and the numbers are our own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.arrays import SUFFIXES, read_array, read_pickle, reals
from seqzoo.tasks.data.damage import DamagedError
from seqzoo.tasks.data.folders import files_below, folder_of, missing, per_file
from seqzoo.tasks.data.streams import words
from seqzoo.tasks.pixels import shades
from seqzoo.tasks.task import (
    SPLITS,
    Example,
    Metrics,
    Needs,
    Selection,
    Source,
    Split,
    Task,
    measure_regression,
)

STEPS, EVERY, CHANNELS = 49_920, 128, 6
SHIFT = STEPS // 10  # from one window to the next
PERSONS = 15
RATES = {"ACC": 2, "BVP": 1, "EDA": 16, "TEMP": 16}  # how often a sensor's value stands for 64 Hz
# Which stretches, in shares of a person's time, are train, validation and test.
CUTS = (
    ((0, 0.7), (0.7, 0.85), (0.85, 1)),
    ((0, 0.7), (0.85, 1), (0.7, 0.85)),
    ((0.15, 0.85), (0, 0.15), (0.85, 1)),
    ((0.15, 0.85), (0.85, 1), (0, 0.15)),
    ((0.3, 1), (0, 0.15), (0.15, 0.3)),
    ((0.3, 1), (0.15, 0.3), (0, 0.15)),
)
FETCH = (
    "ppg+dalia (PPG_FieldStudy, several GB) from https://archive.ics.uci.edu and unpack it, or the "
    "arrays that the code of Log-NCDE makes of it: X_train, y_train, X_val, y_val, X_test, y_test "
    "as .npy or .pkl"
)
Window = tuple[Float32[np.ndarray, "steps channels"], Float32[np.ndarray, "rates"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PpgDalia(Task):
    """Windows of a day with 15 persons' wrist sensors, and the heart rate along them."""

    name: ClassVar[str] = "ppg_dalia"
    description: ClassVar[str] = "heart rate from a wrist's sensors, 49,920 steps (PPG-DaLiA)"
    cite: ClassVar[str] = "Reiss et al. 2019, Sensors 19(14); Walker et al. 2024, arXiv 2402.18512"
    needs: ClassVar[Needs] = "download"
    main_metric: ClassVar[str] = "mse"

    time: Literal["channel", "none"] = "none"  # as the first input, from 0 to 1
    data: str = ""  # folder of the files

    def __post_init__(self) -> None:
        if self.time not in ("channel", "none"):
            raise ValueError(f"task {self.name}: time must be channel or none; got {self.time!r}")

    @property
    def selection(self) -> Selection:
        """As published: best validation."""
        return "best"

    @property
    def spec(self) -> ModelSpec:
        """A number at every step, of which each 128th is compared."""
        features = CHANNELS + (self.time == "channel")
        return ModelSpec(head="regress", features=features, outputs=1, length=STEPS)

    @property
    def notes(self) -> tuple[str, ...]:
        """The protocol, and whose split it is."""
        published = "Protocol: uea (Walker et al. 2024, arXiv 2402.18512)"
        if self._prepared:
            return (f"{published}, with the split of the prepared arrays.",)
        return (f"{published}, but for the split, which is our own: theirs was drawn unseeded.",)

    def data_files(self, split: Split) -> tuple[Path, ...]:
        """The arrays of the split, or all persons' files."""
        root = folder_of(self.name, self.data, FETCH)
        short = "val" if split == "validation" else split
        for suffix in SUFFIXES:
            found = [files_below(root, f"**/{axis}_{short}{suffix}") for axis in "Xy"]
            if all(found):
                return tuple(own[0] for own in found)
        persons = [files_below(root, f"**/S{i}.pkl") for i in range(1, PERSONS + 1)]
        if not all(persons):
            raise missing(self.name, root, FETCH)
        return tuple(own[0] for own in persons)

    @property
    def _prepared(self) -> bool:
        return len(self.data_files("train")) == 2

    def _source(self, split: Split, seed: int) -> Source:
        return Windows(self, split)

    def windows(self, split: Split) -> list[Window]:
        """Views of the split's windows."""
        files = self.data_files(split)
        return prepared(files) if len(files) == 2 else by_person(files)[split]

    def example(self, window: Window) -> Example:
        """Inputs [49920, channels] and the 390 heart rates."""
        inputs = window[0]
        if self.time == "channel":
            times = np.arange(STEPS, dtype=np.float32)[:, None] / STEPS
            inputs = np.concatenate([times, inputs], axis=1)
        return {"inputs": inputs, "targets": window[1]}

    def measure(self, outputs: Float[Array, "B L 1"], batch: Mapping[str, Array]) -> Metrics:
        """Squared error at the last of every 128 steps; `mse` is that of the publications."""
        return measure_regression(jnp.asarray(outputs)[:, EVERY - 1 :: EVERY, 0], batch)

    def baselines(self, split: Split = "test", seed: int = 0) -> dict[str, float]:
        """The error of the training windows' mean rate."""
        self.effective_seed(split, seed)
        mean = np.mean([rates.mean() for _, rates in self.windows("train")])
        own = [np.square(rates - mean).mean() for _, rates in self.windows(split)]
        return {"training mean": float(np.mean(own))}

    def decode(self, example: Mapping[str, np.ndarray]) -> str:
        """A line for each sensor, and one for the heart rate."""
        rows = [*np.asarray(example["inputs"]).T, np.asarray(example["targets"]) + 1]
        return "\n".join(shades.waveform(row) for row in rows)


class Windows:
    """The windows of one split."""

    def __init__(self, task: PpgDalia, split: Split):
        self.task, self.split, self._windows = task, split, task.windows(split)

    def __reduce__(self):
        return Windows, (self.task, self.split)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        return self.task.example(self._windows[index])


@per_file
def prepared(files: tuple[Path, ...]) -> list[Window]:
    """The windows of the arrays. Raises ValueError for others than the published ones."""
    inputs, rates = (read_array(path) for path in files)
    expected = (len(inputs), STEPS, CHANNELS), (len(inputs), STEPS // EVERY)
    if (inputs.shape, rates.shape) != expected or not len(inputs):
        raise DamagedError(
            f"{files[0]} and {files[1].name} have the shapes {inputs.shape} and {rates.shape}, not "
            f"(windows, {STEPS}, {CHANNELS}) and (windows, {STEPS // EVERY}): fetch the others"
        )
    inputs, rates = map(reals, files, (inputs, rates))
    return list(zip(inputs, rates, strict=True))


@per_file
def by_person(files: tuple[Path, ...]) -> dict[str, list[Window]]:
    """The windows of all persons' files, by split."""
    found: dict[str, list[Window]] = {split: [] for split in SPLITS}
    for path in files:
        inputs, rates = signals(path)
        cuts = CUTS[int(words(1, "split of ppg_dalia", path.stem)[0]) % len(CUTS)]
        for split, (begin, end) in zip(SPLITS, cuts, strict=True):
            own = inputs[int(begin * len(inputs)) : int(end * len(inputs))]
            answers = rates[int(begin * len(rates)) : int(end * len(rates))]
            count = min(len(own) - STEPS, (len(answers) - STEPS // EVERY) * EVERY) // SHIFT + 1
            found[split] += [
                (own[i * SHIFT :][:STEPS], answers[i * SHIFT // EVERY :][: STEPS // EVERY])
                for i in range(max(0, count))
            ]
    for split, own in found.items():
        if not own:
            raise DamagedError(f"{files[0].parent}: recordings are too short for a {split} window")
    return found


def signals(path: Path) -> tuple[Float32[np.ndarray, "L 6"], Float32[np.ndarray, "rates"]]:
    """A person's sensors at 64 a second and heart rates, between -1 and 1."""
    data = read_pickle(path)
    try:
        wrist, rates = data["signal"]["wrist"], np.asarray(data["label"], np.float64)
        sensors = [np.repeat(_column(wrist[name]), n, axis=0) for name, n in RATES.items()]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DamagedError(f"{path} has not what PPG-DaLiA's files have ({error})") from error
    if len({len(sensor) for sensor in sensors}) > 1 or sum(s.shape[1] for s in sensors) != CHANNELS:
        sizes = [sensor.shape for sensor in sensors]
        raise DamagedError(f"{path}: sensors do not fit together, {sizes}: fetch it again")
    for values in (*sensors, rates):
        reals(path, values)
    rates = np.concatenate([rates[:1].repeat(3), rates])  # the first is of 8 seconds
    inputs = np.concatenate([_scaled(sensor) for sensor in sensors], axis=1)
    return inputs.astype(np.float32), _scaled(rates).astype(np.float32)


def _column(values: Any) -> np.ndarray:
    array = np.asarray(values, np.float64)
    return array[:, None] if array.ndim == 1 else array


def _scaled(values: np.ndarray) -> np.ndarray:
    """Between -1 and 1 by the extremes of all channels together."""
    low, high = values.min(), values.max()
    return 2 * (values - low) / max(high - low, 1e-12) - 1
