"""The cost atlas: every pass of every mixer at every length and batch, on the device at hand.

    seqzoo bench --atlas --out runs/atlas --lengths 512 2048 8192 --batches 1 8

A row is one pass (forward and backward, a train step of a small model, a decode step, forward) of
one mixer at one size. Rows come in the order in which they are asked for: first those of the
mixers that most people weigh against each other, so that an atlas is of use long before it is
whole. Every row is saved at once, in `atlas.json`, and the same command goes on after the last one.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.registry import mixer as mixer_class
from seqzoo.train.bench.atlas_page import page
from seqzoo.train.bench.kept import rows_of
from seqzoo.train.bench.mixers import mixer_of
from seqzoo.train.bench.options import STEPS, Bench
from seqzoo.train.bench.peers import peers
from seqzoo.train.config import Experiment, MeshConfig, TrainConfig
from seqzoo.train.devices.chips import chip_of
from seqzoo.train.devices.flops import operations
from seqzoo.train.folder.files import run_path, write_atomically
from seqzoo.train.loop.data import to_devices, train_batches
from seqzoo.train.loop.program import make_program, replica_keys

Row = dict[str, Any]
About = Callable[[Any, Any, tuple], Row]  # what is said of a program, a function and its arguments
FILE, PAGE, FORMAT = "atlas.json", "atlas.html", 1
BASELINE = "attention"  # softmax attention, against which crossovers are found
PASSES = ("forward_backward", "train", "decode", "forward")
# Mixers that most people weigh against each other, whose rows come first.
FIRST = (BASELINE, "mamba2", "gated_deltanet", "linear_attention", "lru", "s4d", "lstm", "mamba")
FIRST += ("gla", "rwkv7", "gru", "retnet", "s5", "deltanet", "hyena", "mlstm")
ENOUGH = 5.0  # seconds after which a row has been timed often enough
SIDE, PRODUCTS = 1024, 10  # of the products whose rate is the ceiling where no table has the chip
FARTHEST = 2**24  # tokens: a crossover beyond is none


class Cell(NamedTuple):
    """What one row measures."""

    model: str
    what: str  # one of PASSES
    length: int
    batch: int


def atlas(bench: Bench) -> Iterator[Row]:
    """Measures what the folder `bench.out` lacks, a row at a time.

    Raises ValueError where the folder holds rows of other sizes or of another machine.
    """
    out = run_path(bench.out or Path("runs/atlas"), checkpoints=False)
    settings, wanted = _settings(bench), cells(bench)
    for name in dict.fromkeys(cell.model for cell in wanted if cell.model not in peers()):
        mixer_of(bench, name, min(bench.lengths), shapes=True)  # what cannot be is said before work
    rows = rows_of(out / FILE, settings)
    done = {Cell(**{key: row[key] for key in Cell._fields}) for row in rows}
    left = [cell for cell in wanted if cell not in done]
    ceiling = _ceiling(bench.dtype)
    for cell in left:
        rows.append({**cell._asdict(), **_measured(bench, cell, ceiling)})
        save(out, settings, rows)
        yield rows[-1]
    if not left:
        save(out, settings, rows)


def cells(bench: Bench) -> list[Cell]:
    """Everything to measure, the most important first."""
    ours = list(dict.fromkeys((BASELINE, *bench.names)))
    beside = list(peers()) if bench.peers else []
    batches = bench.batches or (bench.batch_size,)
    found = [
        Cell(name, what, length, batch)
        for name in (*ours, *beside)
        for what in PASSES
        for length in bench.lengths
        for batch in batches
        if _exists(bench.kind(name), what, name in beside)
    ]

    def rank(cell: Cell) -> tuple:
        known = cell.model in FIRST
        place = FIRST.index(cell.model) if known else len(FIRST)
        sizes = bench.lengths.index(cell.length), batches.index(cell.batch)
        late = 0 if known or cell.model in beside else 1
        return late, PASSES.index(cell.what), *sizes, place

    return sorted(found, key=rank)


def _exists(name: str, what: str, peer: bool) -> bool:
    if peer:
        return what in ("forward_backward", "forward")
    return what != "decode" or mixer_class(name).causal_form


def save(out: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Writes what is known so far, as JSON and as a page."""
    out.mkdir(parents=True, exist_ok=True)
    found = {"format": FORMAT, "settings": dict(settings), "rows": list(rows), "fits": fits(rows)}
    write_atomically(out / FILE, json.dumps(found, indent=1, allow_nan=False) + "\n")
    write_atomically(out / PAGE, page(found))


def fits(rows: Sequence[Row]) -> list[Row]:
    """Of each mixer, pass and batch: time ~ length ** exponent, and where it passes attention.

    Of all calls the fastest counts: other programs only slow them down.
    """
    curves: dict[tuple, dict[int, float]] = {}
    for row in rows:
        if row.get("best_seconds"):
            key = row["what"], row["batch"], row["model"]
            curves.setdefault(key, {})[row["length"]] = row["best_seconds"]
    made = []
    for (what, batch, model), curve in curves.items():
        if len(curve) < 2:
            continue
        lengths = sorted(curve)
        line = np.polyfit(np.log(lengths), np.log([curve[n] for n in lengths]), 1)
        fit = {"model": model, "what": what, "batch": batch, "exponent": float(line[0])}
        base = curves.get((what, batch, BASELINE), {})
        made.append(fit | ({} if model == BASELINE else crossover(curve, base)))
    return made


def crossover(own: Mapping[int, float], base: Mapping[int, float]) -> Row:
    """The length from which a mixer takes less time than attention, and how that is known.

    `at_most`: at all lengths measured; `measured`: between two of them; `extrapolated`: by the
    last two, beyond all. Empty where there is none.
    """
    lengths = sorted(own.keys() & base.keys())
    if len(lengths) < 2:
        return {}
    x = np.log(lengths)
    lead = np.array([np.log(base[n] / own[n]) for n in lengths])  # positive: less than attention
    if lead[-1] > 0:
        behind = np.flatnonzero(lead <= 0)
        if not len(behind):
            return {"crossover": float(lengths[0]), "known": "at_most"}
        i, known = behind[-1], "measured"
    else:
        i, known = len(lengths) - 2, "extrapolated"
        if lead[-1] <= lead[-2]:
            return {}
    at = float(np.exp(x[i] - lead[i] * (x[i + 1] - x[i]) / (lead[i + 1] - lead[i])))
    return {"crossover": at, "known": known} if at <= FARTHEST else {}


def _settings(bench: Bench) -> Row:
    """What all rows of an atlas have alike."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        **bench.sizes,
    }


def _ceiling(dtype: str) -> float:
    """Operations a second that this device could do: of the chip's table, else of products here."""
    chip = chip_of(jax.devices()[0])
    if chip is not None:
        return chip.flops
    a = jnp.ones((SIDE, SIDE), dtype)
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    spent = []
    for _ in range(PRODUCTS):
        started = time.perf_counter()
        product(a).block_until_ready()
        spent.append(time.perf_counter() - started)
    return 2 * SIDE**3 / min(spent)


def _measured(bench: Bench, cell: Cell, ceiling: float) -> Row:
    try:
        row = timed(bench, cell, _costs)
    except (ValueError, NotImplementedError, MemoryError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    if row.get("flops"):
        best = row["best_seconds"]
        row |= {"utilisation": row["flops"] / best / ceiling, "ceiling": ceiling}
    return row


def timed(bench: Bench, cell: Cell, about: About) -> Row:
    """Times of a cell, and what `about` says of its program."""
    call, tokens, cost = _made(bench, cell, about)
    per = STEPS if cell.what == "decode" else 1
    seconds, best = (taken / per for taken in _seconds(call, bench.rounds))
    return {"seconds": seconds, "best_seconds": best, "tokens_per_second": tokens / seconds, **cost}


def _seconds(call: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """The median and the least of up to `rounds` calls behind a first one."""
    jax.block_until_ready(call())
    spent: list[float] = []
    while len(spent) < rounds and sum(spent) < ENOUGH:
        started = time.perf_counter()
        jax.block_until_ready(call())
        spent.append(time.perf_counter() - started)
    return statistics.median(spent), min(spent)


def _made(bench: Bench, cell: Cell, about: About) -> tuple[Callable[[], Any], int, Row]:
    """A call, the tokens that it takes (a step of a stream's), and what is known without timing."""
    if cell.model in peers():
        backward = cell.what == "forward_backward"
        make = peers()[cell.model]
        started = time.perf_counter()
        call = make(cell.batch, cell.length, bench.d_model, backward, bench.dtype)
        call()
        seconds = time.perf_counter() - started
        return call, cell.batch * cell.length, {"compile_seconds": seconds, "peer": True}
    return {"train": _train, "decode": _decode}.get(cell.what, _alone)(bench, cell, about)


def _compiled(about: About, function: Any, *args: Any) -> tuple[Any, Row]:
    """The program of `function(*args)`, and what it costs to make and to hold."""
    started = time.perf_counter()
    compiled = function.lower(*args).compile()
    seconds = time.perf_counter() - started
    return compiled, {"compile_seconds": seconds, **about(compiled, function, args)}


def _costs(compiled: Any, function: Any, args: tuple) -> Row:
    memory = compiled.memory_analysis()
    parts = ("temp", "argument", "output")  # not every backend says what its programs take
    held = sum(getattr(memory, f"{part}_size_in_bytes", 0) for part in parts)
    return {
        "mib": held / 2**20,
        "temp_mib": getattr(memory, "temp_size_in_bytes", 0) / 2**20,
        "flops": operations(function, *args).total,
    }


def _alone(bench: Bench, cell: Cell, about: About) -> tuple[Callable[[], Any], int, Row]:
    """A mixer by itself."""
    mixer = mixer_of(bench, cell.model, cell.length)
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
    shape = 2, cell.batch, cell.length, bench.d_model
    x, target = jax.random.normal(jax.random.key(0), shape).astype(bench.dtype)

    def forward(params: Any, x: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    def loss(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.vdot(forward(params, x), target)

    if cell.what == "forward":
        function, args = jax.jit(forward), (params, x)
    else:
        function, args = jax.jit(jax.grad(loss, argnums=(0, 1))), (params, x, target)
    compiled, cost = _compiled(about, function, *args)
    return lambda: compiled(*args), cell.batch * cell.length, cost


def _train(bench: Bench, cell: Cell, about: About) -> tuple[Callable[[], Any], int, Row]:
    """A training step of two blocks around it, head and optimiser included."""
    task = tasks.build("mad_selective_copying", length=cell.length, num_tokens=4)
    options = bench.options_of(cell.model)
    backbone = BackboneConfig(d_model=bench.d_model, depth=2, dtype=bench.dtype)
    kind = bench.kind(cell.model)
    backbone = dataclasses.replace(backbone, causal=mixer_class(kind).causal_form)
    train = TrainConfig(steps=1000, batch_size=cell.batch, threads=0)
    experiment = Experiment(
        task=task,
        model=kind,
        mixer=options,
        backbone=backbone,
        train=train,
        mesh=MeshConfig(data=1),
    )
    program = make_program(experiment, devices=jax.devices()[:1])
    first, key = replica_keys(experiment)
    batch = next(train_batches(task.source("train"), cell.batch, seed=0, threads=0))
    placed, state = to_devices(batch, program.rows), program.init(first)
    compiled, cost = _compiled(about, program.step, state, placed, key)

    def call() -> Any:
        nonlocal state
        state, metrics = compiled(state, placed, key)
        return metrics

    return call, task.real_tokens(batch), cost


def _decode(bench: Bench, cell: Cell, about: About) -> tuple[Callable[[], Any], int, Row]:
    """Steps of a stream, one token of each row; what keeps all tokens has room for `length`."""
    mixer = mixer_of(bench, cell.model, cell.length)
    graphdef, rest = nnx.split(mixer)
    x = jax.random.normal(jax.random.key(0), (cell.batch, 1, bench.d_model)).astype(bench.dtype)

    def extend(x: jax.Array, state: Any) -> tuple:
        return nnx.merge(graphdef, rest, copy=True).extend(x, state)

    state = mixer.init_state(cell.batch)
    compiled, cost = _compiled(about, jax.jit(extend), x, state)

    def call() -> Any:
        after = state
        for _ in range(STEPS):
            _, after = compiled(x, after)
        return after

    return call, cell.batch, cost
