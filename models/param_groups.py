"""The optimiser recipe that travels with the layers.

A parameter that wants its own learning rate carries `group="dynamics"` where it is created
(`nnx.Param(value, group="dynamics")`); biases and norm scales are never decayed.
"""

from __future__ import annotations

import jax
from flax import nnx
from jaxtyping import PyTree

GROUPS = {
    "default": "the learning rate of the run, with weight decay",
    "no_decay": "biases and scales: the learning rate of the run, no weight decay",
    "dynamics": "recurrences (A, dt, decays, ...): a lower learning rate, no weight decay",
}


def param_groups(module: nnx.Module) -> PyTree:
    """The group of every parameter, as a tree like `nnx.state(module, nnx.Param)` of strings.

    It serves any optimiser, for example as the labels of `optax.multi_transform`. Raises ValueError
    for a parameter marked with a group that does not exist.
    """

    def group_of(path: tuple, param: nnx.Param) -> nnx.Param:
        by_name = "no_decay" if _name(path) in ("bias", "scale") else "default"
        group = param.get_metadata().get("group", by_name)
        if group not in GROUPS:
            raise ValueError(
                f"{jax.tree_util.keystr(path)}: unknown group {group!r}; known: {', '.join(GROUPS)}"
            )
        return param.replace(group)

    params = nnx.state(module, nnx.Param)
    return jax.tree_util.tree_map_with_path(
        group_of, params, is_leaf=lambda v: isinstance(v, nnx.Variable)
    )


def _name(path: tuple) -> str:
    last = path[-1]
    return str(getattr(last, "key", getattr(last, "name", last)))
