"""Whether two configurations are the same run, and what differs if not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.registry import current_options
from seqzoo.tasks.data.identity import changes
from seqzoo.train import code
from seqzoo.train.options import OptimConfig, TrainConfig

DATA = "data"  # in the configuration of a run's folder: what its data hold, by split and file
INIT = "init_from"  # among these: the checkpoint that it started from
NEWER = {"vocab": 0}  # options of tasks that older runs lack, and what these meant


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
