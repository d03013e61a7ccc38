"""What the models of a comparison, and those of its folder, must have alike.

Models share task and training; a folder holds the comparison of one configuration, and what is
asked for now must be of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqzoo.train.compare import results
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.sweep import Sweep, fields_of, with_values
from seqzoo.train.config import Experiment
from seqzoo.train.differences import DATA, comparable, differences
from seqzoo.train.folder.files import plain
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.held import Held
from seqzoo.train.loop.runner import check_terms
from seqzoo.train.options import MOST_SEEDS

SHARED = ("task", "train")  # parts of a configuration that all models must have alike


def check_models(models: Mapping[str, Experiment], seeds: int) -> None:
    """Raises ValueError where the models cannot be compared."""
    if not models:
        raise ValueError("a comparison needs at least one model")
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"seeds must be at least 1 and at most {MOST_SEEDS}; got {seeds}")
    (label, first), *rest = models.items()
    for experiment in models.values():
        check_terms(experiment)
    for name in models:
        if not re.fullmatch(r"[^\W_][\w+.-]*", name):
            raise ValueError(
                f"{name!r} cannot name a model: give letters, digits and _ + . -, a letter first"
            )
    if first.train.replicas != 1:
        raise ValueError("a comparison has --seeds, so leave out --replicas")
    if first.train.init_from:
        raise ValueError(
            "a comparison trains every model from scratch, so init_from cannot be set; "
            "fine-tune with `seqzoo train`"
        )
    if first.task.pretrained:
        raise ValueError(
            f"protocol {first.task.protocol} fine-tunes, and a comparison trains from scratch: "
            "pretrain and fine-tune with `seqzoo train --init-from RUN`, or choose another protocol"
        )
    for other, experiment in rest:
        protocols = [getattr(e.task, "protocol", None) for e in (first, experiment)]
        if protocols[0] != protocols[1]:
            raise ValueError(
                f"{label} is measured by protocol {protocols[0]}, {other} by {protocols[1]}: "
                "numbers of two protocols do not belong in one table"
            )
        for part in SHARED:
            one, two = (comparable(e.to_dict())[part] for e in (first, experiment))
            if one != two:
                raise ValueError(f"{label} and {other} differ in {part}: {one} against {two}")


def found_in(
    models: Mapping[str, Experiment], out: Path, shared: Mapping[str, Any]
) -> Comparison | None:
    """What `out` holds already. Raises ValueError if that is of another configuration."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder for the comparison")
    if RunFolder(out).exists():
        raise ValueError(f"{out} holds a training run; name another folder for the comparison")
    if not (out / results.FILE).is_file():
        return None
    found = results.load(out / results.FILE)
    first = next(iter(models.values()))
    changed = _changes(found.config, shared)
    if found.selection != first.task.selection:
        changed.append(f"model selection: {found.selection!r} there, {first.task.selection!r} here")
    for label, experiment in models.items():
        old = found.model(label)
        if old is not None:
            changed += _changes(old.config, _tuned(experiment, old.tuned_values), f"{label}: ")
    if changed:
        lines = "\n".join(f"  {line}" for line in changed)
        raise ValueError(
            f"{out} holds a comparison of another configuration:\n{lines}\n"
            "name another --out, or remove that folder"
        )
    return found


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    # `differences` reads the forms of whole experiments.
    old, new = ({"train": {}, **plain(x)} for x in (old, new))
    return [f"{prefix}{d}" for d in differences(old, new)]


def _tuned(experiment: Experiment, values: Mapping[str, Any]) -> dict[str, Any]:
    """`own_of` with what was chosen, as far as this model has it."""
    known = {name: value for name, value in values.items() if name in fields_of(experiment)}
    return own_of(with_values(experiment, known))


def shared_by(
    experiment: Experiment, seeds: tuple[int, ...], held: Held, sweep: Sweep | None
) -> dict[str, Any]:
    """What all models of a comparison have alike, as its folder keeps it."""
    whole = comparable(experiment.to_dict())
    whole["train"].pop("replicas")  # `seeds` says it, however they are trained
    data = {DATA: held} if held else {}
    tried = {"sweep": sweep.to_dict()} if sweep else {}
    return {**{part: whole[part] for part in SHARED}, "seeds": list(seeds), **tried, **data}


def own_of(experiment: Experiment) -> dict[str, Any]:
    """What is a model's own, as its folder keeps it."""
    return {k: v for k, v in comparable(experiment.to_dict()).items() if k not in SHARED}
