"""One run of the tiny model in a process of its own: python -m tests.train.tiny_run FOLDER."""

import sys

from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.loop import run
from tests.train.tiny import Tiny, TinyModel

TRAIN = TrainConfig(steps=40, batch_size=8, eval_every=10, save_every=5, seed=1)


def experiment(task=None, optim=None, **train):
    config = TrainConfig(**{**TRAIN.__dict__, **train})
    optim = optim or OptimConfig(peak_lr=1e-2)
    return Experiment(task=task or Tiny(), model="tiny", optim=optim, train=config)


def make_model(rngs):
    return TinyModel(dropout=0.2, rngs=rngs)


if __name__ == "__main__":
    print(run(experiment(), sys.argv[1], make_model=make_model)["step"])
