"""What a model costs, without building it, and models made to cost the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from seqzoo.models.config import config_of
from seqzoo.models.heads import build_model
from seqzoo.models.registry import mixer, resolve
from seqzoo.train.config import Experiment

MAX_LENGTH = "max_length"  # the option of mixers whose state grows
TOLERANCE = 0.03  # relative difference of parameters within which models count as equally large
WIDEST = 64.0  # expansion of a feed-forward at which the search gives up
PROBES = 8  # of the interval of expansions


def cost(experiment: Experiment) -> dict[str, Any]:
    """Parameters and state of a model, without building it. Raises ValueError if it cannot be."""
    options = _at_length(experiment)

    def make() -> nnx.Module:
        return build_model(
            experiment.spec, experiment.model, experiment.backbone, options, rngs=nnx.Rngs(0)
        )

    model = nnx.eval_shape(make)
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    return {
        "parameters": sum(int(np.prod(p.shape)) for p in params),
        "state_size": int(model.state_size()) or None,
        "state_growth": model.encoder.state_growth,
    }


def _at_length(experiment: Experiment) -> dict[str, Any]:
    """Mixer options with which a state that grows has the size it has at the task's length."""
    length = experiment.task.spec.length
    options = dict(experiment.mixer)
    for name in resolve(experiment.model).pattern:
        kept = getattr(config_of(mixer(name))(), MAX_LENGTH, None)
        own = options.get(name)
        if kept is None:
            continue
        if isinstance(own, Mapping):
            options[name] = {**own, MAX_LENGTH: min(length, own.get(MAX_LENGTH, kept))}
        else:
            options[MAX_LENGTH] = min(length, options.get(MAX_LENGTH, kept))
    return options


def match_parameters(models: Mapping[str, Experiment]) -> dict[str, Experiment]:
    """The models with feed-forwards so wide that all have as many parameters as the largest.

    Raises ValueError for a model that cannot reach it within 3%: one without feed-forward, or so
    small that one hidden unit is a larger step.
    """
    sizes = {label: cost(experiment)["parameters"] for label, experiment in models.items()}
    target = max(sizes.values())
    return {
        label: experiment
        if sizes[label] >= target * (1 - TOLERANCE)
        else _widened(label, experiment, target)
        for label, experiment in models.items()
    }


def _widened(label: str, experiment: Experiment, target: int) -> Experiment:
    def with_expansion(expansion: float) -> tuple[Experiment, int]:
        backbone = dataclasses.replace(experiment.backbone, expansion=expansion)
        wide = dataclasses.replace(experiment, backbone=backbone)
        return wide, cost(wide)["parameters"]

    low, high = experiment.backbone.expansion, WIDEST
    (best, least), (_, most) = with_expansion(low), with_expansion(high)
    distance = abs(least - target)
    # Parameters grow by equal steps with the hidden units, so a straight line finds the step.
    for _ in range(PROBES):
        if not least < target < most:
            break
        middle = low + (high - low) * (target - least) / (most - least)
        wide, size = with_expansion(middle)
        if abs(size - target) < distance:
            best, distance = wide, abs(size - target)
        if size in (least, most):
            break
        low, high = (middle, high) if size < target else (low, middle)
        least, most = (size, most) if size < target else (least, size)
    if distance > TOLERANCE * target:
        raise ValueError(
            f"{label} cannot have the {target:,} parameters of the largest model within "
            f"{TOLERANCE:.0%} by a wider feed-forward ({experiment.backbone.feedforward!r}); "
            "give it one, or leave out --match"
        )
    return best
