"""Options that cannot be are a ValueError that names them, for every mixer."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models import MIXERS, build, config_of

COUNTS = ("int", "int | None", int, int | None)


def options_of(name, kinds):
    fields = dataclasses.fields(config_of(MIXERS[name]))
    return [field.name for field in fields if field.type in kinds]


@pytest.mark.parametrize("name", MIXERS)
def test_a_count_is_a_whole_number(name):
    for option in options_of(name, COUNTS):
        with pytest.raises(ValueError, match=f"{option} is a whole number; got 1.5"):
            build(name, 8, rngs=nnx.Rngs(0), **{option: 1.5})
    for option in options_of(name, (float, "float")):
        with pytest.raises(ValueError, match=f"{option} must be a finite number"):
            build(name, 8, rngs=nnx.Rngs(0), **{option: float("inf")})


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_none_and_fewer_are_taken_or_a_value_error(name):
    for option in options_of(name, COUNTS):
        for count in (0, -1):

            def use(option=option, count=count):
                mixer = build(name, 8, rngs=nnx.Rngs(0), **{option: count})
                x = jnp.zeros((2, 5, 8))
                return mixer.extend(x, mixer.init_state(2)) if mixer.causal else mixer(x)

            try:
                y = jax.tree.leaves(jax.eval_shape(use))[0]
            except ValueError:
                continue
            assert y.shape == (2, 5, 8), (option, count)
