"""Mixers made of mixers: what the whole promises follows from its parts, and so does its state."""

from __future__ import annotations

import abc
from collections.abc import Callable

from flax import nnx
from jaxtyping import Array, Float, PyTree

from seqzoo.models.mixer import Context, Mixer

Run = Callable[[Mixer, Array], Array]  # a part on its input, its state kept for it


class Composite(Mixer):
    """A mixer made of mixers. A subclass lists its `parts` and writes `_through`.

    State: a tuple of those of the parts, in the order in which they run; of `bare` modules, which
    have one part, that part's own.
    """

    looks_both_ways = True
    bare = False

    @abc.abstractmethod
    def parts(self) -> tuple[Mixer, ...]:
        """The mixers inside, in the order in which they run."""

    @abc.abstractmethod
    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        """The outputs; `run(part, h)` is called once for each part, in their order."""

    def _take_after(self, *parts: Mixer) -> None:
        """Declares for the whole what its parts declare; the width and dtype are the first's."""
        self.d_model, self.dtype = parts[0].d_model, parts[0].dtype
        self.causal = all(part.causal for part in parts)
        growth = ("constant", "window", "linear", "undeclared")
        self.state_growth = max((part.state_growth for part in parts), key=growth.index)
        self.max_length = min((p.max_length for p in parts if p.max_length), default=None)
        self.packing = "none" if any(part.packing == "none" for part in parts) else "native"

    def _initial(self, batch_size: int) -> PyTree:
        return self._joined([part._initial(batch_size) for part in self.parts()])

    def _joined(self, states: list[PyTree]) -> PyTree:
        return states[0] if self.bare else tuple(states)

    def state_size(self) -> int:
        """The sum over the parts."""
        return sum(part.state_size() for part in self.parts())

    def initial_shared(self, x: Float[Array, "B L D"]) -> PyTree:
        """That of the first part that shares anything."""
        shared = (part.initial_shared(x) for part in self.parts())
        return next((s for s in shared if s is not None), None)

    def _mix(self, x: Float[Array, "B L D"], inner: PyTree, ctx: Context):
        if inner is None:
            states = [None] * len(self.parts())
        else:
            states = [inner] if self.bare else list(inner)
        after = []

        def run(part: Mixer, h: Array) -> Array:
            h, state = part.apply(h, states[len(after)], ctx)
            after.append(state)
            return h

        return self._through(x, run, ctx), None if inner is None else self._joined(after)


class Chain(Composite):
    """Mixers one after another."""

    def __init__(self, blocks: list[Mixer]):
        self.blocks = nnx.List(list(blocks))
        self._take_after(*blocks)

    def parts(self) -> tuple[Mixer, ...]:
        """The mixers."""
        return tuple(self.blocks)

    def _through(self, x: Float[Array, "B L D"], run: Run, ctx: Context) -> Array:
        for block in self.blocks:
            x = run(block, x)
        return x
