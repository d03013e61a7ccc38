"""The train state: one tree of arrays, with the static rest of a model beside it.

Parameters and other variables are flat dictionaries from path ("blocks/mixer/q_proj/kernel") to
array: cheap to pass to a compiled function, and what rules, digests and checkpoints speak of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int, Key, PyTree

from seqzoo.models.param_groups import param_groups

Arrays = dict[str, Array]
WORD = 32  # bits of a seed that make a key
ModelFactory = Callable[[nnx.Rngs], nnx.Module]


class TrainState(NamedTuple):
    """What a step changes; every leaf is an array."""

    step: Int[Array, ""]  # optimiser steps done
    params: Arrays
    rest: Arrays  # variables that are not trained: batch statistics, codebooks, auxiliary losses
    opt_state: PyTree
    carry: PyTree = ()  # of a task whose rows continue each other: the model's state, rows first


class Blueprint(NamedTuple):
    """The static part of a model, and how its variables are laid out in a `TrainState`."""

    graphdef: nnx.GraphDef
    params: tuple[str, ...]  # paths, in the order of the tree's leaves
    rest: tuple[str, ...]
    params_tree: Any  # tree definitions
    rest_tree: Any
    groups: dict[str, str]  # the optimiser group of every parameter

    def merge(self, params: Arrays, rest: Arrays) -> nnx.Module:
        """The model with these variables; its own copy, so that it may rewrite them."""
        states = (
            jax.tree.unflatten(self.params_tree, [params[path] for path in self.params]),
            jax.tree.unflatten(self.rest_tree, [rest[path] for path in self.rest]),
        )
        return nnx.merge(self.graphdef, *states, copy=True)

    def of_kind(self, kind: type[nnx.Variable]) -> list[str]:
        """Paths of those of `rest` that are of a type."""
        tree = jax.tree.unflatten(self.rest_tree, self.rest)
        found = jax.tree.leaves(tree, is_leaf=lambda v: isinstance(v, nnx.Variable))
        return [path for path, v in zip(self.rest, found, strict=True) if isinstance(v, kind)]

    def split(self, model: nnx.Module) -> tuple[Arrays, Arrays]:
        """Parameters and other variables of a model of this blueprint."""
        _, params, rest = nnx.split(model, nnx.Param, ...)
        return (
            dict(zip(self.params, jax.tree.leaves(params), strict=True)),
            dict(zip(self.rest, jax.tree.leaves(rest), strict=True)),
        )


def blueprint(make_model: ModelFactory) -> Blueprint:
    """The blueprint of what `make_model(rngs)` builds, without building it."""
    model = nnx.eval_shape(lambda: make_model(nnx.Rngs(0)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    paths = _paths(params)
    groups = dict(zip(paths, jax.tree.leaves(param_groups(model)), strict=True))
    trees = jax.tree.structure(params), jax.tree.structure(rest)
    return Blueprint(graphdef, paths, _paths(rest), *trees, groups)


def init_state(
    make_model: ModelFactory,
    plan: Blueprint,
    tx: optax.GradientTransformation,
    key: Key[Array, ""],
    start: Callable[[nnx.Module], PyTree] = lambda model: (),
) -> TrainState:
    """The state before the first step; pure, for jit (with shardings) and for vmap over keys.

    `start(model)` is the first `carry`.
    """
    model = make_model(nnx.Rngs(key))
    params, rest = plan.split(model)
    return TrainState(jnp.zeros((), jnp.int32), params, rest, tx.init(params), start(model))


def seed_keys(seed: int | Int[Array, ""]) -> tuple[Key[Array, ""], Key[Array, ""]]:
    """The keys that a seed stands for: of the initialisation, and of the steps."""
    initial, steps = jax.random.split(seed_key(seed))
    return initial, steps


def seed_key(seed: int | Int[Array, ""]) -> Key[Array, ""]:
    """The key of a seed of any size, of which `jax.random.key` would take 32 bits.

    Raises ValueError for a negative one.
    """
    if not isinstance(seed, int):
        return jax.random.key(seed)
    if seed < 0:
        raise ValueError(f"a seed must not be negative; got {seed}")
    key, rest = jax.random.key(seed % 2**WORD), seed >> WORD
    while rest:
        key, rest = jax.random.fold_in(key, rest % 2**WORD), rest >> WORD
    return key


def _paths(tree: PyTree) -> tuple[str, ...]:
    """Names of the leaves; the last part, the variable's value, says nothing."""
    entries = [path for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return tuple(
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        for path in entries
    )
