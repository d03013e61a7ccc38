"""The configuration of a run: frozen dataclasses, nested by owner, and their JSON form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.foreign import address
from seqzoo.models.mixers import MIXERS
from seqzoo.models.pretrained.adapters import adapter_of
from seqzoo.models.registry import current_options
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.data.identity import changes
from seqzoo.tasks.task import Task
from seqzoo.train import code
from seqzoo.train.checked import checked
from seqzoo.train.shapes import check_mixer, checked_config, tuples, with_mappings

MOST_SEEDS = 10_000  # of one model
CHUNK = 64  # of which packed rows have a multiple, unless their length is given
MOST_THREADS, MOST_AHEAD = 1000, 10_000  # that read, batches that wait: more only take memory

# Fields that change where and how a run is computed but not what: they may differ on resume.
RUNTIME = {"runtime": True}
DATA = "data"  # in the configuration of a run's folder: what its data hold, by split and file
NEWER = {"vocab": 0}  # options of tasks that older runs lack, and what these meant
INIT = "init_from"  # among these: the checkpoint that it started from


def _runtime(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=RUNTIME)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser (AdamW unless another is named), its learning rate and weight decay.

    The group `dynamics` (A, dt, decays) learns at `min(peak_lr, dynamics_lr)` without weight decay,
    `no_decay` (biases, norm scales) without weight decay.
    """

    name: str = "adamw"  # adam, sgd, lion, adafactor, muon, schedule_free, or an address
    peak_lr: float = 1e-3  # after warm-up; positive
    # how the learning rate falls after warm-up; auto: cosine, or constant for schedule_free
    schedule: Literal["auto", "cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "auto"
    decay: float = 0.2  # share of all steps in which wsd comes down
    warmup: float = 0.1  # optimiser steps if 1 or more, else a fraction of all steps
    final_lr: float = 0.0  # at the last step, as a fraction of the peak, in [0, 1]
    dynamics_lr: float = 1e-3  # peak for recurrences; at most peak_lr counts
    weight_decay: float = 0.05  # decoupled, times the learning rate
    clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping
    b1: float = 0.9  # decay of the first moment, of sgd the momentum, in [0, 1)
    b2: float = 0.999  # decay of the second moment, in [0, 1)
    eps: float = 1e-8  # added to the root of the second moment
    momentum: float = 0.95  # of muon's matrices, in [0, 1)
    ema: float = 0.0  # decay of the averaged weights that are evaluated, in [0, 1); 0: none
    trained: str = ""  # what learns: an expression found in paths of parameters; empty: all

    def __post_init__(self) -> None:
        for name in ("peak_lr", "dynamics_lr", "eps"):
            _check(getattr(self, name) > 0, self, name, "must be positive")
        for name in ("warmup", "weight_decay", "clip_norm"):
            _check(getattr(self, name) >= 0, self, name, "must not be negative")
        for name in ("b1", "b2", "momentum", "ema"):
            _check(0 <= getattr(self, name) < 1, self, name, "must be in [0, 1)")
        _check(0 <= self.final_lr <= 1, self, "final_lr", "is a fraction of peak_lr in [0, 1]")
        _check(0 < self.decay <= 1, self, "decay", "is a share of all steps in (0, 1]")
        if self.name == "schedule_free":
            _check(self.ema == 0, self, "ema", "must be 0: schedule_free averages by itself")
            _check(self.b1 > 0, self, "b1", "must be positive for schedule_free")

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
    seeds: int = 1  # --replicas, or the seeds of a comparison: each has its part of them

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
    # what learns of what it starts from: lora or dora, as lora:rank=8,alpha=16,on=EXPRESSION;
    # empty: all
    adapter: str = ""
    eval_every: int = 200  # steps between evaluations of the whole validation split; 0: at the end
    patience: int = 0  # evaluations without a better one that end a replica; 0: none does
    eval_batch_size: int = 0  # examples at once in evaluation; 0: batch_size
    pack: int = 0  # tokens of a row that examples share; -1: what the longest needs; 0: a row each
    save_every: int = _runtime(200)  # steps between checkpoints; 0: at the end
    save_seconds: float = _runtime(0.0)  # after which a checkpoint is written too; 0: never
    keep_best: bool = True  # save at each best validation result; replicas keep a copy of theirs
    max_skipped: float = _runtime(0.01)  # share of steps not finite above which the run ends
    keep: int = _runtime(2)  # newest checkpoints kept; at least 1
    threads: int = _runtime(1)  # that read data; 0: none
    prefetch: int = _runtime(8)  # batches read ahead
    stop_seconds: float = _runtime(0.0)  # after SIGTERM until it ends, saved or not; 0: no limit
    trackers: str = _runtime("tensorboard")  # wandb, mlflow, trackio, an address; a,b for several
    profile: bool = _runtime(False)  # write a trace for XProf
    profile_steps: int = _runtime(20)  # in the trace

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "replicas", "keep", "profile_steps"):
            _check(getattr(self, name) >= 1, self, name, "must be at least 1")
        counts = ("seed", "eval_every", "eval_batch_size", "save_every", "threads", "prefetch")
        for name in (*counts, "save_seconds", "stop_seconds"):
            _check(getattr(self, name) >= 0, self, name, "must not be negative")
        most = {"replicas": MOST_SEEDS, "threads": MOST_THREADS, "prefetch": MOST_AHEAD}
        for name, limit in most.items():
            _check(getattr(self, name) <= limit, self, name, f"must be at most {limit}")
        _check(self.patience >= 0, self, "patience", "must not be negative")
        if self.patience and not self.eval_every:
            raise ValueError(f"patience counts evaluations, and eval_every=0; got {self.patience=}")
        _check(self.pack >= -1, self, "pack", "is tokens of a row, -1 or 0")
        _check(0 <= self.max_skipped <= 1, self, "max_skipped", "is a share of steps in [0, 1]")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size; got {self.batch_size=}, {self.accumulate=}"
            )
        if self.adapter:
            object.__setattr__(self, "adapter", str(adapter_of(self.adapter)))
            if not self.init_from:
                raise ValueError(
                    f"an adapter changes what was learned before, and there is nothing: give "
                    f"--init FOLDER or --init-from beside --adapter {self.adapter}"
                )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the replicas."""
        return tuple(range(self.seed, self.seed + self.replicas))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """All that determines a run.

    `task` may be a name, an address or a class too. `backbone` is what stands around the mixers,
    `optim` how it learns, `train` for how long and on how much at once, `mesh` where it runs.
    """

    task: Task
    model: str = "attention"  # a mixer, a preset, an address, or a comma-separated pattern
    mixer: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # options of the mixer
    backbone: BackboneConfig = dataclasses.field(default_factory=BackboneConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    mesh: MeshConfig = dataclasses.field(default_factory=MeshConfig, metadata=RUNTIME)
    # Number of the optimiser -> its value in each trial: replicas are trials times seeds.
    swept: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """A task may be given by name, address or class, a mixer by its class, several in a tuple.

        Raises ValueError for what does not exist.
        """
        self._check_swept()
        if isinstance(self.task, str):
            object.__setattr__(self, "task", tasks.build(self.task))
        elif isinstance(self.task, type):
            address.register(self.task)
            object.__setattr__(self, "task", self.task())
        if not isinstance(self.model, str):
            parts = self.model if isinstance(self.model, tuple | list) else (self.model,)
            object.__setattr__(self, "model", ",".join(map(_mixer_name, parts)))
        train = self.train
        run = {"batch_size": train.batch_size, "accumulate": train.accumulate}
        self.task.check_run(**run, adapter=train.adapter)

    @property
    def spec(self) -> ModelSpec:
        """What task and loop need of a model. Raises ValueError for rows that cannot be packed."""
        spec = self.task.spec
        return dataclasses.replace(spec, packed=True) if self.packed_length else spec

    @property
    def packed_length(self) -> int:
        """Tokens of a row that examples share, 0 where each has its own.

        Raises ValueError for rows that cannot be packed.
        """
        pack, spec = self.train.pack, self.task.spec
        if not pack:
            return 0
        if spec.packed or self.task.stateful:
            raise ValueError(
                f"the rows of task {self.task.name} are full as they are; pack joins short "
                f"examples: leave it out; got {pack=}"
            )
        if 0 < pack < spec.length:
            raise ValueError(
                f"pack must have room for the longest example of task {self.task.name}, "
                f"{spec.length} tokens; got {pack=}: -1 takes what it needs"
            )
        # Most scans run in chunks of 64.
        return pack if pack > 0 else spec.length + -spec.length % CHUNK

    def _check_swept(self) -> None:
        trials, replicas = {len(values) for values in self.swept.values()}, self.train.replicas
        fits = len(trials) == 1 and 0 not in trials and replicas % max(trials) == 0 < replicas - 1
        if self.swept and not fits:
            raise ValueError(
                "swept has one value of each field for each trial, and replicas are trials times "
                f"seeds; got {dict(self.swept)} and {replicas=}"
            )

    @property
    def trials(self) -> int:
        """How many values `swept` has of each field."""
        return len(next(iter(self.swept.values()), (None,)))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the replicas: all seeds of the first trial, of the second, ..."""
        return self.train.seeds[: self.train.replicas // self.trials] * self.trials

    def alone(self, place: int) -> Experiment:
        """What the replica at a place trains, as a run of its own."""
        trial = place // (self.train.replicas // self.trials)
        optim = {name: values[trial] for name, values in self.swept.items()}
        return dataclasses.replace(
            self,
            optim=dataclasses.replace(self.optim, **optim),
            train=dataclasses.replace(self.train, replicas=1, seed=self.seeds[place]),
            swept={},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold; `from_dict` reverses it."""
        parts = {
            field.name: dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not self.task
            and (value or field.name != "swept")
        }
        task = {"name": tasks.name_of(self.task), **dataclasses.asdict(self.task)}
        data = json.loads(json.dumps({"task": task, **parts}, default=_plain))
        made_of = code.record(data)
        return {**data, "code": made_of} if made_of else data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "the configuration") -> Experiment:
        """The experiment whose `to_dict` is `data`, which was read from `where`.

        Raises ValueError for what does not exist, for values of another type, and for code that
        nobody has named (`code`).
        """
        checked_config(data, where)
        checked({**data, "backbone": with_mappings(data.get("backbone"))}, _Config, where)
        for _ in code.admit(data):
            pass
        mixer_options = current_options(data["model"], tuples(data["mixer"]))
        check_mixer(data["model"], mixer_options, where)
        return cls(
            task=task_of(data["task"], where),
            model=data["model"],
            mixer=mixer_options,
            backbone=BackboneConfig(**tuples(data["backbone"])),
            optim=OptimConfig(**tuples(data["optim"])),
            train=train_of(data, where),
            mesh=MeshConfig(**tuples(data["mesh"])),
            swept=tuples(data.get("swept", {})),
        )

    def key(self) -> str:
        """A short name of this configuration, the same for equal ones."""
        text = json.dumps(comparable(self.to_dict()), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Config(TypedDict):
    """The form of `to_dict`, but for what depends on task and model."""

    task: Mapping[str, Any]
    model: str
    mixer: Mapping[str, Any]
    backbone: BackboneConfig
    optim: OptimConfig
    train: TrainConfig
    mesh: MeshConfig
    swept: NotRequired[Mapping[str, list[float]]]
    data: NotRequired[Mapping[str, Mapping[str, str]]]


def _mixer_name(mixer: Any) -> str:
    ours = next((name for name, kind in MIXERS.items() if kind is mixer), None)
    if isinstance(mixer, str) or ours:
        return ours or mixer
    if not isinstance(mixer, type):
        raise ValueError(f"a model is a name or a class, made anew for each run; got {mixer!r}")
    return address.register(mixer)


def train_of(data: Mapping[str, Any], where: str = "the configuration") -> TrainConfig:
    """The part of a `to_dict` form that needs no task and no model."""
    return TrainConfig(**tuples(checked(data["train"], TrainConfig, f"{where}, train")))


def task_of(data: Mapping[str, Any], where: str = "the configuration") -> Task:
    """The task of its part of a `to_dict` form. Raises ValueError for what does not exist."""
    options = dict(data)
    name = checked(options.pop("name", ""), str, f"{where}, task.name")
    return tasks.build(name, **tuples(checked(options, tasks.kind(name), f"{where}, task")))


class Difference(NamedTuple):
    """A configuration key with two values; None where a side lacks it."""

    key: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} there, {self.new!r} here"


class DataChange(Difference):
    """What has changed of a run's data, in words."""

    def __str__(self) -> str:
        return f"{self.key}: {self.new}"


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """What differs between two `to_dict` forms, apart from what may differ on resume.

    Where both know what their data hold (`DATA`), that is compared and not where they lie.
    """
    there, here = ({**form.get(DATA, {})} for form in (old, new))
    known = there.keys() & here.keys()
    lines = changes({k: there[k] for k in known}, {k: here[k] for k in known})
    found = [DataChange(DATA, None, line) for line in lines]
    a, b = (_flat(_placeless(comparable(form), known)) for form in (old, new))
    keys = sorted(a.keys() | b.keys())
    return [*(Difference(k, a.get(k), b.get(k)) for k in keys if a.get(k) != b.get(k)), *found]


def comparable(data: Mapping[str, Any]) -> dict[str, Any]:
    """A `to_dict` form without what may differ on resume, and with what is newer than it."""
    fields = dataclasses.fields(TrainConfig)
    train = {f.name: f.default for f in fields} | dict(data.get("train", {}))
    runtime = {f.name for f in fields if "runtime" in f.metadata}
    train = {k: v for k, v in train.items() if k not in runtime}
    made = {**{k: v for k, v in data.items() if k not in ("mesh", DATA)}, "train": train}
    if "mixer" in made:
        made["mixer"] = current_options(data.get("model", ""), data["mixer"])
    for part, kind in (("backbone", BackboneConfig), ("optim", OptimConfig)):
        if part in made:
            newest = json.loads(json.dumps(dataclasses.asdict(kind())))
            made[part] = newest | dict(made[part])
    if "task" in made:
        made["task"] = _as_before(made["task"])
    return code.comparable(made)


def _as_before(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's options, and those of the task that it wraps, without new ones that say nothing."""
    parts = {k: _as_before(v) if isinstance(v, Mapping) else v for k, v in task.items()}
    return {k: v for k, v in parts.items() if k not in NEWER or v != NEWER[k]}


def _plain(value: Any) -> Any:
    """What JSON has in place of a value of an option, which has a text, or of a mapping."""
    return str(value) if dataclasses.is_dataclass(value) else dict(value)


def _placeless(form: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A form without the places of what is `known` by its content."""
    made = dict(form)
    if "task" in made and {*known} - {INIT}:
        made["task"] = _without_data(made["task"])
    if INIT in known:
        made["train"] = {k: v for k, v in made["train"].items() if k != INIT}
    return made


def _without_data(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's options, and those of the task that it wraps, without `data`."""
    parts = {k: _without_data(v) if isinstance(v, Mapping) else v for k, v in task.items()}
    return {k: v for k, v in parts.items() if k != "data"}


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _check(holds: bool, config: Any, name: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} {rule}; got {getattr(config, name)}")
