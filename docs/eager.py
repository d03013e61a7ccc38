"""Steps of one token without jit beside jitted ones, and what 100 eager calls compile and keep.

    python docs/eager.py [MIXER ...]

Two rows of width 64 in float32, other options as they are. Medians of calls in turns; memory is
that of the process after 100 calls, less what it was before.
"""

from __future__ import annotations

import functools
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from seqzoo.models import MIXERS, build
from seqzoo.testing.programs import compilations

NAMES = (
    *("attention", "transformer_vq", "linear_attention", "mamba2", "gated_deltanet", "rwkv7"),
    *("s4d", "lru", "mamba", "mega", "lstm", "gru"),
)
CALLS = 100


def resident() -> float:
    """MiB of this process."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096 / 2**20


def timed(call) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return 1e3 * (time.perf_counter() - start)


def repeated(call) -> object:
    """What the last of many calls gives."""
    for _ in range(CALLS):
        last = jax.block_until_ready(call())
    return last


def row(name: str) -> str:
    """One line of the table."""
    mixer = build(name, 64, rngs=nnx.Rngs(0))
    x, rows, state = jnp.ones((2, 1, 64)), jnp.ones((2, 32, 64)), mixer.init_state(2)
    jitted = functools.partial(jax.jit(lambda m, x, s: m.extend(x, s)), mixer, x, state)
    eager = functools.partial(mixer.extend, x, state)
    slope = functools.partial(nnx.grad(lambda m: m(rows).sum()), mixer)
    calls = {"step": eager, "call": functools.partial(mixer, rows), "gradient": slope}
    for call in (jitted, *calls.values()):
        jax.block_until_ready(call())
    times = [(timed(eager), timed(jitted)) for _ in range(CALLS)]
    mine, theirs = (statistics.median(t) for t in zip(*times, strict=True))
    compiled, before = 0, resident()
    for call in calls.values():
        compiled += compilations(functools.partial(repeated, call))
    grown = resident() - before
    fine = "yes" if mine <= 3 * theirs + 2 else "no"
    return f"| {name} | {theirs:.2f} | {mine:.2f} | {fine} | {compiled} | {grown:.1f} |"


def main() -> None:
    """Prints the table."""
    print("| mixer | jitted step, ms | eager step, ms | within 3 x + 2 ms | compiled | MiB |")
    print("|---|---|---|---|---|---|")
    for name in sys.argv[1:] or NAMES:
        assert name in MIXERS, name
        print(row(name), flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
