"""What a run is made of that lies elsewhere, by content: its data, and the run it starts from."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from seqzoo.models.pretrained.folder import digest, is_published
from seqzoo.tasks.data.identity import identity
from seqzoo.train.config import Experiment
from seqzoo.train.differences import DATA, INIT, DataChange, differences
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.run_folder import RunFolder

Held = dict[str, dict[str, str]]


def held_by(experiment: Experiment, *, needed: bool = True) -> Held:
    """Split -> file -> digest, of the test split where it is there; and the first checkpoint.

    Raises FileNotFoundError where data to train on is missing; nothing is known then of what is not
    `needed` any more.
    """
    try:
        held = identity(experiment.task, ("train", "validation"))
    except FileNotFoundError:
        if needed:
            raise
        return {}
    with contextlib.suppress(FileNotFoundError):
        held |= identity(experiment.task, ("test",))
    if experiment.train.init_from:
        held |= {INIT: found} if (found := _digests(Path(experiment.train.init_from))) else {}
    return held


def _digests(place: Path) -> dict[str, str]:
    if is_published(place):
        return {"weights": digest(place)}
    with contextlib.closing(Checkpoints(place)) as checkpoints:
        return checkpoints.newest_digest()


def changes_of(run: Path, own: Experiment, now: Experiment, split: str) -> dict[str, Any]:
    """What an evaluation as `now` changes of the `run` as its `own`, its data among it.

    Raises ValueError where nothing else was asked for and the data are other ones.
    """
    before = RunFolder(run).config().get(DATA, {})
    held = {DATA: identity(now.task, (split,))}
    found = differences({**own.to_dict(), DATA: before}, {**now.to_dict(), **held})
    lines = [str(d.new) for d in found if isinstance(d, DataChange)]
    places = [d for d in differences(own.to_dict(), now.to_dict()) if d.key.endswith(".data")]
    if lines and not places:
        said = "".join(f"\n  {line}" for line in lines)
        raise ValueError(
            f"the data of {run} are not what they were:{said}\nGive them back, or name other data "
            "(--data.data FOLDER) to evaluate on those"
        )
    asked = {d.key: d.new for d in found if not isinstance(d, DataChange)}
    return {**asked, **({DATA: lines} if lines else {})}
