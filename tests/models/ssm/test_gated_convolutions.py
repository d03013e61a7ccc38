"""H3, Hyena and Mega against loops in float64, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build
from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.hyena import Hyena
from tests.helpers import assert_close, x64
from tests.laws import perturbed
from tests.references import gated_convolutions as reference

LENGTH, WIDTH = 11, 6
H3 = {"d_state": 4, "d_shift": 3}
MEGA = {"d_qk": 4, "expansion": 1.5, "averages": 3}
CASES = {
    "h3": ("h3", H3, lambda p, x: reference.h3(p, x, 1)),
    "h3 with heads": ("h3", {**H3, "d_head": 3}, lambda p, x: reference.h3(p, x, 3)),
    "hyena": (
        "hyena",
        {"order": 3, "filter_width": 4, "max_length": 20},
        lambda p, x: reference.hyena(p, x, 3, 20),
    ),
    "mega": (
        "mega",
        MEGA,
        lambda p, x: reference.mega(p, x, causal=True, kind="laplace", block=None),
    ),
    "mega in blocks, both ways": (
        "mega",
        {**MEGA, "causal": False, "block_size": 4},
        lambda p, x: reference.mega(p, x, causal=False, kind="laplace", block=4),
    ),
    "mega with softmax in blocks": (
        "mega",
        {**MEGA, "block_size": 4, "kind": "softmax"},
        lambda p, x: reference.mega(p, x, causal=True, kind="softmax", block=4),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_loop(case):
    name, options, loop = CASES[case]
    with x64():
        types = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        mixer = build(name, WIDTH, rngs=nnx.Rngs(0), **types, **options)
        graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
        params = perturbed(params, 0.3)
        x = np.random.default_rng(1).normal(size=(1, LENGTH, WIDTH))
        y = jax.jit(lambda params, x: nnx.merge(graphdef, params, rest)(x))(params, x)
        p = {
            "/".join(map(str, path)): np.asarray(v.get_value())
            for path, v in nnx.to_flat_state(params)
        }
    assert y.dtype == np.float64
    assert_close(y[0], loop(p, x[0]), ratio=1e-12)


def test_filters_are_not_decayed():
    groups = param_groups(Hyena(4, filter_width=4, rngs=nnx.Rngs(0)))
    named = {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(groups)}
    own = {path: group for path, group in named.items() if path.startswith("filter/")}
    assert len(own) == 8
    assert set(own.values()) == {"no_decay"}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("h3", {"d_head": 4}, "d_head must divide"),
        ("hyena", {"order": 1}, "order must be at least 2"),
        ("mega", {"d_qk": 3}, "d_qk even"),
        ("mega", {"kind": "relu"}, "unknown kind"),
        ("mega", {"block_size": 0}, "at least 1"),
    ],
)
def test_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, WIDTH, rngs=nnx.Rngs(0), **options)
