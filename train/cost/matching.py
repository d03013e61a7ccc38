"""How the models of a comparison were made to cost the same, kept in its folder.

Who goes on with a comparison, or adds a model to it, gets the same sizes as before: times are
never measured twice the same, and the target is that of the models that began.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypedDict

from seqzoo.train.checked import checked, read_json
from seqzoo.train.config import Experiment
from seqzoo.train.cost.knobs import turned
from seqzoo.train.cost.match import Matched, Metric, matched
from seqzoo.train.devices.processes import from_first
from seqzoo.train.folder.files import write_atomically

FILE = "match.json"


class _Of(TypedDict):
    """A model as it was given, and what made it another."""

    model: str  # key of the experiment that was given
    size: float
    turned: Mapping[str, float]


class _File(TypedDict):
    metric: Metric
    target: float
    models: Mapping[str, _Of]


class Matching(NamedTuple):
    """Models made to cost the same, for `compare`."""

    metric: Metric
    models: Mapping[str, Matched]
    keys: Mapping[str, str]  # of the experiments as they were given

    @property
    def experiments(self) -> dict[str, Experiment]:
        """What is trained."""
        return {label: found.experiment for label, found in self.models.items()}

    def words(self) -> dict[str, str]:
        """One line a model."""
        return {label: found.words(self.metric) for label, found in self.models.items()}

    def save(self, out: Path) -> None:
        """Keeps the sizes in the folder, beside those that are there."""
        before = _read(out)
        models = dict(before["models"]) if before else {}
        for label, found in self.models.items():
            of = {"model": self.keys[label], "size": found.size, "turned": dict(found.turned)}
            models[label] = of
        target = next(iter(self.models.values())).target
        made = {"metric": self.metric, "target": target, "models": models}
        if made != before:
            write_atomically(out / FILE, json.dumps(made, indent=1) + "\n")


def matching(
    out: Path, models: Mapping[str, Experiment], metric: Metric, target: float = 0.0
) -> Matching:
    """The models at sizes that cost the same; those that the folder knows as they were there.

    Raises ValueError for another metric or target than the folder's, and as `matched` does.
    """
    before = from_first("what was matched", lambda: _read(out))
    known: dict[str, Matched] = {}
    if before:
        asked = target or before["target"]
        if (metric, asked) != (before["metric"], before["target"]):
            raise ValueError(
                f"{out} holds models matched in {before['metric']} at {before['target']:.6g}, not "
                f"in {metric} at {asked:.6g}; name another --out, or leave the target out"
            )
        target = before["target"]
        for label, experiment in models.items():
            own = before["models"].get(label)
            if own and own["model"] == experiment.key():
                made = turned(experiment, own["turned"])
                known[label] = Matched(made, own["size"], target, tuple(own["turned"].items()))
    left = {label: e for label, e in models.items() if label not in known}
    found = {**known, **(matched(left, metric, target) if left else {})}
    keys = {label: experiment.key() for label, experiment in models.items()}
    return Matching(metric, {label: found[label] for label in models}, keys)


def _read(out: Path) -> _File | None:
    path = out / FILE
    return checked(read_json(path), _File, str(path)) if path.is_file() else None
