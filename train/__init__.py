"""Training, from Python: `from seqzoo.train import Experiment, compare, evaluate, load, run`.

What these are stands in `seqzoo.train.door` and `seqzoo.train.config`; they are imported when they
are asked for, so that the command line starts without them.
"""

import importlib

_WHERE = {
    **dict.fromkeys(("Result", "compare", "evaluate", "load", "run"), ".door"),
    **dict.fromkeys(("Range", "Sweep"), ".compare.sweep"),
    **dict.fromkeys(("Experiment", "MeshConfig", "OptimConfig", "TrainConfig"), ".config"),
}

__all__ = [*_WHERE]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name], __name__), name)
