"""Both directions from a causal mixer: a forward copy and one reversed inside each segment."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PyTree

from seqzoo.models.construct import Construction
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.conv.short import short_conv
from seqzoo.models.ops.layout.segments import Segments

Combine = Literal["sum", "concat"]


class Bidirectional(Mixer):
    """y_t = forward(x_1 .. x_t) + backward(x_L .. x_t), both including the current token.

    `shared` weights use the forward copy for both directions. `combine="concat"` joins the two
    outputs and projects them back to d_model. `exclusive=True` lets the backward copy see only what
    lies after the current token (S4's convention, y_t = sum_{s<=t} + sum_{s>t}).
    """

    causal = False
    looks_both_ways = True

    def __init__(
        self,
        forward: Mixer,
        backward: Mixer | None,
        d_model: int,
        *,
        combine: Combine = "sum",
        exclusive: bool = False,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`backward` None shares the weights of `forward`. Raises ValueError for a `combine`."""
        if combine not in ("sum", "concat"):
            raise ValueError(f"unknown combine={combine!r}; known: sum, concat")
        self.forward, self.backward = forward, nnx.data(backward)  # None: shared weights
        self.combine, self.exclusive = combine, exclusive
        if combine == "concat":
            self.out_proj = Linear(
                2 * d_model, d_model, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )

    def _initial(self, batch_size: int) -> tuple[()]:
        return ()

    def state_size(self) -> int:
        """It cannot stream and keeps no state: 0."""
        return 0

    def initial_shared(self, x: Float[Array, "B L D"]) -> PyTree:
        """That of each direction."""
        shared = self.forward.initial_shared(x)
        return None if shared is None else (shared, shared)

    def _mix(self, x: Float[Array, "B L D"], inner: tuple, ctx: Context):
        shares = ctx.shared is not None and self.forward.initial_shared(x) is not None
        ways = ctx.shared if shares else (None, None)
        onward = Context(ctx.segments, ctx.rngs, ways[0])
        flipped = Context(ctx.segments.flip(), ctx.rngs, ways[1])
        ahead = self.forward.apply(x, None, onward)[0]
        backward = self.forward if self.backward is None else self.backward
        behind = backward.apply(jnp.flip(x, 1), None, flipped)[0]
        if shares:
            ctx.shared = onward.shared, flipped.shared
        if self.exclusive:
            behind = delay(behind, flipped.segments)
        behind = jnp.flip(behind, 1)
        if self.combine == "sum":
            return ahead + behind, ()
        return self.out_proj(jnp.concatenate([ahead, behind], -1)), ()


def _both_ways(cls: type[Mixer], args: tuple, options: dict[str, Any], wrap: dict[str, Any]):
    """`cls(..., causal=False)` where that is not native; `wrap` holds options of Bidirectional."""
    shared = wrap.pop("shared", False)
    forward = cls(*args, **options)
    backward = None if shared else cls(*args, **options)
    common = {name: options[name] for name in ("dtype", "param_dtype") if name in options}
    return Bidirectional(forward, backward, forward.d_model, **common, **wrap, rngs=options["rngs"])


Construction.both_ways = staticmethod(_both_ways)


def delay(y: Float[Array, "B L D"], layout: Segments) -> Float[Array, "B L D"]:
    """Each real token gets the output of the one before it in its segment, the first gets 0."""
    shift = jnp.zeros((2, y.shape[-1]), y.dtype).at[0].set(1)
    return short_conv(y, shift, segment_ids=layout)[0]
