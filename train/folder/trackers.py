"""Where a run's metrics go beside its own file: TensorBoard, Weights & Biases, MLflow, Trackio.

A tracker has three methods, and one may be named by its address: `mine.py:MyTracker`, made as
`MyTracker(run=PATH, config=DICT, done=STEP, seeds=SEEDS)`. None ever stops a run: one that fails is
left out from then on, which is said once. Nothing is asked of the network where nobody has set it
up: W&B is offline unless WANDB_API_KEY or WANDB_MODE says otherwise, MLflow writes below the run
unless MLFLOW_TRACKING_URI names a server, and Trackio writes to its own folder (TRACKIO_DIR).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from seqzoo.models.errors import unknown
from seqzoo.models.foreign import address

PROJECT = "seqzoo"
EVERY = 10  # steps between points of the training metrics
LONGEST = 250  # characters of a parameter that MLflow takes


class Tracker(Protocol):
    """What a run tells: the metrics of a step, when all should be written, and its end."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step; those of an evaluation as `validation/accuracy`."""

    def flush(self) -> None:
        """What was written is to be on disk, or sent."""

    def close(self) -> None:
        """The run is over, for now: it may go on in another process."""


class TensorBoard:
    """Events below `RUN/tensorboard`; each of several seeds has a folder of its own."""

    def __init__(self, run: Path, config: Mapping[str, Any], done: int, seeds: Sequence[int]):
        from tensorboardX import SummaryWriter

        parts = [f"seed{seed}" for seed in seeds] if len(seeds) > 1 else [""]
        purge = done + 1 if done else None
        self._events = [
            SummaryWriter(str(run / "tensorboard" / part), purge_step=purge) for part in parts
        ]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """A point of each metric, of training every so many steps."""
        for name, value in values.items():
            if "/" in name or step % EVERY == 0:
                tag = name if "/" in name else f"train/{name}"
                each = value if isinstance(value, list) else [value] * len(self._events)
                for events, own in zip(self._events, each, strict=True):
                    events.add_scalar(tag, math.nan if own is None else own, step)

    def flush(self) -> None:
        """To disk."""
        for events in self._events:
            events.flush()

    def close(self) -> None:
        """Ends the files."""
        for events in self._events:
            events.close()


class WandB:
    """A run of Weights & Biases, the same one when the run goes on."""

    def __init__(self, run: Path, config: Mapping[str, Any], done: int, seeds: Sequence[int]):
        import wandb

        online = "WANDB_MODE" in os.environ or "WANDB_API_KEY" in os.environ
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.name,
            id=_identity(run),
            resume="allow",
            dir=str(run),
            config=dict(config),
            mode=None if online else "offline",
            settings=wandb.Settings(silent=True, console="off", disable_git=True),
        )
        self._seeds = seeds

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One point of all metrics."""
        self._run.log(_flat(values, self._seeds), step=step)

    def flush(self) -> None:
        """The library writes by itself."""

    def close(self) -> None:
        """Ends the library's run."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in `RUN/mlflow.db` where no server is named; gone on by its tag."""

    def __init__(self, run: Path, config: Mapping[str, Any], done: int, seeds: Sequence[int]):
        from mlflow.tracking import MlflowClient

        local = f"sqlite:///{run.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", local))
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        found = self._client.get_experiment_by_name(name)
        place = found.experiment_id if found else self._client.create_experiment(name)
        tag = _identity(run)
        before = self._client.search_runs([place], f"tags.seqzoo = '{tag}'")
        self._seeds = seeds
        if before:
            self._id = before[0].info.run_id
            return
        made = self._client.create_run(place, run_name=run.name, tags={"seqzoo": tag})
        self._id = made.info.run_id
        for key, value in _named(config):
            self._client.log_param(self._id, key, str(value)[:LONGEST])

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One point of all metrics, in one request."""
        import time

        from mlflow.entities import Metric

        now = int(1000 * time.time())
        points = [Metric(k, v, now, step) for k, v in _flat(values, self._seeds).items()]
        self._client.log_batch(self._id, metrics=points)

    def flush(self) -> None:
        """Every write is one."""

    def close(self) -> None:
        """Marks the run as finished."""
        self._client.set_terminated(self._id)


class Trackio:
    """A run of Trackio."""

    def __init__(self, run: Path, config: Mapping[str, Any], done: int, seeds: Sequence[int]):
        import trackio

        self._seeds = seeds
        self._run = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", PROJECT),
            name=f"{run.name}-{_identity(run)}",
            config={key: str(value) for key, value in _named(config)},
            resume="allow",
            embed=False,
        )

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One point of all metrics."""
        self._run.log(_flat(values, self._seeds), step=step)

    def flush(self) -> None:
        """The library writes by itself."""

    def close(self) -> None:
        """Ends the library's run."""
        self._run.finish()


TRACKERS: dict[str, Callable[..., Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


class Guarded:
    """Several trackers, of which none can end the run."""

    def __init__(self, makers: Mapping[str, Callable[[], Tracker]], say: Callable[[str], None]):
        self._say, self._trackers = say, {}
        for name, make in makers.items():
            self._try(name, lambda name=name, make=make: self._trackers.update({name: make()}))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Tells all."""
        for name, tracker in [*self._trackers.items()]:
            self._try(name, lambda tracker=tracker: tracker.write(step, values))

    def flush(self) -> None:
        """Flushes all."""
        for name, tracker in [*self._trackers.items()]:
            self._try(name, tracker.flush)

    def close(self) -> None:
        """Closes all."""
        for name, tracker in [*self._trackers.items()]:
            self._try(name, tracker.close)

    def _try(self, name: str, act: Callable[[], object]) -> None:
        try:
            act()
        except ImportError as error:
            self._lost(name, f"it is not installed ({error}); pip install 'seqzoo[{name}]'")
        except (Exception, SystemExit) as error:  # libraries raise what they like
            text = " ".join(str(error).split())[:200]
            self._lost(name, f"{type(error).__name__}: {text}")

    def _lost(self, name: str, why: str) -> None:
        self._trackers.pop(name, None)
        self._say(f"tracker {name} is left out from now on, the run goes on: {why}")


def names_of(text: str) -> tuple[str, ...]:
    """The trackers of a comma-separated text. Raises ValueError for one that does not exist."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    for name in found:
        if name not in TRACKERS and not address.is_address(name):
            raise unknown("tracker", name, TRACKERS)
    return found


def trackers(
    text: str,
    run: Path,
    config: Mapping[str, Any],
    done: int,
    seeds: Sequence[int],
    say: Callable[[str], None],
) -> Guarded:
    """Those that a text names, for a run that goes on from step `done`."""

    def maker(name: str) -> Callable[[], Tracker]:
        def make() -> Tracker:
            kind = TRACKERS.get(name) or address.load(name)
            return kind(run=run, config=config, done=done, seeds=seeds)

        return make

    return Guarded({name: maker(name) for name in names_of(text)}, say)


def _identity(run: Path) -> str:
    """The same for a folder whenever it goes on."""
    return hashlib.sha256(str(run.absolute()).encode()).hexdigest()[:16]


def _flat(values: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, float]:
    """Numbers by name; those of several seeds as `name/seed3`."""
    found: dict[str, float] = {}
    for name, value in values.items():
        tag = name if "/" in name else f"train/{name}"
        each = zip(seeds, value, strict=True) if isinstance(value, list) else [(None, value)]
        for seed, own in each:
            if own is not None and math.isfinite(own):
                found[tag if seed is None else f"{tag}/seed{seed}"] = float(own)
    return found


def _named(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A configuration as pairs, nested names with dots."""
    found: list[tuple[str, Any]] = []
    for name, value in config.items():
        if isinstance(value, Mapping):
            found += _named(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found
