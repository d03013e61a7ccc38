"""What is tried for every model before its final runs: the same values of the same fields for all.

    Sweep(fields={"optim.peak_lr": (1e-3, 3e-3, 1e-2)})                        # a grid
    Sweep(fields={"optim.peak_lr": Range(1e-4, 1e-2)}, trials="random:8")      # drawn, log-uniform
    Sweep(fields={"mixer.wide.d_state": (8, 16)})                          # of the model wide alone

Fields are those of the optimiser, the backbone and the mixer. What all models of a comparison share
(task, steps, batches, seeds) cannot be swept: models that chose another length of training would
not be compared at equal cost.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_type_hints

import numpy as np

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.config import config_of
from seqzoo.models.errors import unknown
from seqzoo.models.foreign.address import short
from seqzoo.models.registry import mixer, resolve
from seqzoo.train.checked import checked
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.loop.optimizer import NUMBERS
from seqzoo.train.options import MOST_SEEDS

MOST_TRIALS = 1000  # of a model
BUDGETS = ("trials", "flops", "seconds")
GRID, RANDOM = "grid", "random"


class Range(NamedTuple):
    """Positive numbers from `low` to `high`, drawn uniformly in their logarithm."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}..{self.high:g}"

    def draw(self, rng: np.random.Generator) -> float:
        """One of them, drawn by `rng`, to three digits, whole where both ends are."""
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return round(value) if whole else float(f"{value:.3g}")


Fields = Mapping[str, tuple[Any, ...] | Range]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Trials of every model.

    Raises ValueError for what cannot be tried.
    """

    fields: Fields  # "optim.peak_lr", or "optim.LABEL.peak_lr" of one model -> values, or a range
    trials: str = GRID  # all combinations; or random:N, random:N:SEED
    seeds: int = 1  # of each trial; none of them is one of a final run
    budget: str = ""  # of a model's trials: trials=N, flops=X or seconds=X; empty: all

    def __post_init__(self) -> None:
        if not self.fields:
            raise ValueError("a sweep needs a field: --sweep optim.peak-lr=1e-3,3e-3,1e-2")
        made = {name: _values(name, values) for name, values in self.fields.items()}
        object.__setattr__(self, "fields", made)
        if not 1 <= self.seeds <= MOST_SEEDS:
            raise ValueError(f"--tuning-seeds must be 1 to {MOST_SEEDS}; got {self.seeds}")
        count, ranges = self._drawn[0], [n for n, v in made.items() if isinstance(v, Range)]
        if ranges and not count:
            raise ValueError(
                f"the range of {ranges[0]} has no grid: name its values, or give --trials random:8"
            )
        _ = self.limit

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ranges are their text."""
        fields = {n: str(v) if isinstance(v, Range) else list(v) for n, v in self.fields.items()}
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**own, "fields": fields}

    @property
    def limit(self) -> tuple[str, float]:
        """What is limited, and to how much; ("", inf) where nothing is.

        Raises ValueError for a budget that is none.
        """
        if not self.budget:
            return "", math.inf
        what, _, text = self.budget.partition("=")
        if what not in BUDGETS:
            raise unknown("budget", what, (f"{name}=N" for name in BUDGETS))
        try:
            most = float(text)
        except ValueError:
            most = math.nan
        if not 0 < most < math.inf or (what == "trials" and (most % 1 or most < 1)):
            kind = "a whole number, at least 1" if what == "trials" else "a positive number"
            raise ValueError(f"--budget {what} must be {kind}; got {text!r}")
        return what, most

    @property
    def _drawn(self) -> tuple[int, int]:
        """How many trials are drawn, 0 of a grid, and the seed of the draw."""
        if self.trials == GRID:
            return 0, 0
        how, *numbers = self.trials.split(":")
        right = how == RANDOM and 1 <= len(numbers) <= 2
        right = right and all(n.isascii() and n.isdigit() for n in numbers)
        if not right or int(numbers[0]) < 1:
            raise ValueError(
                f"--trials must be grid, random:N or random:N:SEED; got {self.trials!r}"
            )
        return int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else 0

    def all(self, shared: Fields | None = None, own: Fields | None = None) -> list[dict[str, Any]]:
        """The values of each trial, in their order: the same for every model.

        A grid that a budget may cut is in a random order, so that what is left is no corner of it.

        Args:
            shared: fields that all models have; by default all that are swept.
            own: those of one model alone, which count for more. What is drawn of the shared ones
                is what all models have.

        Raises ValueError for more trials than a model may have.
        """
        count, seed = self._drawn
        rng, more = (np.random.default_rng(of) for of in (seed, (seed, 1)))
        shared, own = self.fields if shared is None else shared, own or {}
        fields = {**shared, **own}
        size = count or math.prod(map(len, fields.values()))
        if size > MOST_TRIALS:
            raise ValueError(f"a model has at most {MOST_TRIALS} trials; this sweep has {size}")
        if not fields:
            return []
        if count:
            drawn = [{n: _draw(v, rng) for n, v in shared.items()} for _ in range(count)]
            drawn = [{**trial, **{n: _draw(v, more) for n, v in own.items()}} for trial in drawn]
            return [t for i, t in enumerate(drawn) if t not in drawn[:i]]
        grid = [
            dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())
        ]
        what, most = self.limit
        if what and not (what == "trials" and most >= len(grid)):
            grid = [grid[i] for i in rng.permutation(len(grid))]
        return grid[: int(most)] if what == "trials" else grid


def _values(name: str, values: Any) -> tuple[Any, ...] | Range:
    if isinstance(values, Range):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if not numbers or not 0 < values.low < values.high < math.inf:
            raise ValueError(
                f"a range goes from a positive number to a larger one; got {name}={values}"
            )
        return values
    values = tuple(values) if isinstance(values, list | tuple) else (values,)
    if not values:
        raise ValueError(f"a sweep over {name} needs values: {name}=A,B,C or {name}=LOW..HIGH")
    for value in values:
        if value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(f"a sweep is over numbers, texts and switches; got {name}={value!r}")
    twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if twice is not None:
        raise ValueError(f"a sweep over {name} has {twice!r} twice")
    return values


def _draw(values: tuple[Any, ...] | Range, rng: np.random.Generator) -> Any:
    return values.draw(rng) if isinstance(values, Range) else values[rng.integers(len(values))]


def fields_of(experiment: Experiment) -> dict[str, Any]:
    """Dotted name of all that may be swept of a model -> its type."""
    parts: dict[str, type] = {"optim": OptimConfig, "backbone": BackboneConfig}
    pattern = dict.fromkeys(resolve(experiment.model).pattern)
    for name in pattern:
        parts["mixer" if len(pattern) == 1 else f"mixer.{short(name)}"] = config_of(mixer(name))
    return {
        f"{part}.{field.name}": get_type_hints(kind)[field.name]
        for part, kind in parts.items()
        for field in dataclasses.fields(kind)
    }


def field_kinds(name: str, models: Mapping[str, Experiment]) -> dict[str, tuple[str, Any]]:
    """Label -> the field that a name in a sweep is of that model, and its type.

    `part.LABEL.field` is of one model, where not all have a field of that whole name, as patterns
    have. Raises ValueError where it may not be swept, or is none.
    """
    kinds = {label: fields_of(experiment) for label, experiment in models.items()}
    if all(name in own for own in kinds.values()):
        return {label: (name, own[name]) for label, own in kinds.items()}
    every = {
        f"{part}.{label}.{rest}": (label, field)
        for label, own in kinds.items()
        for field in own
        for part, _, rest in (field.partition("."),)
    }
    written = {whole.replace("+", "_"): found for whole, found in every.items()} | every
    if name in written:
        label, field = written[name]
        return {label: (field, kinds[label][field])}
    raise _refusal(name, kinds, [*every])


def _refusal(name: str, kinds: Mapping[str, Mapping[str, Any]], every: list[str]) -> ValueError:
    """Why a name cannot be swept: what it is, or what it may have meant."""
    whole, _, last = name.rpartition(".")
    part = whole.partition(".")[0]
    if part in ("", "train") and last in {field.name for field in dataclasses.fields(TrainConfig)}:
        return ValueError(
            f"{last} is the same for all models and trials, so it cannot be swept: what is "
            "compared would no longer be trained alike"
        )
    if part in ("task", "data"):
        return ValueError(f"{name} cannot be swept: all models learn the same task")
    if part == "mesh" and last in {field.name for field in dataclasses.fields(MeshConfig)}:
        return ValueError(f"{name} cannot be swept: it changes no result")
    lacks = next(label for label, own in kinds.items() if name not in own)
    for label, own in kinds.items():
        if name in own:
            alone = name.replace(".", f".{label}.", 1)
            return ValueError(f"{lacks} has no {name}, which {label} has: sweep {alone}")
    if part == whole:
        return unknown(f"field in a sweep of {lacks}", name, kinds[lacks])
    names = [*kinds[lacks], *every]
    near = [n for n in names if n.endswith(f".{last}")] or [n for n in names if n.startswith(whole)]
    return unknown("field in a sweep", name, near or names)


def trials_of(sweep: Sweep, label: str, models: Mapping[str, Experiment]) -> list[dict[str, Any]]:
    """The trials of one of the models, by the names that its fields have; none where it has none.

    What is swept of others alone is none of its own, so its trials are fewer then.
    """
    shared: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, values in sweep.fields.items():
        found = field_kinds(name, models)
        if label in found:
            field, _ = found[label]
            (shared if field == name else own)[field] = values
    return sweep.all(shared, own)


def check_sweep(sweep: Sweep, models: Mapping[str, Experiment]) -> None:
    """Raises ValueError for a field that a model does not have, and a value of another type."""
    for name, values in sweep.fields.items():
        for _, kind in field_kinds(name, models).values():
            for value in values:
                checked(value, kind, f"the sweep over {name}")
    for label, experiment in models.items():
        for trial in trials_of(sweep, label, models):
            with_values(experiment, trial)


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment of a trial. Raises ValueError for a value that cannot be."""
    changes: dict[str, Any] = {"mixer": dict(experiment.mixer), "optim": {}, "backbone": {}}
    for name, value in values.items():
        part, *inner, last = name.split(".")
        if inner:  # a mixer of a pattern
            whole = {short(n): n for n in resolve(experiment.model).pattern}[".".join(inner)]
            own = changes["mixer"].get(whole, {})
            changes["mixer"] = {**changes["mixer"], whole: {**own, last: value}}
        else:
            changes[part][last] = value
    return dataclasses.replace(
        experiment,
        mixer=changes["mixer"],
        optim=dataclasses.replace(experiment.optim, **changes["optim"]),
        backbone=dataclasses.replace(experiment.backbone, **changes["backbone"]),
    )


def changes_model(names: Iterable[str]) -> bool:
    """Whether what has values for these fields has another model, and so another cost."""
    return any(not name.startswith("optim.") for name in names)


def check_keeps_sizes(sweep: Sweep | None) -> None:
    """Raises ValueError for a sweep that would change what models were matched in."""
    changed = [name for name in (sweep.fields if sweep else ()) if changes_model((name,))]
    if changed:
        raise ValueError(
            f"a sweep over {', '.join(changed)} would change what was matched; sweep fields of the "
            "optimiser, or leave out --match"
        )


def numbers_of(trials: list[Mapping[str, Any]]) -> dict[str, tuple[float, ...]] | None:
    """What trials that may share one program sweep of the optimiser; None where they may not."""
    names = trials[0].keys()
    if not all(name.removeprefix("optim.") in NUMBERS for name in names):
        return None
    made = {n.removeprefix("optim."): tuple(float(t[n]) for t in trials) for n in names}
    clips = 0.0 not in made.get("clip_norm", ())  # without a clip it is another program
    return made if clips else None
