"""The configuration of a run: a frozen dataclass of such, nested by owner, and its JSON form."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.foreign import address
from seqzoo.models.mixers import MIXERS
from seqzoo.models.registry import current_options
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.task import Task
from seqzoo.train import code
from seqzoo.train.checked import checked
from seqzoo.train.differences import comparable
from seqzoo.train.options import RUNTIME, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.shapes import check_mixer, checked_config, tuples, with_mappings

CHUNK = 64  # of which packed rows have a multiple, unless their length is given


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


def _plain(value: Any) -> Any:
    """What JSON has in place of a value of an option, which has a text, or of a mapping."""
    return str(value) if dataclasses.is_dataclass(value) else dict(value)
