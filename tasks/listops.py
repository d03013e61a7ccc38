"""The value of a ListOps expression, under its public name; the task is in `lra/listops.py`."""

from seqzoo.tasks.lra.expressions import evaluate

__all__ = ["evaluate"]
