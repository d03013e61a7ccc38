"""What stands between any program and a module's arithmetic, once for all of them.

Arguments are checked before anything is compiled. Then the call goes through one compiled function,
so that outside of `jax.jit` the second call of a shape compiles nothing; inside of one nothing of
it is in the way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, PyTree

from seqzoo.models.ops.layout.compiled import tracing
from seqzoo.models.ops.layout.segments import ids_from_resets, segments
from seqzoo.models.ops.layout.sharding import as_before, automatic


def through(
    body: Callable[..., tuple], module: nnx.Module, x: Array, state: PyTree, *args: PyTree, rngs
) -> tuple[PyTree, PyTree]:
    """`body(module, x, state, *args, rngs)` -> (y, state), compiled once for what has these shapes.

    `body` is a function of a module, not made anew for each call. What it writes, in variables of
    `module` and in counters of `rngs`, is written there. On a mesh with Explicit axes y is divided
    like x, the state and what is written as they were, a state from elsewhere along its rows.
    """
    inputs = module, x, state, *args, rngs
    run = _run if tracing(jax.tree.leaves(inputs)) else _compiled
    out, written, counted = run(body, *inputs)
    for node, values in ((module, written), (rngs, counted)):
        if values:
            nnx.update(node, nnx.from_flat_state(values))
    return out


def _run(body: Callable[..., tuple], *inputs: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    module, x, state, *_, rngs = inputs

    def call(*inputs: PyTree) -> tuple:
        nodes = inputs[0], inputs[-1]
        before = [_values(node) for node in nodes]
        out = body(*inputs)
        after = [_values(node) for node in nodes]
        return out, *(_changed(old, new) for old, new in zip(before, after, strict=True))

    (y, after), *written = automatic(call, x, *inputs)
    if state is not None:
        after = jax.tree.map(as_before, after, state)
    for new, node in zip(written, (module, rngs), strict=True):
        old = _values(node)
        new.update({path: as_before(value, old[path]) for path, value in new.items()})
    return (y, after), *written


_compiled = jax.jit(_run, static_argnums=0)


def _values(node: nnx.Module | nnx.Rngs | None) -> dict[tuple, Array]:
    state = {} if node is None else dict(nnx.to_flat_state(nnx.state(node)))
    return {path: variable.get_value() for path, variable in state.items()}


def _changed(old: dict[tuple, Array], new: dict[tuple, Array]) -> dict[tuple, Array]:
    return {path: value for path, value in new.items() if value is not old[path]}


def known(tree: PyTree) -> bool:
    """Whether the values of all arrays can be looked at now."""
    leaves = jax.tree.leaves(tree)
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) and all(
        getattr(leaf, "is_fully_addressable", True) for leaf in leaves
    )


def extent(
    length: int, ids: Array | None, last_id: Array | None, offset: Array | None
) -> tuple[int, bool]:
    """How many tokens the longest segment has by now, and whether any row holds several."""
    if ids is None:
        return length + int(np.asarray(offset).max()), False
    with jax.ensure_compile_time_eval():  # known also while an outer function is traced
        ids, last_id, offset = jax.tree.map(np.asarray, (ids, last_id, offset))
        most, packed = _extent(ids, last_id, offset)
        return int(most), bool(packed)


@jax.jit
def _extent(ids: Array, last_id: Array | None, offset: Array | None) -> tuple[Array, Array]:
    layout = segments(ids, last_id, offset)
    return jnp.where(layout.valid, layout.position + 1, 0).max(), (layout.run > 0).any()


def as_rngs(rngs: Any, who: str) -> nnx.Rngs | None:
    """Random streams from what stands for them: `nnx.Rngs`, a key, or None for none.

    Raises ValueError for anything else.
    """
    if rngs is None or isinstance(rngs, nnx.Rngs):
        return rngs
    if isinstance(rngs, jax.Array) and _is_key(rngs):
        return nnx.Rngs(rngs)
    hint = f"nnx.Rngs({rngs})" if isinstance(rngs, int) else "nnx.Rngs(0)"
    raise ValueError(
        f"{who}: rngs are random streams, nnx.Rngs or a key such as jax.random.key(0); "
        f"got {type(rngs).__name__}: write rngs={hint}"
    )


def _is_key(array: Array) -> bool:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array.ndim == 0
    return array.dtype == jnp.uint32 and array.ndim == 1


def stream(rngs: nnx.Rngs, name: str, who: str) -> Array:
    """The next key of a stream. Raises ValueError where `rngs` has neither it nor a default."""
    if name not in rngs and "default" not in rngs:
        have = ", ".join(rngs) or "none"
        raise ValueError(
            f"{who} draws from the random stream {name!r}; rngs has: {have}. Write "
            f"nnx.Rngs(..., {name}=key), or nnx.Rngs(key) for all streams"
        )
    return rngs[name]()


def check_array(x: Any, who: str, what: str = "x") -> None:
    """Raises ValueError for what is no array."""
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise ValueError(
            f"{who}: {what} must be an array; got {type(x).__name__}: write jnp.asarray({what})"
        )


def check_rows(x: Any, width: int | None, who: str, what: str = "x") -> None:
    """Raises ValueError for anything but floating-point rows [B, L, width]."""
    check_array(x, who, what)
    want = f"[B, L, {'D' if width is None else width}]"
    if x.ndim != 3 or (width is not None and x.shape[2] != width):
        hint = f": for one row write {what}[None]" if x.ndim == 2 else ""
        raise ValueError(f"{who} takes rows {want}; got {what} of shape {tuple(x.shape)}{hint}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{who} takes floating-point numbers; got {what} of {x.dtype}: convert them, "
            f"{what}.astype(jnp.float32), or embed tokens first (build_model does)"
        )


def check_tokens(x: Any, who: str) -> None:
    """Raises ValueError for anything but integers [B, L]."""
    check_array(x, who, "inputs")
    if x.ndim != 2 or not jnp.issubdtype(x.dtype, jnp.integer):
        raise ValueError(
            f"{who} takes integers [B, L]; got the shape {tuple(x.shape)} of {x.dtype}"
        )


def check_ids(ids: Any, shape: tuple[int, ...], who: str, what: str = "segment_ids") -> None:
    """Raises ValueError for segment ids that do not belong to tokens of this shape."""
    if ids is None:
        return
    check_array(ids, who, what)
    if ids.shape != shape:
        raise ValueError(
            f"{who}: {what} must have the shape {shape} of their tokens; got {tuple(ids.shape)}"
        )
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"{who}: {what} must be integers, 0 at padding; got {ids.dtype}: "
            f"write {what}.astype(jnp.int32)"
        )


def ids_of(resets: Any, ids: Any, state: Any, who: str) -> Any:
    """The segment ids of a chunk from either of the two that say them.

    Raises ValueError for both, and for resets that are no flags of tokens.
    """
    if resets is None:
        return ids
    if ids is not None:
        raise ValueError(f"{who}: resets become segment_ids; give one of the two")
    check_array(resets, who, "resets")
    if resets.ndim != 2 or resets.dtype != bool:
        raise ValueError(
            f"{who}: resets are booleans [B, C], true at the first token of each episode; got "
            f"the shape {tuple(resets.shape)} of {resets.dtype}"
        )
    if state.segment_id.shape != resets.shape[:1]:
        return jnp.ones(resets.shape, jnp.int32)  # rows that the state has not: `check` says so
    return ids_from_resets(resets, state.segment_id)
