"""How much faster models train when examples share rows: both forms in turns, in one process.

python docs/packed.py lru attention --task listops_short --rounds 9
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import jax

from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.devices.backend import reuse_memory
from seqzoo.train.loop.data import to_devices
from seqzoo.train.loop.program import make_program, replica_keys
from seqzoo.train.loop.streams import RunData

STEPS = 3  # that are timed together


def steps_of(options: argparse.Namespace, model: str, pack: int):
    """A call that takes some training steps on the batches in turn, and a packed batch's rows."""
    train = TrainConfig(steps=16, batch_size=options.batch_size, pack=pack, threads=0)
    backbone = BackboneConfig(d_model=options.d_model, depth=2)
    experiment = Experiment(task=options.task, model=model, backbone=backbone, train=train)
    program = make_program(experiment, devices=jax.devices()[:1])
    first, key = replica_keys(experiment)
    batches = list(itertools.islice(RunData(experiment, program.mesh).train, 16))
    state, endless = program.init(first), itertools.cycle(batches)
    shapes = {batch[name].shape for batch in batches for name in batch if name == "packed_tokens"}

    def call() -> None:
        nonlocal state
        for _ in range(STEPS):
            batch = to_devices(next(endless), program.rows)
            state, metrics = program.step(state, batch, key)
        jax.block_until_ready(metrics)

    return call, shapes


def main() -> None:
    """Prints a line of the table for each model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--task", default="listops_short")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    reuse_memory()
    for model in options.models:
        (own, _), (shared, shapes) = (steps_of(options, model, pack) for pack in (0, -1))
        times = []
        for _ in range(options.rounds + 2):
            times.append([])
            for call in (own, shared):
                started = time.perf_counter()
                call()
                times[-1].append(time.perf_counter() - started)
        times = times[2:]  # the first ones compile
        a, b = (STEPS * options.batch_size / statistics.median(t) for t in zip(*times, strict=True))
        ratio = statistics.median(x / y for x, y in times)
        print(f"| `{model}` | {a:,.0f} | {b:,.0f} | {ratio:.2f} | {shapes} |", flush=True)


if __name__ == "__main__":
    main()
