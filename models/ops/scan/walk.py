"""All steps of a recurrence in one kernel, by Pallas: for GPUs and TPUs.

A step needs the whole of what the last one made, once more through the matrix: R. Nothing else
leaves a block of rows and channels, so that a program holds such a block, its state in registers;
without a matrix nothing does, and nobody waits.

- On a GPU (Triton) programs of the same rows hold T channels each, and the part of R that makes
  them, n E T numbers, which stay near: in the first-level cache of a multiprocessor or, of one
  program with all channels, in the second. After each step they write what is exchanged and wait
  for each other, which needs all of them to run at once: hence `PROGRAMS`. A wait that takes too
  long gives NaN, not a machine that hangs.
- On a TPU (Mosaic) the grid itself walks over the steps, R stays in vector memory, and what is
  exchanged and carried is scratch. Pallas' interpreter runs this form in several parts too.

Arrays are [L, n, H, B, E]: steps, n blocks of channels, heads, rows, channels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

PROGRAMS = 64  # that wait for each other: no more than multiprocessors of the chips meant
POLLS = 2**22  # seconds
TILES = (16, 32, 64)  # channels of a program
ROWS = (16, 32, 64, 128)  # and rows: tensor cores take 16 at least
INNER = 64  # channels that a product takes at once
VECTOR_MEMORY = 48 * 2**20  # bytes of a TPU's that a kernel may want

Tiles = list[list[Array]]  # of every array, its blocks


class Step(NamedTuple):
    """What a walk does at every step, and of what.

    Attributes:
        run: (carry, products, inputs, fixed, valid, starts) -> (carry, outputs), on blocks [B, E];
            the masks are [B, 1] or None.
        outputs: blocks and dtype of each.
        exchanged: which output the matrix takes; its products are there in the next step. None
            without a matrix.
    """

    run: Callable[..., tuple[Tiles, Tiles]]
    outputs: tuple[tuple[int, Any], ...]
    exchanged: int | None


class Arrays(NamedTuple):
    """Of what a walk is made."""

    carry: list[Float[Array, "_ H B E"]]
    first: Float[Array, "M H B E"] | None  # the products of the first step
    matrix: Float[Array, "H _ M E E"] | None
    inputs: list[Float[Array, "L _ H B E"]]
    fixed: list[Float[Array, "_ H B E"]]
    masks: list[Int[Array, "L B 1"] | None]  # real tokens, first tokens of a segment


class Plan(NamedTuple):
    """How the work is cut: rows and channels of a program, and who walks over the steps."""

    rows: int
    channels: int
    inside: bool  # the program, else the grid
    interpret: bool = False


class Sizes(NamedTuple):
    """What a plan is made for."""

    batch: int
    heads: int
    width: int
    gates: int  # blocks of the product
    held: int  # blocks of all arrays in a step


def gpu_plan(x: Sizes) -> Plan | None:
    """None where programs would be too many, or their sizes none that Triton can have."""
    if not x.gates:
        size = next((size for size in (32, 16) if x.width % size == 0), None)
        return size and Plan(ROWS[0], size, inside=True)
    for rows in ROWS:
        blocks = -(-x.batch // rows) * x.heads
        if x.width == TILES[0]:
            return Plan(rows, x.width, inside=True)  # nobody waits
        for channels in TILES:
            if x.width % channels == 0 and blocks * (x.width // channels) <= PROGRAMS:
                return Plan(rows, channels, inside=True)
    return None


def tpu_plan(x: Sizes) -> Plan | None:
    """None where the matrix and the blocks of a step do not fit, or are not whole vectors."""
    sizes = (size for size in (x.batch, 256, 128, 64, 32, 16, 8) if size <= 256)
    rows = next((size for size in sizes if x.batch % size == 0), None)
    if rows is None or x.width % 128:
        return None
    held = (x.gates * x.width + x.held * rows) * x.width * 4
    return Plan(rows, x.width, inside=False) if 2 * held <= VECTOR_MEMORY else None


def walk(step: Step, x: Arrays, plan: Plan, *, reverse: bool) -> tuple[list[Array], list[Array]]:
    """The last carry and all outputs."""
    length, (heads, batch, width) = x.inputs[0].shape[0], x.inputs[0].shape[2:]
    grid = Grid(plan, length, reverse, -(-batch // plan.rows), heads, width)
    carried = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in x.carry]
    outs = [jax.ShapeDtypeStruct((length, n, heads, batch, width), t) for n, t in step.outputs]
    run = _inside if plan.inside else _by_grid
    return run(step, x, grid, carried, outs)


class Grid(NamedTuple):
    """A plan for arrays of known sizes."""

    plan: Plan
    length: int
    reverse: bool
    blocks: int
    heads: int
    width: int

    @property
    def parts(self) -> int:
        """Blocks of channels of a row."""
        return self.width // self.plan.channels

    def time(self, i: Any) -> Any:
        """The i-th step's place."""
        return self.length - 1 - i if self.reverse else i


def _products(
    v: Callable, matrix: Callable, count: tuple[int, int], width: int, piece: int, like: Array
) -> tuple[Array, ...]:
    """Σ_i v_i R_ij for every j, in pieces of the channels that R takes."""

    def add(k: Array | int, sums: tuple[Array, ...]) -> tuple[Array, ...]:
        sums, here = list(sums), pl.ds(k * piece, piece)
        for i in range(count[0]):
            factor = v(i, here)
            for j in range(count[1]):
                part = matrix(i, j, here).astype(factor.dtype)
                sums[j] += jnp.dot(factor, part, preferred_element_type=sums[j].dtype)
        return tuple(sums)

    zeros = (jnp.zeros_like(like),) * count[1]
    return add(0, zeros) if width == piece else lax.fori_loop(0, width // piece, add, zeros)


def _tiles(refs: Sequence[Any], read: Callable[..., Array], *at: Any) -> Tiles:
    """The blocks of each."""
    return [[read(ref, *at, j) for j in range(ref.shape[len(at)])] for ref in refs]


# On a GPU.


def _inside(step: Step, x: Arrays, grid: Grid, carried: list, outs: list):
    from jax.experimental.pallas import triton as gpu

    rows, channels = grid.plan.rows, grid.plan.channels
    mixes = x.matrix is not None
    count = x.matrix.shape[1:3] if mixes else ()
    kernel = functools.partial(_program, step, grid, x.inputs[0].shape[-2])

    def block(a: Any, *, whole: bool = False) -> pl.BlockSpec:
        lead = a.shape[:-3]
        return pl.BlockSpec(
            (*lead, None, rows, grid.width if whole else channels),
            lambda r, h, p: (*(0 for _ in lead), h, r, 0 if whole else p),
        )

    matrix = pl.BlockSpec((None, *count, grid.width, channels), lambda r, h, p: (h, 0, 0, 0, p))
    mask = pl.BlockSpec((grid.length, rows, 1), lambda r, h, p: (0, r, 0))
    specs = jax.tree.map(block, x)
    specs = specs._replace(matrix=matrix if mixes else None)
    specs = specs._replace(masks=[None if m is None else mask for m in x.masks])
    arrived = jnp.zeros((grid.blocks, grid.heads), jnp.int32)
    counter = pl.BlockSpec(arrived.shape, lambda r, h, p: (0, 0))
    exchange = [block(s, whole=i == step.exchanged) for i, s in enumerate(outs)]
    arrays, tree = jax.tree.flatten(x)
    n, m = len(arrays), len(carried)

    def flat(*refs: Any) -> None:
        ends = refs[n + 1 : -1]
        kernel(tree.unflatten(refs[:n]), refs[-1], ends[:m], ends[m:])

    found = pl.pallas_call(
        flat,
        grid=(grid.blocks, grid.heads, grid.parts),
        in_specs=[*jax.tree.leaves(specs), counter],
        out_specs=[*map(block, carried), *exchange, counter],
        out_shape=[*carried, *outs, jax.ShapeDtypeStruct(arrived.shape, arrived.dtype)],
        input_output_aliases={n: m + len(outs)},
        compiler_params=gpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=grid.plan.interpret,
        name="walk",
    )(*arrays, arrived)
    return list(found[:m]), list(found[m:-1])


def _program(
    step: Step, grid: Grid, batch: int, x: Arrays, arrived: Any, last: list, written: list
) -> None:
    """All steps of a block of rows and channels of one head; all arrays are references."""
    from jax.experimental.pallas import triton as gpu

    mixes = x.matrix is not None
    rows, channels = grid.plan.rows, grid.plan.channels
    r, h, p = map(pl.program_id, range(3))
    real = r * rows + lax.broadcasted_iota(jnp.int32, (rows, 1), 0) < batch
    exchanged = written[step.exchanged] if mixes else None
    mine = slice(None), pl.ds(p * channels, channels)

    def load(ref: Any, *index: Any, **how: Any) -> Array:
        ref = ref.at[_numbered(index)]
        mask, zero = jnp.broadcast_to(real, ref.shape), jnp.zeros((), ref.dtype)
        return gpu.load(ref, mask=mask, other=zero, **how)

    def store(value: Array, ref: Any, *index: Any) -> None:
        ref = ref.at[_numbered(index)]
        gpu.store(ref, value.astype(ref.dtype), mask=jnp.broadcast_to(real, ref.shape))

    def products_at(i: Array, late: Array) -> list[Array]:
        before = grid.time(jnp.maximum(i - 1, 0))
        made = _products(
            # Not from the first-level cache, which knows nothing of what others write.
            lambda j, here: load(exchanged, before, j, slice(None), here, volatile=True),
            lambda j, m, here: x.matrix[j, m, here, :],
            x.matrix.shape[:2],
            grid.width,
            next(size for size in (INNER, *reversed(TILES)) if grid.width % size == 0),
            first[0],
        )
        return [jnp.where(i == 0, f, m + late) for f, m in zip(first, made, strict=True)]

    def at(i: Array, state: tuple[Tiles, Array]) -> tuple[Tiles, Array]:
        (carry, late), t = state, grid.time(i)
        products = products_at(i, late) if mixes else []
        masks = [None if ref is None else load(ref, t) != 0 for ref in x.masks]
        inputs = _tiles(x.inputs, load, t)
        carry, out = step.run(carry, products, inputs, fixed, *masks)
        for ref, values in zip(written, out, strict=True):
            for j, value in enumerate(values):
                store(value, ref, t, j, *(mine if ref is exchanged else ()))
        if mixes and not grid.plan.interpret:
            gpu.debug_barrier()
        if mixes and grid.parts > 1:
            late = _wait(gpu, arrived, (r, h), grid.parts * (i + 1), late)
        return carry, late

    fixed = _tiles(x.fixed, load)
    first = _tiles([x.first], load)[0] if mixes else []
    start = _tiles(x.carry, load), jnp.float32(0)
    carry, _ = lax.fori_loop(0, grid.length, at, start)
    for ref, values in zip(last, carry, strict=True):
        for j, value in enumerate(values):
            store(value, ref, j)


def _numbered(index: tuple) -> tuple:
    """Pallas' interpreter knows no numbers of Python in masked loads."""
    return tuple(jnp.int32(i) if isinstance(i, int) else i for i in index)


def _wait(gpu: Any, arrived: Any, here: tuple, all_there: Array, late: Array) -> Array:
    """0 when as many have arrived; NaN if they do not come, or did not before."""

    def missing(state: tuple[Array, Array]) -> Array:
        return (state[0] < all_there) & (state[1] < POLLS)

    def look(state: tuple[Array, Array]) -> tuple[Array, Array]:
        return gpu.atomic_add(arrived, here, 0), state[1] + 1

    start = gpu.atomic_add(arrived, here, 1) + 1, jnp.where(late == 0, jnp.int32(0), POLLS)
    seen, _ = lax.while_loop(missing, look, start)
    return late + jnp.sqrt(0.0 - (seen < all_there).astype(jnp.float32))


# On a TPU.


def _by_grid(step: Step, x: Arrays, grid: Grid, carried: list, outs: list):
    from jax.experimental.pallas import tpu

    rows, channels = grid.plan.rows, grid.plan.channels
    mixes, steps = x.matrix is not None, (rows, channels)
    count = x.matrix.shape[1:3] if mixes else ()

    def block(a: Any) -> pl.BlockSpec:
        """At the step in hand, where there are steps."""
        lead = [None] * (a.ndim - 4)
        return pl.BlockSpec(
            (*lead, a.shape[len(lead)], None, *steps),
            lambda r, h, i, p: (*(grid.time(i) for _ in lead), 0, h, r, p),
        )

    def kernel(x: Arrays, last: list, written: list, exchanged: Any, kept: list) -> None:
        i, p = pl.program_id(2), pl.program_id(3)

        def read(ref: Any, *index: Any) -> Array:
            return ref[index]

        @pl.when(i == 0)
        def _() -> None:
            for ref, start in zip(kept, x.carry, strict=True):
                ref[p] = start[...]

        before, now, products = (i + 1) % 2, i % 2, []
        if mixes:
            made = _products(
                lambda j, here: exchanged[before, j, :, here],
                lambda j, m, here: x.matrix[j, m, here, :],
                count,
                grid.width,
                grid.width,
                x.first[0],
            )
            products = [jnp.where(i == 0, x.first[j], made[j]) for j in range(count[1])]
        masks = [None if ref is None else ref[...] != 0 for ref in x.masks]
        carry = [[ref[p, j] for j in range(ref.shape[1])] for ref in kept]
        inputs, fixed = _tiles(x.inputs, read), _tiles(x.fixed, read)
        carry, out = step.run(carry, products, inputs, fixed, *masks)
        for ref, values in zip(written, out, strict=True):
            for j, value in enumerate(values):
                ref[j] = value.astype(ref.dtype)
        for j, value in enumerate(out[step.exchanged] if mixes else ()):
            exchanged[now, j, :, pl.ds(p * channels, channels)] = value.astype(exchanged.dtype)
        for ref, end, values in zip(kept, last, carry, strict=True):
            for j, value in enumerate(values):
                ref[p, j] = end[j] = value.astype(ref.dtype)

    matrix = pl.BlockSpec((None, *count, grid.width, channels), lambda r, h, i, p: (h, 0, 0, 0, p))
    mask = pl.BlockSpec((None, rows, 1), lambda r, h, i, p: (grid.time(i), r, 0))
    specs = jax.tree.map(block, x)
    specs = specs._replace(matrix=matrix if mixes else None)
    specs = specs._replace(masks=[None if m is None else mask for m in x.masks])
    arrays, tree = jax.tree.flatten(x)
    n, m = len(arrays), len(carried)
    exchange = []
    if mixes:
        dtype = step.outputs[step.exchanged][1]
        exchange = [tpu.VMEM((2, count[0], rows, grid.width), dtype)]
    kept = [tpu.VMEM((grid.parts, a.shape[0], *steps), a.dtype) for a in carried]

    def flat(*refs: Any) -> None:
        ends, scratch = refs[n : n + m + len(outs)], refs[n + m + len(outs) :]
        exchanged, kept = (scratch[0], scratch[1:]) if mixes else (None, scratch)
        kernel(tree.unflatten(refs[:n]), ends[:m], ends[m:], exchanged, kept)

    found = pl.pallas_call(
        flat,
        grid=(grid.blocks, grid.heads, grid.length, grid.parts),
        in_specs=jax.tree.leaves(specs),
        out_specs=[*map(block, carried), *map(block, outs)],
        out_shape=[*carried, *outs],
        scratch_shapes=[*exchange, *kept],
        compiler_params=tpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=2 * VECTOR_MEMORY,
        ),
        interpret=grid.plan.interpret,
        name="walk",
    )(*arrays)
    return list(found[:m]), list(found[m:])
