"""What replicas side by side cost against as many runs one after another.

python docs/replicas.py lru --counts 1 8 64
python docs/replicas.py lru --counts 1 8 64 --side-by-side     # on a CPU too
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.config import Experiment, MeshConfig, TrainConfig
from seqzoo.train.devices.backend import reuse_memory
from seqzoo.train.loop import program
from seqzoo.train.loop.data import to_devices
from seqzoo.train.loop.program import make_program, replica_keys
from seqzoo.train.loop.streams import RunData

STEPS = 5  # that are timed together


def replicas_of(options: argparse.Namespace, model: str, count: int):
    """A call that takes some steps of `count` replicas; seconds to compile, and MiB."""
    task = tasks.build(
        "mqar", vocab_size=max(64, 2 * options.length), num_pairs=4, length=options.length
    )
    train = TrainConfig(steps=8, batch_size=options.batch_size, replicas=count, threads=0)
    backbone = BackboneConfig(d_model=options.d_model, depth=2)
    mesh = MeshConfig(data=1, seeds=len(jax.devices()) if count > 1 else 1)
    made = Experiment(task=task, model=model, backbone=backbone, train=train, mesh=mesh)
    whole = make_program(made, devices=jax.devices()[: mesh.seeds])
    first, key = replica_keys(made)
    batch = to_devices(next(iter(RunData(made, whole.mesh).train)), whole.rows)
    started = time.perf_counter()
    step = whole.step.lower(whole.like, batch, key).compile()
    seconds, memory = time.perf_counter() - started, step.memory_analysis()
    mib = (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**20
    state = whole.init(first)

    def call() -> None:
        nonlocal state
        for _ in range(STEPS):
            state, metrics = step(state, batch, key)
        jax.block_until_ready(metrics)

    return call, seconds, mib


def main() -> None:
    """Prints a line of the table for each model and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--d-model", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--side-by-side", action="store_true", help="vmapped, as on chips")
    options = parser.parse_args()
    reuse_memory()
    if options.side_by_side:
        program.take_turns = lambda mesh: False
    for model in options.models:
        made = {count: replicas_of(options, model, count) for count in options.counts}
        times = []
        for _ in range(options.rounds + 1):
            times.append({})
            for count, (call, *_) in made.items():
                started = time.perf_counter()
                call()
                times[-1][count] = (time.perf_counter() - started) / STEPS
        times = times[1:]
        for count, (_, seconds, mib) in made.items():
            step = statistics.median(t[count] for t in times)
            gain = statistics.median(count * t[1] / t[count] for t in times)
            row = f"{1e3 * step:.1f} | {gain:.2f} | {mib:.1f} | {seconds:.1f}"
            print(f"| `{model}` | {count} | {row} |", flush=True)


if __name__ == "__main__":
    main()
