"""Config dataclasses that are made from constructors."""

import math
import typing

import pytest

from seqzoo.models.blocks.config import COUNTS, NUMBERS, BackboneConfig
from seqzoo.models.blocks.mixture import Routing
from seqzoo.models.config import config_of
from seqzoo.models.mixer import Mixer


def test_an_option_without_annotation_is_named():
    class Own(Mixer):
        def __init__(self, d_model: int, *, rate=3, causal: bool = True, rngs):
            pass

    says = r"Own: option 'rate' needs an annotation, .*`rate: int = 3`"
    with pytest.raises(TypeError, match=says):
        config_of(Own)


def test_every_number_of_a_backbone_has_its_bounds():
    kinds = typing.get_type_hints(BackboneConfig)
    kinds = {name: {kind, *typing.get_args(kind)} for name, kind in kinds.items()}
    numbers = {name for name, own in kinds.items() if {int, float} & own}
    assert numbers == {*COUNTS, *NUMBERS}
    for name in numbers:
        least, most = COUNTS.get(name, (-math.inf, math.inf))
        for value in (least - 1, most + 1, -(2**70), 2**70, math.nan):
            with pytest.raises(ValueError, match=rf"{name} must be .*got {name}={value}"):
                BackboneConfig(**{name: value})
    for name in ("scale", "shared"):
        for value in (-1, math.inf, math.nan):
            with pytest.raises(ValueError, match=rf"{name} of a routing must be .*got {value}"):
                Routing(**{name: value})
