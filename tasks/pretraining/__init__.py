"""Pretraining on any task's own inputs: `OBJECTIVE:TASK` is a task like any other."""

from __future__ import annotations

from seqzoo.tasks.pretraining.base import Pretraining, wrapping
from seqzoo.tasks.pretraining.inputs import Masked, NextToken
from seqzoo.tasks.pretraining.objectives import BYOL, DINO, MoCo, SimCLR, SimSiam, SwAV
from seqzoo.tasks.pretraining.patches import Contrastive
from seqzoo.tasks.task import Task

KINDS = (NextToken, Masked, Contrastive, SimCLR, MoCo, BYOL, SimSiam, SwAV, DINO)
OBJECTIVES: dict[str, type[Pretraining]] = {kind.objective: kind for kind in KINDS}


def wrap(objective: str, inner: type[Task]) -> type[Pretraining]:
    """The task `objective:inner`."""
    return wrapping(OBJECTIVES[objective], inner)


__all__ = ["OBJECTIVES", "Contrastive", "Masked", "NextToken", "Pretraining", "wrap"]
