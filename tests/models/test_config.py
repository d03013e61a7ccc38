"""Config dataclasses that are made from constructors."""

import pytest

from seqzoo.models.config import config_of
from seqzoo.models.mixer import Mixer


def test_an_option_without_annotation_is_named():
    class Own(Mixer):
        def __init__(self, d_model: int, *, rate=3, causal: bool = True, rngs):
            pass

    says = r"Own: option 'rate' needs an annotation, .*`rate: int = 3`"
    with pytest.raises(TypeError, match=says):
        config_of(Own)
