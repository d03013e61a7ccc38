"""How often a comparison is wrong: of drawn values, and of one model that is trained often.

    python docs/calibration.py drawn                 # a minute; the tables of docs/statistics.md
    python docs/calibration.py trained --out FOLDER  # a tiny model, 1200 seeds side by side

`drawn` draws the values of seeds from five kinds of distribution. `trained` trains one model with
many seeds and calls them models: any two of those are the same.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from seqzoo.train.compare.statistics import SHARE, interval, pairwise, share_interval

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
SHAPES: dict[str, tuple[Draw, float]] = {  # how seeds come out, and their true mean
    "normal": (lambda rng, s: rng.normal(0.7, 0.05, s), 0.7),
    "near one": (lambda rng, s: rng.beta(60, 1, s), 60 / 61),
    "ties": (lambda rng, s: rng.binomial(20, 0.9, s) / 20, 0.9),
    "wide, skewed": (lambda rng, s: rng.beta(2, 1, s), 2 / 3),
    "solved in half": (lambda rng, s: _modes(rng, s, 0.5), 0.595),
    "solved in a fifth": (lambda rng, s: _modes(rng, s, 0.2), 0.358),
}
SEEDS, TIMES = (3, 5, 10), 2000
UNITS, SEED = 1200, 7


def _modes(rng: np.random.Generator, size: tuple[int, ...], share: float) -> np.ndarray:
    return np.where(rng.random(size) < share, 0.99, 0.2) + rng.normal(0, 0.003, size)


def drawn() -> None:
    """Prints coverage, false differences, and what is told apart, as tables."""
    rng = np.random.default_rng(0)
    print("| seeds | " + " | ".join(map(str, SEEDS)) + " |\n|---|---|---|---|")
    for name, (draw, mean) in SHAPES.items():
        cells = []
        for seeds in SEEDS:
            found = [interval(x, bounds=SHARE) for x in draw(rng, (TIMES, seeds))]
            cells.append(f"{np.mean([i.low <= mean <= i.high for i in found]):.1%}")
        print(f"| {name} | {' | '.join(cells)} |")
    print("\n| false, of | t and Holm alone | as here |\n|---|---|---|")
    for name, (draw, _) in SHAPES.items():
        for models, times in ((2, TIMES), (3, TIMES), (10, 300)):
            for seeds in SEEDS[:2]:
                rates = _shown(false_differences(draw(rng, (times, models, seeds))))
                print(f"| {name}, {models} models, {seeds} seeds | {rates} |")
    print("\n| told apart | seeds | t and Holm alone | as here |\n|---|---|---|---|")
    steps = np.arange(6)
    for name, means, spreads in (
        ("six models, each 5 spreads apart", 5.0 * steps, np.ones(6)),
        ("six models, each 2 spreads apart", 2.0 * steps, np.ones(6)),
        ("one of six, 10 spreads from the rest", 10.0 * (steps == 5), np.ones(6)),
        (
            "six models of unlike spreads",
            np.array([0.2, 0.3, 0.5, 0.8, 0.95, 0.99]),
            np.array([0.02, 0.05, 0.1, 0.1, 0.01, 0.002]),
        ),
    ):
        for seeds in (3, 5):
            values = rng.normal(means[:, None], spreads[:, None], (200, 6, seeds))
            told = true_differences(values, means)
            print(f"| {name} | {seeds} | {told[0]:.0%} | {told[1]:.0%} |")


def false_differences(tables: np.ndarray) -> tuple[float, float]:
    """Share of tables [times, models, seeds] of equal models in which some pair is "different"."""
    found = np.array([np.any(_called(values), axis=0) for values in tables])
    return tuple(found.mean(0))


def true_differences(tables: np.ndarray, means: np.ndarray) -> tuple[float, float]:
    """Share of pairs that differ that are called so."""
    differ = [a != b for a, b in itertools.combinations(means, 2)]
    return tuple(np.mean([_called(values)[differ] for values in tables], axis=(0, 1)))


def _called(values: np.ndarray) -> np.ndarray:
    """[pairs, 2]: whether t and Holm alone, and all of it, call them different."""
    rows = pairwise({str(i): dict(enumerate(own)) for i, own in enumerate(values)})
    return np.array([(row.p_adjusted < 0.05, row.verdict == "different") for row in rows])


def trained(out: Path, units: int) -> None:
    """Trains one model with many seeds on a task that only some of them solve."""
    from seqzoo import tasks
    from seqzoo.models.backbone import BackboneConfig
    from seqzoo.train.compare.comparison import compare
    from seqzoo.train.config import Experiment, OptimConfig, TrainConfig

    train = TrainConfig(
        steps=80,
        batch_size=8,
        eval_every=0,
        eval_batch_size=400,
        save_every=0,
        keep_best=False,
        threads=0,  # a thread for each seed would be one too many
        trackers="",
        seed=SEED,
    )
    one = Experiment(
        task=tasks.build("parity", length=8, validation_size=32, test_size=400),
        model="gru",
        backbone=BackboneConfig(d_model=8, depth=1, feedforward="none"),
        optim=OptimConfig(peak_lr=2e-2, dynamics_lr=2e-2, weight_decay=0.0, warmup=0),
        train=train,
    )
    (model,) = compare({"one": one}, out, seeds=units, vectorise="always").models
    values = np.array([run.final["accuracy"] for run in model.seeds])
    report(values, np.random.default_rng(0))


def report(values: np.ndarray, rng: np.random.Generator) -> None:
    """Prints what the statistics say of many seeds of one model."""
    quantiles = ", ".join(f"{q:.3f}" for q in np.quantile(values, (0, 0.05, 0.5, 0.95, 1)))
    print(f"{len(values)} seeds: accuracy 0, 5, 50, 95, 100% quantiles {quantiles}")
    print("| false | t and Holm alone | as here |\n|---|---|---|")
    for seeds in (3, 5):
        pairs = min(200, len(values) // (2 * seeds))
        own = rng.permutation(values)[: 2 * seeds * pairs].reshape(pairs, 2, seeds)
        print(f"| {pairs} pairs, {seeds} seeds | {_shown(false_differences(own))} |")
        own = np.array([rng.permutation(values)[: 10 * seeds] for _ in range(500)])
        rates = false_differences(own.reshape(500, 10, seeds))
        print(f"| 500 tables of ten, {seeds} seeds, seeds drawn again | {_shown(rates)} |")
    solved = int((values >= 0.9).sum())
    low, high = share_interval(solved, len(values))
    print(f"solved (0.9) in {solved}: {low:.1%} to {high:.1%}")
    for seeds in SEEDS:
        rows = rng.permutation(values)[: len(values) // seeds * seeds].reshape(-1, seeds)
        found = [interval(x, bounds=SHARE) for x in rows]
        hits = np.mean([i.low <= values.mean() <= i.high for i in found])
        print(f"{hits:.1%} of {len(rows)} intervals of {seeds} seeds cover {values.mean():.3f}")


def _shown(rates: tuple[float, float]) -> str:
    return f"{rates[0]:.1%} | {rates[1]:.1%}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("drawn", "trained"))
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--seeds", type=int, default=UNITS)
    given = parser.parse_args()
    drawn() if given.what == "drawn" else trained(given.out, given.seeds)


if __name__ == "__main__":
    main()
