"""Tasks: data sources, losses and metrics; they know no model."""

from seqzoo.tasks.registry import TASKS, build, kind, name_of, names
from seqzoo.tasks.task import Task

__all__ = ["TASKS", "Task", "build", "kind", "name_of", "names"]
