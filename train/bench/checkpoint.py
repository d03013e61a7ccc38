"""How long a checkpoint holds up the loop.

    seqzoo bench --what checkpoint --mib 1024

The loop's thread waits only while `Checkpoints.save` copies arrays from the device; Orbax writes
them, and digests are taken, beside the steps that follow. A train state of the size asked for,
with Adam's moments, takes steps that change and donate all of it, as training does.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from seqzoo.train.bench.options import Bench
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.loop.state import TrainState

LAYERS = 8  # arrays that parameters consist of


def checkpoint(bench: Bench) -> Iterator[dict[str, Any]]:
    """Seconds that each save takes of the loop, and until it is written."""
    state, step = state_of(bench.mib), jax.jit(_step, donate_argnums=0)
    for _ in range(bench.rounds):
        with tempfile.TemporaryDirectory() as folder:
            times, state = timed_save(Path(folder), state, step, bench.steps)
        yield {"mib": bench.mib, **times}


def timed_save(
    folder: Path, state: TrainState, step: Callable[[TrainState], TrainState], steps: int
) -> tuple[dict[str, float], TrainState]:
    """One save, and `steps` steps beside the write.

    The next step is timed too: on a CPU "copies" are the device's own arrays, which are in use
    until they are written, so that step cannot donate them and asks the system for new memory.
    """
    checkpoints = Checkpoints(folder)
    alone = []
    for _ in range(3):
        seconds, state = _timed(step, state)
        alone.append(seconds)
    started = time.perf_counter()
    held, _ = _timed(lambda state: checkpoints.save(state, {"step": 1}), state)
    after, state = _timed(step, state)
    for _ in range(steps - 1):
        state = step(state)
    checkpoints.wait()
    written = time.perf_counter() - started
    checkpoints.close()
    times = {
        "save_seconds": held,
        "written_seconds": written,
        "save_share": held / written,
        "next_step_seconds": after,
        "other_step_seconds": statistics.median(alone),
    }
    return times, state


def state_of(mib: int) -> TrainState:
    """Random parameters and moments of `mib` MiB together."""
    size = mib * 2**20 // (3 * LAYERS * 4)
    keys = jax.random.split(jax.random.key(0), 3 * LAYERS)
    names = [f"blocks/{i}" for i in range(LAYERS)]
    params, mean, square = (
        {name: jax.random.normal(key, (size,)) for name, key in zip(names, part, strict=True)}
        for part in keys.reshape(3, LAYERS)
    )
    return TrainState(jnp.zeros((), jnp.int32), params, {}, (mean, square))


def _step(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x + 1, state)


def _timed(call: Callable[[TrainState], Any], state: TrainState) -> tuple[float, Any]:
    started = time.perf_counter()
    made = jax.block_until_ready(call(state))
    return time.perf_counter() - started, made
