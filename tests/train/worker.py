"""One of several processes that train the tiny model together.

python -m tests.train.worker FOLDER PORT COUNT INDEX [TrainConfig fields as JSON]
"""

import dataclasses
import json
import os
import sys

import jax

from seqzoo.train.cli.errors import exit_code
from seqzoo.train.devices.processes import Processes, is_first, joined
from seqzoo.train.loop.runner import run
from tests.train.tiny_run import Slow, SlowRows, experiment, make_model


@dataclasses.dataclass(frozen=True)
class BrokenRows(SlowRows):
    """Examples of which some cannot be read."""

    def __getitem__(self, index):
        if index % 20 == 7:
            raise FileNotFoundError("an example is gone")
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Slow):
    """The same task, which fails soon."""

    def _source(self, split, seed):
        rows = super()._source(split, seed)
        return BrokenRows(rows.size, rows.stream) if split == "train" else rows


def in_turns():
    """Devices of both processes in turns, as the mesh of a pod may have them."""
    first = {d.process_index: d.id for d in reversed(jax.devices())}
    return sorted(jax.devices(), key=lambda d: d.id - first[d.process_index])


def main(folder, port, count, index, options="{}"):
    processes = Processes(
        coordinator=f"127.0.0.1:{port}",
        num_processes=int(count),
        process_id=int(index),
        wait_seconds=int(os.environ.get("TINY_WAIT", "60")),
    )
    task = Broken() if os.environ.get("TINY_BROKEN") == index else Slow()
    with joined(processes, exit_code):
        wanted = experiment(task, **json.loads(options))
        result = run(wanted, folder, make_model=make_model, devices=in_turns())
        if is_first():
            print(result["step"], result["complete"])


if __name__ == "__main__":
    main(*sys.argv[1:])
