"""What a comparison found, as plain data.

    OUT/results.json              what was found: the same file however often the work was stopped
    OUT/timings.json              when, how fast and how long: another one each time
    OUT/trials/LABEL/             the runs of its trials, and tuned.json: what came of them
    OUT/runs/LABEL/               the run of a model's seeds, or seedN/ for each, as `train` has it
    OUT/runs/LABEL/model.json     what came of it, when all its seeds are through
    OUT/runs/LABEL/timing.json    how fast and how long

`compare` writes them model by model, and `load` joins them: a model that another process has
finished is there, whoever wrote results.json last. All are strict JSON: a number that is not finite
is null. Folders of before, a results.json with everything in it, are read too.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from seqzoo.train.checked import checked, read_json
from seqzoo.train.folder.files import plain, write_atomically, write_new
from seqzoo.train.folder.run_folder import Failure
from seqzoo.train.shapes import checked_config

FILE, TIMINGS, RUNS = "results.json", "timings.json", "runs"
MODEL, TIMING, AXES = "model.json", "timing.json", "axes.json"
# Fields that are no results.
TIMED = (
    "tokens_per_second",
    "step_seconds",
    "train_seconds",
    "compile_seconds",
    "tuning_seconds",
)
VERSION, OLDEST = 2, 1  # what is written, and the oldest that is read
PACKAGES = ("seqzoo", "jax", "jaxlib", "flax", "optax", "grain", "numpy")

Curve = Mapping[str, list[float | None]]  # "step" and one list a metric, of the same length


class Share(TypedDict):
    """The share of its layers that a mixer has in a model of a family."""

    family: str
    mixer: str
    share: float


class Left(TypedDict):
    """A share of what was reached above the best trivial rule, over seeds; null where none is."""

    mean: float | None
    low: float | None
    high: float | None
    seeds: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One run of one model."""

    seed: int
    final: Mapping[str, float | None] = dataclasses.field(default_factory=dict)  # test split
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)  # split -> curve
    tested: int | None = None  # the step whose parameters `final` is of; None: the last
    failure: Failure | None = None  # step, groups, loss and skipped; None: it finished
    skipped: int = 0  # steps that were not finite
    axes: Mapping[str, Curve] = dataclasses.field(default_factory=dict)  # axis -> "at", metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What was tried before the final runs, on seeds of its own and on validation alone."""

    values: Mapping[str, bool | int | float | str | None]  # "optim.peak_lr" -> its value
    scores: tuple[float | None, ...] = ()  # of each seed, in main_metric, as the task selects
    losses: tuple[float | None, ...] = ()  # of each seed at its last step, also on validation
    failure: str = ""  # why it counts for nothing; empty: it does


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelResult:
    """All runs of one model, and its cost."""

    name: str
    seeds: tuple[SeedResult, ...]
    steps: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # resolved, of seed 0
    parameters: int | None = None
    state_size: int | None = None  # elements of recurrent state per sequence
    state_bytes: int | None = None  # the same in bytes, at the task's length
    state_growth: str = "constant"  # "linear" where state_size is that of a full-length row
    step_flops: float | None = None  # operations of a training step of one seed
    hybrid: Share | None = None  # of a family of hybrids
    matched: str = ""  # how it was made to cost as much as the others
    tokens_per_second: float | None = None  # real ones, of one seed, the same batch for all
    step_seconds: float | None = None  # of one seed's training step, the same batch for all
    train_seconds: float | None = None  # wall time of the steps, compilation and evaluation not in
    compile_seconds: float | None = None
    claims: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of mixers from outside
    trials: tuple[Trial, ...] = ()  # in their order; none where nothing was swept
    chosen: int | None = None  # the trial whose values the final runs have
    tuning_seconds: float | None = None  # of the trials, as train_seconds

    @property
    def tuned_values(self) -> Mapping[str, Any]:
        """What was chosen: swept field -> value; empty where nothing was."""
        return {} if self.chosen is None else self.trials[self.chosen].values


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several models on one task: the content of one results file."""

    title: str
    main_metric: str
    models: tuple[ModelResult, ...]
    higher_is_better: bool = True
    description: str = ""
    cite: str = ""
    command: str = ""
    created: str = ""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # what all models share
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # sizes and digests
    baselines: Mapping[str, float | None] = dataclasses.field(
        default_factory=dict
    )  # in main_metric
    notes: tuple[str, ...] = ()
    final_split: str = "test"  # that `SeedResult.final` is measured on
    solved_at: float | None = None  # value of main_metric from which the task counts as solved
    selection: str = "last"  # the step tested: last, or each seed's best on validation (best)
    labels: tuple[str, ...] = ()  # of all models asked for, in their order; empty in old files
    # what is left by locality controls: shuffled, or of_best -> model -> share (controls.py)
    controls: Mapping[str, Mapping[str, Left]] = dataclasses.field(default_factory=dict)

    def model(self, name: str) -> ModelResult | None:
        """The results of one model, if it has been run."""
        return next((m for m in self.models if m.name == name), None)

    def rows(self) -> list[dict[str, Any]]:
        """A plain dictionary for each run: model, seed, parameters, and its final metrics."""
        return [
            {"model": m.name, "seed": r.seed, "parameters": m.parameters, **r.final}
            for m in self.models
            for r in m.seeds
        ]

    @property
    def missing(self) -> tuple[str, ...]:
        """Labels of the models that were asked for and are not there."""
        return tuple(label for label in self.labels if self.model(label) is None)


def versions() -> dict[str, str]:
    """Versions of Python, the packages and the machine that the numbers depend on."""
    import jax

    found = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = importlib.metadata.version(name)
    device = jax.devices()[0]
    found["device"] = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return found


def now() -> str:
    """The time in UTC to the second, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def digest(value: Any) -> str:
    """sha256 of `value` as canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def save(comparison: Comparison, folder: Path) -> Path:
    """Writes `folder`/results.json and `folder`/timings.json."""
    content = plain(comparison)
    timings = {"created": content.pop("created"), "models": {}}
    for model in content["models"]:
        timings["models"][model["name"]] = {name: model.pop(name) for name in TIMED}
    _write(folder / TIMINGS, timings)
    return _write(folder / FILE, {"seqzoo_results": VERSION, **content})


def create(comparison: Comparison, folder: Path) -> bool:
    """Writes the results file of a comparison without models; False where there is one already."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"seqzoo_results": VERSION, **plain(comparison)}
    return write_new(folder / FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")


def save_model(model: ModelResult, folder: Path) -> None:
    """Writes what came of one model into the folder of its runs; model.json last."""
    content = plain(model)
    _write(folder / TIMING, {name: content.pop(name) for name in TIMED})
    _write(folder / MODEL, content)


def load(path: Path) -> Comparison:
    """Reads a results file, with the models in `runs` beside it that are not in it yet.

    Raises:
        ValueError: naming the file, and what it lacks or has too much.
    """
    content = read_json(path)
    version = content.pop("seqzoo_results", None) if isinstance(content, dict) else None
    if not isinstance(version, int) or version < OLDEST:
        raise ValueError(
            f"{path} is no results file of this program, version {OLDEST} to {VERSION}"
        )
    if version > VERSION:
        raise ValueError(
            f"{path} is of version {version}, written by a newer seqzoo than this one, which reads "
            f"versions {OLDEST} to {VERSION}; install a newer one to read it"
        )
    checked(content, Comparison, str(path))
    checked_config(content.get("config", {}), f"{path}, config")
    timings = _read_if_there(path.parent / TIMINGS, _Timings)
    of_models = timings.get("models", {})
    models = [_model(m, of_models.get(m["name"], {}), path) for m in content["models"]]
    names, labels = [m.name for m in models], [*content.get("labels", ())]
    found = {m.name: m for m in [*models, *finished_models(path.parent, names)]}
    found = {name: _with_axes(m, path.parent / RUNS / name / AXES) for name, m in found.items()}
    order = [*labels, *(name for name in found if name not in labels)]
    content |= {
        "created": timings.get("created", content.get("created", "")),
        "models": tuple(found[name] for name in order if name in found),
        "notes": tuple(content.get("notes", ())),
        "labels": tuple(order) if labels else (),
    }
    return Comparison(**content)


def _with_axes(model: ModelResult, path: Path) -> ModelResult:
    """The model with what its folder holds of axes: name -> {"at": values, metric: values}."""
    if not path.is_file():
        return model
    known = checked(read_json(path), dict[str, dict[str, Curve]], str(path))
    seeds = []
    for run in model.seeds:
        own = {axis.partition("=")[0]: found.get(str(run.seed)) for axis, found in known.items()}
        axes = {name: curve for name, curve in own.items() if curve}
        _check_curves(axes, "at", f"{path}, seed {run.seed}")
        seeds.append(dataclasses.replace(run, axes={**run.axes, **axes}))
    return dataclasses.replace(model, seeds=tuple(seeds))


def finished_models(folder: Path, known: Collection[str] = ()) -> list[ModelResult]:
    """The models of a comparison's folder whose runs are through, but for the `known` ones."""
    runs = folder / RUNS
    found = sorted(runs.glob(f"*/{MODEL}")) if runs.is_dir() else []
    models = []
    for path in found:
        model, timing = read_json(path), _read_if_there(path.parent / TIMING, _Timing)
        models.append(_model(checked(model, ModelResult, str(path)), timing, path))
    return [model for model in models if model.name not in known]


class _Timing(TypedDict):
    """What `TIMED` names of a model."""

    tokens_per_second: NotRequired[float | None]
    step_seconds: NotRequired[float | None]
    train_seconds: NotRequired[float | None]
    compile_seconds: NotRequired[float | None]
    tuning_seconds: NotRequired[float | None]


class _Timings(TypedDict):
    created: NotRequired[str]
    models: NotRequired[Mapping[str, _Timing]]


def _model(content: Mapping[str, Any], timing: Mapping[str, Any], path: Path) -> ModelResult:
    """The result of a form that has been checked, but for its curves."""
    seeds = tuple(SeedResult(**seed) for seed in content["seeds"])
    for seed in seeds:
        where = f"{path}, {content['name']}, seed {seed.seed}"
        _check_curves(seed.curves, "step", where)
        _check_curves(seed.axes, "at", where)
    timed = {name: timing[name] for name in TIMED if name in timing}
    trials = tuple(Trial(**trial) for trial in content.get("trials", ()))
    chosen, alike = content.get("chosen"), len({(*trial.values,) for trial in trials}) < 2
    if not alike or (chosen is not None and not 0 <= chosen < len(trials)):
        raise ValueError(f"{path}: {content['name']} has no such trials; the file is damaged")
    return ModelResult(**{**content, **timed, "seeds": seeds, "trials": trials})


def _check_curves(curves: Mapping[str, Curve], over: str, where: str) -> None:
    for name, curve in curves.items():
        if over not in curve or None in curve[over] or len({*map(len, curve.values())}) > 1:
            raise ValueError(
                f"{where}: the curve {name} has not as many values as {over}s; the file is damaged"
            )


def _write(path: Path, content: Mapping[str, Any]) -> Path:
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def _read_if_there(path: Path, kind: type) -> dict[str, Any]:
    return checked(read_json(path), kind, str(path)) if path.exists() else {}
