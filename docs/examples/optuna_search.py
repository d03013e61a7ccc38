"""Optuna over learning rate and an option of one's own mixer; bad trials are pruned.

pip install seqzoo optuna; python optuna_search.py
"""

import dataclasses

import optuna

from seqzoo import tasks
from seqzoo.train import Experiment, OptimConfig, TrainConfig, run

EXPERIMENT = Experiment(
    task=tasks.build("mqar", vocab_size=32, num_pairs=2, length=16),
    model="lru",
    train=TrainConfig(steps=400, batch_size=32, eval_every=100),
)


def objective(trial: optuna.Trial, experiment: Experiment) -> float:
    """Validation loss of one choice; told to Optuna at each evaluation."""
    rate = trial.suggest_float("peak_lr", 1e-4, 1e-2, log=True)
    size = trial.suggest_categorical("d_state", [4, 8])
    experiment = dataclasses.replace(
        experiment, mixer={"d_state": size}, optim=OptimConfig(peak_lr=rate)
    )

    def told(step: int, validation: dict[str, float]) -> bool:
        trial.report(validation["loss"], step)
        return trial.should_prune()

    result = run(experiment, callback=told, progress=False)
    if not result.complete:
        raise optuna.TrialPruned
    return result.validation["loss"]


def search(experiment: Experiment = EXPERIMENT, trials: int = 10) -> optuna.Study:
    """The study after `trials` runs."""
    study = optuna.create_study(pruner=optuna.pruners.MedianPruner(n_startup_trials=3))
    study.optimize(lambda trial: objective(trial, experiment), n_trials=trials)
    return study


if __name__ == "__main__":
    print(search().best_params)
