"""The heads behind an encoder that learns from views of an example, and the target it learns from.

    z = projector(pooled),   p = predictor(z)  or  |z|^-1 z · |c|^-1 c for every prototype c  or  z

The target is that of a second encoder and projector (and prototypes) whose weights follow the
trained ones, w' <- m w' + (1 - m) w, before each step; without these, what the first ones give. No
gradient passes it. Of what earlier batches left, a queue of targets (He et al. 2019,
arXiv 1911.05722, section 3.2) or their mean (Caron et al. 2021, arXiv 2104.14294, eq. 4), the loss
sees the state before its batch. All are variables that no optimiser sees; evaluation writes none.

Differs from the papers: batch norms take the views of a batch together, over the whole batch;
prototypes are divided by their norm where they are used, in place of after each step. Copies have
the dtype of the parameters, so that with bfloat16 ones large momenta stand still.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seqzoo.models.blocks.config import BackboneConfig
from seqzoo.models.blocks.layers import Norm
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import AuxLoss, Constant, Context
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.param_groups import retype
from seqzoo.models.spec import Seen, ViewSpec

EPS = 1e-8  # below which a vector has no direction


class Momentum(Constant):
    """A weight that follows a trained one."""


class Memory(nnx.Variable):
    """What earlier batches left: their targets, the targets' mean, the number of updates."""


class Unused(nnx.Variable):
    """An auxiliary loss of the copy, of which the trainer shall know nothing."""


class Head(nnx.Module):
    """Affine maps with norms and activations between them."""

    def __init__(self, widths: Sequence[int], spec: ViewSpec, last_norm: bool, **options: Any):
        pairs = itertools.pairwise(widths)
        self.layers = nnx.List([Linear(n, m, **options) for n, m in pairs])
        normed = [m for m in widths[1:-1] if spec.norm] + [widths[-1]] * last_norm
        self.norms = nnx.List([Norm("batch", m, **options) for m in normed])
        self.gelu = spec.gelu

    def __call__(self, x: Float[Array, "B V D"], ctx: Context) -> Float[Array, "B V E"]:
        """Every vector by itself but for the norms."""
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.norms):
                x = self.norms[i](x, ctx)
            if i < len(self.layers) - 1:
                x = jax.nn.gelu(x) if self.gelu else jax.nn.relu(x)
        return x


class Target(nnx.Module):
    """Copies of what gives targets, with weights that follow."""

    def __init__(self, originals: dict[str, nnx.Module]):
        self.copies = nnx.Dict({name: nnx.clone(module) for name, module in originals.items()})
        retype(self, nnx.Param, Momentum, lambda path: True)
        retype(self, AuxLoss, Unused, lambda path: True)

    def follow(self, originals: dict[str, nnx.Module], momentum: Float[Array, ""]) -> None:
        """One update."""
        for name, original in originals.items():
            copy = self.copies[name]
            new = dict(nnx.to_flat_state(nnx.state(original, nnx.Param)))
            old = dict(nnx.to_flat_state(nnx.state(copy, Momentum)))
            after = {}
            for path, variable in old.items():
                w, other = variable.get_value(), jax.lax.stop_gradient(new[path].get_value())
                after[path] = w + ((1 - momentum) * (other - w)).astype(w.dtype)
            nnx.update(copy, nnx.from_flat_state(after))


class Prototypes(nnx.Module):
    """Cosines with vectors that are learned."""

    def __init__(self, count: int, width: int, *, dtype: Any, param_dtype: Any, rngs: nnx.Rngs):
        draw = jax.random.normal(rngs.params(), (count, width), param_dtype)
        self.prototypes, self.dtype = nnx.Param(draw * width**-0.5), dtype

    def __call__(self, z: Float[Array, "B V E"], ctx: Context) -> Float[Array, "B V P"]:
        """In [-1, 1]."""
        return unit(z) @ unit(self.prototypes[...].astype(z.dtype)).T


class ViewHeads(nnx.Module):
    """Projector, what stands on it, and the target; see the module docstring."""

    def __init__(
        self,
        spec: ViewSpec,
        outputs: int,
        encoder: nnx.Module,
        config: BackboneConfig,
        *,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": config.dtype, "param_dtype": config.param_dtype, "rngs": rngs}
        widths = (config.d_model, *[spec.hidden] * (spec.layers - 1), outputs)
        self.spec = spec
        self.projector = Head(widths, spec, spec.last_norm, **options)
        top = target = queue = centre = None
        if spec.predictor:
            top = Head((outputs, spec.predictor, outputs), spec, False, **options)
        if spec.prototypes:
            top = Prototypes(spec.prototypes, outputs, **options)
        self.top = nnx.data(top)
        if spec.momentum is not None:
            target = Target(self._originals(encoder))
        self.target = nnx.data(target)
        if spec.queue:
            queue = Memory(unit(jax.random.normal(rngs.params(), (spec.queue, outputs))))
        if spec.centre:
            centre = Memory(jnp.zeros(spec.prototypes or outputs))
        self.queue, self.centre = nnx.data(queue), nnx.data(centre)
        self.followed = nnx.data(Memory(jnp.zeros((), jnp.int32)) if spec.momentum_steps else None)

    def __call__(
        self,
        encoder: nnx.Module,
        see: Callable[[nnx.Module, int], Float[Array, "B V D"]],
        rngs: nnx.Rngs | None,
    ) -> Seen:
        """`see(encoder, n)`: pooled vectors of the first n views as an encoder sees them."""
        ctx = Context(all_real(self.spec.views), rngs)
        if self.target is not None and rngs is not None:
            self.target.follow(self._originals(encoder), self._momentum())
        z = _wide(self.projector(see(encoder, self.spec.views), ctx))
        online = z if self.top is None else _wide(self.top(z, ctx))
        target = jax.lax.stop_gradient(self._targets(see, z, online, ctx))
        before = (m if m is None else m[...] for m in (self.queue, self.centre))
        seen = Seen(z, online, target, *before)
        if rngs is not None:
            self._remember(target)
        return seen

    def _originals(self, encoder: nnx.Module) -> dict[str, nnx.Module]:
        """What the target has copies of."""
        own = {"encoder": encoder, "projector": self.projector}
        return own | ({"prototypes": self.top} if self.spec.prototypes else {})

    def _targets(self, see: Callable, z: Array, online: Array, ctx: Context) -> Array:
        count = self.spec.targets
        if self.target is None:
            return (online if self.spec.prototypes else z)[:, :count]
        copies = self.target.copies
        z = _wide(copies["projector"](see(copies["encoder"], count), ctx))
        return _wide(copies["prototypes"](z, ctx)) if self.spec.prototypes else z

    def _momentum(self) -> Array:
        first, steps = self.spec.momentum, self.spec.momentum_steps
        if not steps:
            return jnp.asarray(first)
        done = self.followed[...]
        self.followed[...] = done + 1
        share = jnp.minimum(done / steps, 1)
        return 1 - (1 - first) * (1 + jnp.cos(jnp.pi * share)) / 2

    def _remember(self, target: Float[Array, "B T O"]) -> None:
        if self.queue is not None:
            new = unit(target.reshape(-1, target.shape[-1]))
            kept = jnp.concatenate([new, self.queue[...].astype(new.dtype)])[: self.spec.queue]
            self.queue[...] = kept.astype(self.queue[...].dtype)
        if self.centre is not None:
            old, mean = self.centre[...], target.mean((0, 1))
            self.centre[...] = (old + (1 - self.spec.centre) * (mean - old)).astype(old.dtype)


def unit(x: Float[Array, "... E"]) -> Float[Array, "... E"]:
    """Vectors of norm 1, where they have a direction."""
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, EPS**2))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
