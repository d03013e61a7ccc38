"""The affine map of all mixers, blocks and heads."""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from seqzoo.models.ops.layout.cpu import with_rows_joined


class Linear(nnx.Linear):
    """`nnx.Linear` that takes the rows of a batch and their steps for one axis."""

    def matrix(self) -> Float[Array, "... D F"]:
        """What inputs are multiplied by, for who multiplies otherwise."""
        return self.kernel[...]

    def __call__(self, inputs: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """[..., D] to [..., F]."""
        return with_rows_joined(super().__call__, inputs)
