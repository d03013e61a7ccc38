"""Ray Tune over learning rates; each trial is a process of its own.

pip install seqzoo "ray[tune]"; python ray_search.py
"""

import dataclasses

from ray import tune

from seqzoo import tasks
from seqzoo.train import Experiment, OptimConfig, TrainConfig, run

EXPERIMENT = Experiment(
    task=tasks.build("mqar", vocab_size=32, num_pairs=2, length=16),
    model="lru",
    train=TrainConfig(steps=400, batch_size=32, eval_every=100),
)


def trial(config: dict, experiment: Experiment) -> None:
    """One run, told to Ray at each evaluation, which may end the process there."""
    experiment = dataclasses.replace(experiment, optim=OptimConfig(peak_lr=config["peak_lr"]))

    def told(step: int, validation: dict[str, float]) -> None:
        tune.report({"step": step, **validation})

    run(experiment, callback=told, progress=False)


def search(experiment: Experiment = EXPERIMENT, samples: int = 8) -> dict:
    """The configuration with the smallest validation loss."""
    tuner = tune.Tuner(
        tune.with_parameters(trial, experiment=experiment),
        param_space={"peak_lr": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(num_samples=samples, metric="loss", mode="min"),
    )
    return tuner.fit().get_best_result().config


if __name__ == "__main__":
    print(search())
