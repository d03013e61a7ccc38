"""The configuration of a run: frozen dataclasses, nested by owner, and their JSON form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.registry import current_options
from seqzoo.tasks.task import Task
from seqzoo.train import code

# Fields that change where and how a run is computed but not what: they may differ on resume.
RUNTIME = {"runtime": True}


def _runtime(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=RUNTIME)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay.

    The group `dynamics` (A, dt, decays) learns at `min(peak_lr, dynamics_lr)` without weight decay,
    `no_decay` (biases, norm scales) without weight decay.
    """

    peak_lr: float = 1e-3  # after warm-up; positive
    warmup: float = 0.1  # optimiser steps if 1 or more, else a fraction of all steps
    final_lr: float = 0.0  # at the last step, as a fraction of the peak, in [0, 1]
    dynamics_lr: float = 1e-3  # peak for recurrences; at most peak_lr counts
    weight_decay: float = 0.05  # decoupled, times the learning rate
    clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping
    b1: float = 0.9  # decay of the first moment, in [0, 1)
    b2: float = 0.999  # decay of the second moment, in [0, 1)
    eps: float = 1e-8  # added to the root of the second moment

    def __post_init__(self) -> None:
        for name in ("peak_lr", "dynamics_lr", "eps"):
            _check(getattr(self, name) > 0, self, name, "must be positive")
        for name in ("warmup", "weight_decay", "clip_norm"):
            _check(getattr(self, name) >= 0, self, name, "must not be negative")
        for name in ("b1", "b2"):
            _check(0 <= getattr(self, name) < 1, self, name, "must be in [0, 1)")
        _check(0 <= self.final_lr <= 1, self, "final_lr", "is a fraction of peak_lr in [0, 1]")

    def warmup_steps(self, steps: int) -> int:
        """Warm-up in optimiser steps, for a run of `steps`."""
        return round(self.warmup if self.warmup >= 1 else self.warmup * steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes what is left."""

    replica: int = 1  # data parallel over slices
    data: int = -1  # data parallel, parameters replicated
    fsdp: int = 1  # data parallel, parameters divided
    seq: int = 1  # along the sequence
    tensor: int = 1  # within a layer
    expert: int = 1  # experts of a mixture

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if any(n == 0 or n < -1 for n in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh sizes are positive, and one at most is -1 (the rest); got {self}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop: how long, how much at once, how often to look and to save."""

    steps: int = 1000  # optimiser steps
    batch_size: int = 32  # examples a step, over all devices
    accumulate: int = 1  # microbatches a step; divides batch_size
    seed: int = 0  # of initialisation, data order and dropout
    replicas: int = 1  # trained side by side in one program, of the seeds seed, seed + 1, ...
    init_from: str = ""  # a run whose encoder to start from; empty: from scratch
    eval_every: int = 200  # steps between evaluations of the whole validation split; 0: at the end
    eval_batch_size: int = 0  # examples at once in evaluation; 0: batch_size
    save_every: int = _runtime(200)  # steps between checkpoints; 0: at the end
    save_seconds: float = _runtime(0.0)  # after which a checkpoint is written too; 0: never
    keep_best: bool = True  # save at each best validation result; replicas keep a copy of theirs
    max_skipped: float = _runtime(0.01)  # share of steps not finite above which the run ends
    keep: int = _runtime(2)  # newest checkpoints kept; at least 1
    threads: int = _runtime(1)  # that read data; 0: none
    prefetch: int = _runtime(8)  # batches read ahead
    stop_seconds: float = _runtime(0.0)  # after SIGTERM until it ends, saved or not; 0: no limit
    profile: bool = _runtime(False)  # write a trace for XProf
    profile_steps: int = _runtime(20)  # in the trace

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "replicas", "keep", "profile_steps"):
            _check(getattr(self, name) >= 1, self, name, "must be at least 1")
        counts = ("seed", "eval_every", "eval_batch_size", "save_every", "threads", "prefetch")
        for name in (*counts, "save_seconds", "stop_seconds"):
            _check(getattr(self, name) >= 0, self, name, "must not be negative")
        _check(0 <= self.max_skipped <= 1, self, "max_skipped", "is a share of steps in [0, 1]")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size; got {self.batch_size=}, {self.accumulate=}"
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the replicas."""
        return tuple(range(self.seed, self.seed + self.replicas))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that determines a run."""

    task: Task
    model: str = "attention"  # a mixer, a preset or a comma-separated pattern
    mixer: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of the mixer
    backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=RUNTIME)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; `from_dict` reverses it."""
        parts = {
            field.name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not self.task
        }
        task = {"name": tasks.name_of(self.task), **dataclasses.asdict(self.task)}
        data = json.loads(json.dumps({"task": task, **parts}, default=_plain))
        made_of = code.record(data)
        return {**data, "code": made_of} if made_of else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Experiment:
        """The experiment of `to_dict`.

        Raises ValueError for what does not exist, and for code that nobody has named (`code`).
        """
        for _ in code.admit(data):
            pass
        return cls(
            task=task_of(data["task"]),
            model=data["model"],
            mixer=current_options(data["model"], _tuples(data["mixer"])),
            backbone=_made(BackboneConfig, data["backbone"]),
            optim=_made(OptimConfig, data["optim"]),
            train=_made(TrainConfig, data["train"]),
            mesh=_made(MeshConfig, data["mesh"]),
        )

    def key(self) -> str:
        """A short name of this configuration, the same for equal ones."""
        text = json.dumps(comparable(self.to_dict()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def train_of(data: Mapping[str, Any]) -> TrainConfig:
    """The part of a `to_dict` form that needs no task and no model."""
    return _made(TrainConfig, data["train"])


def task_of(data: Mapping[str, Any]) -> Task:
    """The task of its part of a `to_dict` form. Raises ValueError for what does not exist."""
    options = _tuples(dict(data))
    return tasks.build(options.pop("name", ""), **options)


class Difference(NamedTuple):
    """A configuration key with two values; None where a side lacks it."""

    key: str
    old: Any
    new: Any


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """Keys of two `to_dict` forms that differ, apart from those that may differ on resume."""
    a, b = _flat(comparable(old)), _flat(comparable(new))
    keys = sorted(a.keys() | b.keys())
    return [Difference(k, a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)]


def comparable(data: Mapping[str, Any]) -> dict[str, Any]:
    """A `to_dict` form without what may differ on resume, and with what is newer than it."""
    fields = dataclasses.fields(TrainConfig)
    train = {f.name: f.default for f in fields} | dict(data["train"])
    runtime = {f.name for f in fields if "runtime" in f.metadata}
    train = {k: v for k, v in train.items() if k not in runtime}
    made = {**{k: v for k, v in data.items() if k != "mesh"}, "train": train}
    if "mixer" in made:
        made["mixer"] = current_options(data["model"], data["mixer"])
    if "backbone" in made:
        newest = json.loads(json.dumps(dataclasses.asdict(BackboneConfig())))
        made["backbone"] = newest | dict(made["backbone"])
    return code.comparable(made)


def _plain(value: Any) -> Any:
    """What JSON has in place of a value of an option, which has a text, or of a mapping."""
    return str(value) if dataclasses.is_dataclass(value) else dict(value)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _made(kind: type, data: Mapping[str, Any]) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    for name in data:
        if name not in known:
            raise ValueError(
                f"{kind.__name__} has no field {name!r} (known: {', '.join(sorted(known))}); "
                "the configuration was written by another version"
            )
    return kind(**_tuples(data))


def _tuples(data: Any) -> Any:
    """JSON has lists where configurations have tuples."""
    if isinstance(data, Mapping):
        return {name: _tuples(value) for name, value in data.items()}
    return tuple(map(_tuples, data)) if isinstance(data, list | tuple) else data


def _check(holds: bool, config: Any, name: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} {rule}; got {getattr(config, name)}")
