"""The optimiser recipe that travels with the layers.

A parameter that wants its own learning rate carries `group="dynamics"` where it is created
(`nnx.Param(value, group="dynamics")`); biases and norm scales are never decayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import PyTree

GROUPS = {
    "default": "the learning rate of the run, with weight decay",
    "no_decay": "biases and scales: the learning rate of the run, no weight decay",
    "dynamics": "recurrences (A, dt, decays, ...): a lower learning rate, no weight decay",
}


def param_groups(model: nnx.Module | PyTree) -> PyTree:
    """The group of every parameter: labels for any optimiser, as of `optax.multi_transform`.

    Args:
        model: a module, of which the labels are a tree like `nnx.state(module, nnx.Param)`, with a
            string where that has a parameter; so they fit it, its arrays alone and the optimisers
            of NNX. Or any tree that holds parameters, as an Equinox module around a state, or
            Linen's variables as `init` gives them, boxes included; labels then are like that tree.
            Where parameters have become bare arrays, names alone decide.

    Raises:
        ValueError: for a parameter marked with a group that does not exist.
    """
    params = nnx.state(model, nnx.Param) if isinstance(model, nnx.Module) else model
    return jax.tree_util.tree_map_with_path(_group, params, is_leaf=_is_marked)


def _is_marked(x: Any) -> bool:
    return isinstance(x, nnx.Variable) or hasattr(x, "metadata")  # of Linen: a box


def _group(path: tuple, param: Any) -> str:
    marks = param.get_metadata() if isinstance(param, nnx.Variable) else {}
    marks = marks or getattr(param, "metadata", {})
    group = marks.get("group", "no_decay" if _name(path) in ("bias", "scale") else "default")
    if group not in GROUPS:
        raise ValueError(
            f"{jax.tree_util.keystr(path)}: unknown group {group!r}; known: {', '.join(GROUPS)}"
        )
    return group


def _name(path: tuple) -> str:
    last = path[-1]
    return str(getattr(last, "key", getattr(last, "name", last)))


def retype(model: nnx.Module, old: type, new: type, wanted: Callable[[str], bool]) -> None:
    """Makes variables of one type those of another, in place, where `wanted` says so of a path.

    An optimiser sees parameters alone, so that others are neither trained nor decayed.
    """
    made: dict[int, Any] = {}
    for path, module in nnx.iter_modules(model):
        for name, value in list(vars(module).items()):
            if type(value) is old and wanted("/".join(map(str, (*path, name)))):
                if id(value) not in made:
                    made[id(value)] = value, new(value.get_value(), **value.get_metadata())
                setattr(module, name, made[id(value)][1])
