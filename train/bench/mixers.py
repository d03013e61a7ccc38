"""Mixers alone: speed, how it scales with length, and the time of a streaming step."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.config import config_of
from seqzoo.models.mixer import Mixer, StreamState
from seqzoo.models.registry import build
from seqzoo.models.registry import mixer as mixer_class
from seqzoo.train.bench.options import Bench

Row = dict[str, Any]
CHUNK = 2000  # tokens with which a stream is brought to its position
CALLS = 20  # steps of a stream that are timed together


def speed(bench: Bench) -> Iterator[Row]:
    """Forward plus backward of each mixer, at each length."""
    names = tuple(dict.fromkeys((bench.baseline, *bench.names)))
    for length in bench.lengths:
        made = {name: _compiled(bench, name, length, bench.batch_size) for name in names}
        times = interleaved({name: call for name, (call, _) in made.items()}, bench.rounds)
        for name in names:
            seconds = statistics.median(times[name])
            pairs = zip(times[bench.baseline], times[name], strict=True)
            yield {
                "model": name,
                "length": length,
                "tokens_per_second": bench.batch_size * length / seconds,
                f"times_{bench.baseline}": statistics.median(base / own for base, own in pairs),
                **made[name][1],
            }


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call, one after another within a round; a first round is thrown away."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            if number:
                times[name].append(time.perf_counter() - started)
    return times


def _compiled(bench: Bench, name: str, length: int, rows: int) -> tuple[Callable[[], Any], Row]:
    """Gradients of a mixer in its parameters and input; compile time and temporary memory."""
    dtype = jnp.dtype(bench.dtype)
    mixer = mixer_of(bench, name, length)
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
    x, target = jax.random.normal(jax.random.key(0), (2, rows, length, bench.d_model))

    def loss(params: Any, x: jax.Array, target: jax.Array) -> jax.Array:
        return jnp.vdot(nnx.merge(graphdef, params, rest, copy=True)(x), target)

    arguments = params, x.astype(dtype), target.astype(dtype)
    started = time.perf_counter()
    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    # Not every backend says what its programs take.
    temporary = getattr(memory, "temp_size_in_bytes", 0) / 2**20
    cost = {"compile_seconds": seconds, "temp_mib": temporary}
    return lambda: compiled(*arguments), cost


def mixer_of(bench: Bench, name: str, length: int, *, shapes: bool = False) -> Mixer:
    """The mixer, or its `shapes`, with room for `length` tokens where its state grows."""
    options, kind = bench.options_of(name), bench.kind(name)
    if any(f.name == "max_length" for f in dataclasses.fields(config_of(mixer_class(kind)))):
        options.setdefault("max_length", length)
    dtype = jnp.dtype(bench.dtype)

    def make() -> Mixer:
        return build(kind, bench.d_model, rngs=nnx.Rngs(0), dtype=dtype, **options)

    return nnx.eval_shape(make) if shapes else make()


def scaling(bench: Bench) -> Iterator[Row]:
    """Exponents e of forward plus backward: time and temporary memory per token ~ length ** e.

    All lengths have as many tokens a batch as `batch_size` rows of the longest, and take turns.
    """
    tokens = bench.batch_size * max(bench.lengths)
    for name in bench.names:
        made = {n: _compiled(bench, name, n, max(1, tokens // n)) for n in bench.lengths}
        calls = {str(n): call for n, (call, _) in made.items()}
        times = interleaved(calls, bench.rounds)
        counts = [max(1, tokens // n) * n for n in bench.lengths]
        spent = [statistics.median(times[str(n)]) for n in bench.lengths]
        kept = [made[n][1]["temp_mib"] for n in bench.lengths]
        seconds, memory = np.divide(spent, counts), np.divide(kept, counts) * 2**20
        yield {
            "model": name,
            "time_exponent": _exponent(bench.lengths, seconds),
            "memory_exponent": _exponent(bench.lengths, memory),
            **{f"ns_per_token_{n}": 1e9 * t for n, t in zip(bench.lengths, seconds, strict=True)},
            **{f"bytes_per_token_{n}": m for n, m in zip(bench.lengths, memory, strict=True)},
        }


def _exponent(lengths: tuple[int, ...], cost: np.ndarray) -> float:
    """The slope of a line through the logarithms."""
    return float(np.polyfit(np.log(lengths), np.log(cost), 1)[0])


def latency(bench: Bench) -> Iterator[Row]:
    """Microseconds of one token of one row, at each position; both take turns."""
    for name in bench.names:
        mixer = mixer_of(bench, name, max(bench.positions) + CALLS * (bench.rounds + 1))
        graphdef, rest = nnx.split(mixer)

        @jax.jit
        def extend(x: jax.Array, state: StreamState, graphdef=graphdef, rest=rest) -> tuple:
            return nnx.merge(graphdef, rest, copy=True).extend(x, state)

        calls = {
            str(position): _steps(
                extend, _streamed(extend, mixer, position, bench.d_model), bench.d_model
            )
            for position in bench.positions
        }
        times = interleaved(calls, bench.rounds)
        early, late = (times[str(position)] for position in bench.positions)
        ratio = statistics.median(b / a for a, b in zip(early, late, strict=True))
        yield {
            "model": name,
            **{
                f"us_at_{position}": 1e6 * statistics.median(times[str(position)]) / CALLS
                for position in bench.positions
            },
            "ratio": ratio,
        }


def _streamed(extend: Callable, mixer: Mixer, position: int, width: int) -> StreamState:
    """The state behind `position` tokens."""
    state = mixer.init_state(1)
    for start in range(0, position, CHUNK):
        size = min(CHUNK, position - start)
        x = jax.random.normal(jax.random.key(start), (1, size, width))
        _, state = extend(x, state)
    return jax.block_until_ready(state)


def _steps(extend: Callable, state: StreamState, d_model: int) -> Callable[[], Any]:
    """A call that extends `state` by CALLS single tokens."""
    x = jax.random.normal(jax.random.key(0), (1, 1, d_model))

    def steps() -> StreamState:
        after = state
        for _ in range(CALLS):
            _, after = extend(x, after)
        return after

    return steps
