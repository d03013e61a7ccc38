"""Hybrids of two mixers by the share of layers that one of them has.

    attention=0,1/8,1/4,1/2,1       of a model `attention+lru`, at the depth that it has

Layers of the named mixer stand as far apart as they can, the last of each period being one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from seqzoo.models.foreign.address import short
from seqzoo.models.registry import pattern_options, resolve
from seqzoo.train.config import Experiment


class Hybrid(NamedTuple):
    """A model of a family, and the share of its layers that `mixer` has."""

    experiment: Experiment
    family: str
    mixer: str
    share: float


def hybrids(
    models: Mapping[str, Experiment], ratio: str
) -> tuple[dict[str, Experiment], dict[str, Hybrid]]:
    """The models with each pattern of two mixers, one of them named, made its hybrids; and these.

    Raises ValueError for shares that are none, or that the depth does not divide into.
    """
    if not ratio:
        return dict(models), {}
    name, _, text = ratio.partition("=")
    shares = [_share(part, ratio) for part in text.split(",")]
    every: dict[str, Experiment] = {}
    made: dict[str, Hybrid] = {}
    for label, experiment in models.items():
        pattern = resolve(experiment.model).pattern
        if name in pattern and len(set(pattern)) == 2:
            for share in shares:
                one = made[_label(label, share)] = _hybrid(label, experiment, name, share)
                every[_label(label, share)] = one.experiment
        else:
            every[label] = experiment
    if not made:
        raise ValueError(
            f"--ratio {ratio}: no model is a pattern of {name} and one other mixer; name one, as "
            f"in --models {name}+lru"
        )
    return every, made


def _share(text: str, ratio: str) -> Fraction:
    try:
        share = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        share = Fraction(-1)
    if not 0 <= share <= 1:
        raise ValueError(
            f"--ratio {ratio!r}: {text!r} is no share; write MIXER=0,1/8,1/4,1/2,1, each in [0, 1]"
        )
    return share


def _label(label: str, share: Fraction) -> str:
    return f"{label}-{share.numerator}of{share.denominator}"


def _hybrid(label: str, experiment: Experiment, name: str, share: Fraction) -> Hybrid:
    depth, period = experiment.backbone.depth, share.denominator
    if depth % period:
        raise ValueError(
            f"{label}: {share} of {depth} layers is no whole number of layers; give a "
            f"--backbone.depth that {period} divides"
        )
    preset = resolve(experiment.model)
    other = next(one for one in preset.pattern if one != name)
    pattern = [
        name if math.floor((i + 1) * share) > math.floor(i * share) else other
        for i in range(period)
    ]
    given = pattern_options(preset.pattern, {**preset.options, **experiment.mixer})
    own = {short(mixer): one for mixer, one in zip(preset.pattern, given, strict=True)}
    options: Mapping[str, Any] = own if len({*pattern}) == 2 else own[short(pattern[0])]
    backbone = dataclasses.replace(experiment.backbone, arrangement="repeat")
    made = dataclasses.replace(
        experiment, model=",".join(pattern), mixer=options, backbone=backbone
    )
    return Hybrid(made, label, name, float(share))
