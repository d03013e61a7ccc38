"""What a comparison found, as plain data: `results.json`, one file an experiment.

`compare` writes it after every model and `report` reads it. The file is strict JSON: a number that
is not finite is stored as null.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqzoo.train.folder.files import write_atomically

FILE = "results.json"
VERSION = 1
PACKAGES = ("seqzoo", "jax", "jaxlib", "flax", "optax", "grain", "numpy")

Curve = Mapping[str, list[float | None]]  # "step" and one list a metric, of the same length


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One run of one model."""

    seed: int
    final: Mapping[str, float | None] = dataclasses.field(default_factory=dict)  # test split
    curves: Mapping[str, Curve] = dataclasses.field(default_factory=dict)  # split -> curve
    tested: int | None = None  # the step whose parameters `final` is of; None: the last
    failure: Mapping[str, Any] | None = None  # {"step": int, "groups": [str], "loss": float | None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelResult:
    """All runs of one model, and its cost."""

    name: str
    seeds: tuple[SeedResult, ...]
    steps: int
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # resolved, of seed 0
    parameters: int | None = None
    state_size: int | None = None  # elements of recurrent state per sequence
    state_growth: str = "constant"  # "linear" where state_size is that of a full-length row
    tokens_per_second: float | None = None  # median over steps, all seeds together
    train_seconds: float | None = None  # wall time of the steps, compilation and evaluation not in
    compile_seconds: float | None = None


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
    baselines: Mapping[str, float] = dataclasses.field(default_factory=dict)  # in main_metric
    notes: tuple[str, ...] = ()
    final_split: str = "test"  # that `SeedResult.final` is measured on
    selection: str = "last"  # the step tested: last, or each seed's best on validation (best)

    def model(self, name: str) -> ModelResult | None:
        """The results of one model, if it has been run."""
        return next((m for m in self.models if m.name == name), None)


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


def plain(value: Any) -> Any:
    """`value` as JSON types: dataclasses become dicts, scalars Python numbers, NaN null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def save(comparison: Comparison, folder: Path) -> Path:
    """Writes `folder`/results.json."""
    path = Path(folder) / FILE
    content = {"seqzoo_results": VERSION, **plain(comparison)}
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def load(path: Path) -> Comparison:
    """Reads a results file.

    Raises:
        ValueError: naming the file, and what it lacks or has too much.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); run the comparison again") from error
    if not isinstance(content, dict) or content.pop("seqzoo_results", None) != VERSION:
        raise ValueError(f"{path} is not a results file of version {VERSION} of this program")
    try:
        models = tuple(
            ModelResult(**{**m, "seeds": tuple(SeedResult(**s) for s in m["seeds"])})
            for m in content.pop("models")
        )
        notes = tuple(content.pop("notes", ()))
        return Comparison(**content, models=models, notes=notes)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} has a missing or unknown field: {error}") from error
