"""The laws' rows go through the blocks and chunks of long rows."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models import build
from tests import laws
from tests.models.short_forms import SHORT, short_forms
from tests.models.subjects import options


def program(name, streaming, constants):
    """What a row of `TINY` does in the laws when these constants are short, as text."""

    def make():
        return build(name.split("@")[0], laws.D, rngs=nnx.Rngs(0), **options(name))

    graphdef, state = nnx.split(nnx.eval_shape(make))
    length = laws.C if streaming else laws.L
    x = jax.ShapeDtypeStruct((laws.B, length, laws.D), jnp.float32)
    ids = jax.ShapeDtypeStruct(x.shape[:2], jnp.int32)

    def run(state, x, ids):
        mixer = nnx.merge(graphdef, state)
        return mixer.extend(x, mixer.init_state(laws.B), ids) if streaming else mixer(x, ids)

    with short_forms(constants):
        text = str(jax.make_jaxpr(run)(state, x, ids))
    return re.sub(r"0x[0-9a-f]+", "", text)


in_short_forms = functools.cache(functools.partial(program, constants=SHORT))


@pytest.mark.parametrize("short", SHORT, ids=lambda s: f"{s.module.__name__}.{s.name}")
def test_a_law_runs_the_form_that_this_length_decides(short):
    """Without this constant the same rows take another form."""
    others = tuple(other for other in SHORT if other is not short)
    where = short.felt_by, short.streaming
    assert program(*where, others) != in_short_forms(*where)


def test_the_text_of_a_program_depends_on_nothing_else():
    assert program("attention", False, SHORT) == in_short_forms("attention", False)
