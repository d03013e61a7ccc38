"""One run of the tiny model in a process of its own: python -m tests.train.tiny_run FOLDER."""

import dataclasses
import os
import sys
import time

import jax

from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.folder import lease
from seqzoo.train.loop.runner import run
from tests.train.tiny import Rows, Tiny, TinyModel

TRAIN = TrainConfig(steps=40, batch_size=8, eval_every=10, save_every=5, seed=1)


@dataclasses.dataclass(frozen=True)
class SlowRows(Rows):
    """Examples that take their time, so that a kill finds the run at work."""

    def __getitem__(self, index):
        time.sleep(float(os.environ.get("TINY_DELAY", "0")))
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slow(Tiny):
    """The same task, slower."""

    def _source(self, split, seed):
        rows = super()._source(split, seed)
        return SlowRows(rows.size, rows.stream)


def experiment(task=None, optim=None, **train):
    config = dataclasses.replace(TRAIN, **train)
    optim = optim or OptimConfig(peak_lr=1e-2)
    return Experiment(task=task or Tiny(), model="tiny", optim=optim, train=config)


def make_model(rngs):
    return TinyModel(dropout=0.2, rngs=rngs)


if __name__ == "__main__":
    lease.LEASE = float(os.environ.get("TINY_LEASE", lease.LEASE))
    one = jax.devices()[:1]
    result = run(experiment(Slow()), sys.argv[1], make_model=make_model, devices=one)
    print(result["step"], result["complete"])
