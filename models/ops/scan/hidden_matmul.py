"""A loop over time whose matrices get their gradients outside of it.

What a cell multiplies by a matrix W depends on the states before, which are known after the forward
pass. So the backward pass makes all products v_t W at once; its loop over time, free of sums over
rows, carries only the cotangent of the state and writes down those of the products; and
dW = Σ_t v_tᵀ d(v_t W) is one product over all rows and steps. Rows that are divided over devices
then exchange dW once, not at every step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from seqzoo.models.ops.layout import kernels as by_kernel
from seqzoo.models.ops.layout.cpu import summed_outer, turned
from seqzoo.models.ops.layout.derivatives import with_backward
from seqzoo.models.ops.layout.sharding import everywhere
from seqzoo.models.ops.scan import on_chip

Kernel = Float[Array, "*H I O"]


class Masks(NamedTuple):
    """Time-major: which tokens are real, and which begin a segment; None where all and none do."""

    valid: Array | None
    starts: Array | None

    def begin(self, h: PyTree) -> PyTree:
        """The state as the cell sees it."""
        return h if self.starts is None else keep(h, ~self.starts)

    def choose(self, new: PyTree, old: PyTree) -> PyTree:
        """The new state at real tokens."""
        if self.valid is None:
            return new
        return jax.tree.map(lambda n, o: jnp.where(_like(self.valid, n), n, o), new, old)


def as_before(new: PyTree, old: PyTree) -> PyTree:
    """The next state in the dtypes of the one before.

    Raises:
        ValueError: if the cell has changed its structure or shapes.
    """
    shapes, expected = (jax.tree.map(jnp.shape, h) for h in (new, old))
    if shapes != expected:
        raise ValueError(
            f"nonlinear_scan: the cell must keep the structure and shapes of the state {expected}; "
            f"it returned {shapes}"
        )
    return jax.tree.map(lambda new, old: new.astype(old.dtype), new, old)


def keep(tree: PyTree, mask: Array) -> PyTree:
    """Zero where the mask, which has the leaves' leading axes, is False."""
    return jax.tree.map(lambda a: jnp.where(_like(mask, a), a, 0).astype(a.dtype), tree)


def _like(mask: Array, a: Array) -> Array:
    return mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim))


class Opened(NamedTuple):
    """A cell whose products are arguments: step(h, x, products, *consts) -> (h, factors)."""

    step: Callable[..., tuple[PyTree, list[Array]]]
    shapes: tuple[jax.ShapeDtypeStruct, ...]  # of the products

    def closed(self, kernels: Sequence[Kernel], consts: list, h: PyTree, x: PyTree):
        """The next state, the factors and their products with the kernels."""
        products = [jnp.zeros(s.shape, s.dtype) for s in self.shapes]
        for i, kernel in enumerate(kernels):
            products[i] = product(self.step(h, x, products, *consts)[1][i], kernel)
        h, factors = self.step(h, x, products, *consts)
        return h, factors, products


Static = tuple[Opened, bool]  # and whether time is reversed


def product(v: Float[Array, "... *H I"], kernel: Kernel) -> Float[Array, "... *H O"]:
    """v W, head by head where W has heads."""
    return v @ kernel if kernel.ndim == 2 else jnp.einsum("...HI,HIO->...HO", v, kernel)


def kernel_scan(
    cell: Callable[..., PyTree],
    kernels: Sequence[Kernel],
    h0: PyTree,
    x: PyTree,
    masks: Masks,
    *,
    reverse: bool,
) -> tuple[PyTree, PyTree]:
    """The last state and all states of h = cell(h, x, *dots), x and masks time-major.

    Raises ValueError for a cell that does not call dots[i](v), which is v @ kernels[i], once each
    and in order.
    """
    kernels = tuple(map(everywhere, kernels))
    opened, consts = _open(cell, kernels, h0, jax.tree.map(lambda a: a[0], x))
    return _scan((opened, reverse), kernels, consts, h0, x, masks)


def _open(cell: Callable, kernels: tuple, h: PyTree, x: PyTree) -> tuple[Opened, list[Array]]:
    def traced(h: PyTree, x: PyTree, dot: Callable) -> tuple[PyTree, list[Array]]:
        factors: list[Array] = []

        def call(i: int, v: Array) -> Array:
            if i != len(factors):
                raise ValueError(
                    "nonlinear_scan: the cell must call its products once each and in the order "
                    f"of kernels; it called number {i} after {len(factors)} others"
                )
            factors.append(v)
            return dot(i, v)

        new = cell(h, x, *(functools.partial(call, i) for i in range(len(kernels))))
        if len(factors) != len(kernels):
            raise ValueError(
                f"nonlinear_scan: the cell called {len(factors)} of {len(kernels)} products"
            )
        return as_before(new, h), factors

    def shapes(h: PyTree, x: PyTree) -> list[Array]:
        _, factors = traced(h, x, lambda i, v: product(v, kernels[i]))
        return [product(v, kernel) for v, kernel in zip(factors, kernels, strict=True)]

    def step(h: PyTree, x: PyTree, products: list) -> tuple[PyTree, list[Array]]:
        return traced(h, x, lambda i, v: products[i])

    found = tuple(jax.eval_shape(shapes, h, x))
    examples = [jnp.zeros(s.shape, s.dtype) for s in found]
    # What the cell closes over becomes an argument, so that it may be differentiated.
    converted, consts = jax.closure_convert(step, h, x, examples)
    return Opened(converted, found), list(consts)


def _loop(
    static: Static, kernels: tuple, consts: list, h0: PyTree, x: PyTree, masks: Masks
) -> tuple[PyTree, PyTree]:
    opened, reverse = static

    def plain(kernels: tuple, consts: list, h0: PyTree, x: PyTree, masks: Masks):
        def step(h: PyTree, inputs: tuple[PyTree, Masks]) -> tuple[PyTree, PyTree]:
            x, masks = inputs
            h = masks.choose(opened.closed(kernels, consts, masks.begin(h), x)[0], h)
            return h, h

        return lax.scan(step, h0, (x, masks), reverse=reverse)

    walks = on_chip.forward(opened, reverse, plain)
    return by_kernel.run("nonlinear_scan", plain, walks, kernels, consts, h0, x, masks)


def _forward(static: Static, *args: Any):
    last, h = _scan(static, *args)
    return (last, h), (args, h)


def _backward(static: Static, kept: tuple, cotangents: tuple):
    opened, reverse = static
    (kernels, consts, h0, x, masks), h = kept
    last, g = cotangents
    before = jax.tree.map(functools.partial(_shifted, reverse), h, h0)
    before = masks.begin(before)
    closed = functools.partial(opened.closed, kernels, consts)
    _, factors, products = jax.vmap(closed)(before, x)

    def plain(transposed: list, consts: list, last: PyTree, *rows: PyTree):
        pulled = functools.partial(_pulled, opened, transposed)

        def step(carry: tuple[PyTree, list], inputs: tuple) -> tuple[tuple, tuple]:
            (dh, sums), (h, x, products, g, masks) = carry, inputs
            dh = jax.tree.map(jnp.add, dh, g)
            new = dh if masks.valid is None else keep(dh, masks.valid)
            before, dx, d_products, d_consts = pulled(consts, h, x, products, new)
            before = masks.choose(masks.begin(before), dh)
            return (before, jax.tree.map(jnp.add, sums, d_consts)), (dx, d_products)

        start = last, jax.tree.map(jnp.zeros_like, consts)
        return lax.scan(step, start, rows, reverse=not reverse)

    args = list(map(turned, kernels)), consts, last, before, x, products, g, masks
    walks = on_chip.backward(opened, reverse, plain)
    (dh0, d_consts), (dx, d_products) = by_kernel.run("nonlinear_scan", plain, walks, *args)
    d_kernels = tuple(map(_kernel_gradient, factors, d_products))
    return d_kernels, d_consts, dh0, dx, None


_scan = with_backward(_loop, _forward, _backward)


def _pulled(opened: Opened, transposed: list, consts: list, h, x, products: list, new: PyTree):
    """The cotangents of a step's h, x, products and consts, from that of the next state.

    That of a product gives that of its factor, which those of earlier products depend on; all
    these pullbacks are one, of which the compiler keeps what each round adds.
    """
    (_, factors), pull = jax.vjp(
        lambda *args: opened.step(*args[:3], *args[3]), h, x, products, consts
    )
    d_factors = [jnp.zeros_like(v) for v in factors]
    d_products = list(products)
    for i in reversed(range(len(transposed))):
        d_products[i] = pull((new, d_factors))[2][i]
        d_factors[i] = product(d_products[i], transposed[i])
    dh, dx, _, d_consts = pull((new, d_factors))
    return dh, dx, d_products, d_consts


def _shifted(reverse: bool, h: Array, h0: Array) -> Array:
    """The state before every step."""
    return jnp.concatenate([h[1:], h0[None]] if reverse else [h0[None], h[:-1]])


def _kernel_gradient(v: Float[Array, "L B *H I"], d: Float[Array, "L B *H O"]) -> Kernel:
    return summed_outer(v, d) if v.ndim == 3 else jnp.einsum("LBHI,LBHO->HIO", v, d)
