"""Every mixer of the registry under every law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import MIXERS, BackboneConfig, ModelSpec, build, build_model
from tests.models import laws
from tests.models.tiny import TINY

SLOW = pytest.mark.slow

# Each mixer's tests run in one worker, where its forms are compiled once.
GROUPED = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TINY]
# What a variant shares with its mixer is tested there, and with the slow tests.
FIRST = [
    name if "@" not in name.values[0] else pytest.param(*name.values, marks=[*name.marks, SLOW])
    for name in GROUPED
]


def _both_ways():
    """Mixers that look both ways by nature; of those that are wrapped two, the rest when slow.

    Variants of a mixer that is wrapped would test the wrapper again.
    """
    for name in GROUPED:
        base, _, variant = name.values[0].partition("@")
        if MIXERS[base].module.looks_both_ways or base in ("lru", "gla"):
            yield name
        elif not variant:
            yield pytest.param(*name.values, marks=[*name.marks, SLOW])


BOTH_WAYS = list(_both_ways())


def test_every_mixer_is_under_the_laws():
    assert {name.split("@")[0] for name in TINY} == set(MIXERS)


def causal_form(name):
    return MIXERS[name.split("@")[0]].module.causal_form


CAUSAL = [name for name in GROUPED if causal_form(name.values[0])]


@pytest.mark.parametrize("law", laws.CAUSAL_LAWS)
@pytest.mark.parametrize("name", CAUSAL)
def test_causal(name, law):
    laws.CAUSAL_LAWS[law](laws.subject(name))


@pytest.mark.parametrize("law", laws.BOTH_WAYS_LAWS)
@pytest.mark.parametrize("name", BOTH_WAYS)
def test_both_ways(name, law):
    laws.BOTH_WAYS_LAWS[law](laws.subject(name, causal=False))


@pytest.mark.parametrize("name", GROUPED)
def test_a_mixer_that_looks_both_ways_cannot_stream(name):
    mixer = laws.subject(name, causal=False).mixer
    with pytest.raises(ValueError, match="causal=True"):
        mixer.init_state(1)
    with pytest.raises(ValueError, match="causal=True"):
        mixer.extend(jnp.zeros((1, 1, laws.D)), None)


@pytest.mark.parametrize("name", FIRST)
def test_bfloat16_compute_keeps_float32_state(name):
    """bfloat16 in and out, states in float32, close to the float32 result; finite gradients."""
    s = laws.subject(name, causal_form(name))
    low = build(name.split("@")[0], laws.D, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, **TINY[name])
    graphdef, _, rest = nnx.split(low, nnx.Param, ...)

    @jax.jit
    def run(params, x, dy):
        def f(params, x):
            return nnx.merge(graphdef, params, rest, copy=True)(x)

        y, pull = jax.vjp(f, params, x)
        return y, pull(dy)

    x = laws.normal(20, laws.B, laws.L, laws.D)
    y, grads = run(s.params, x.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    if low.causal:
        assert all(leaf.dtype.itemsize >= 4 for leaf in jax.tree.leaves(low.init_state(1)))
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    laws.assert_close(y.astype(jnp.float32), s.parallel(s.params, x, None), ratio=0.05)


@pytest.mark.parametrize("name", CAUSAL)
def test_a_full_state_is_an_error_outside_jit_and_nan_inside(name):
    s = laws.subject(name)
    if s.mixer.state_growth != "linear":
        assert s.mixer.max_length is None
        return
    room = s.mixer.max_length
    x = laws.normal(21, 1, room + 1, laws.D)
    with pytest.raises(ValueError, match="max_length"):
        s.mixer.extend(x, s.mixer.init_state(1))
    y, _ = s.extend(s.params, x, s.mixer.init_state(1), None)
    assert np.isfinite(y[:, :room]).all()
    assert np.isnan(y[:, room:]).all()


WHOLE_ROWS = [name for name in GROUPED if not causal_form(name.values[0])]


@pytest.mark.parametrize("name", WHOLE_ROWS)
def test_a_mixer_of_whole_rows_refuses_to_be_causal(name):
    base = name.split("@")[0]
    with pytest.raises(ValueError, match=r"no causal form.*causal=False"):
        build(base, laws.D, causal=True, rngs=nnx.Rngs(0), **TINY[name])
    with pytest.raises(ValueError, match=r"no causal form.*causal=False"):
        MIXERS[base].module(laws.D, causal=True, rngs=nnx.Rngs(0), **TINY[name])


@pytest.mark.parametrize("name", WHOLE_ROWS)
def test_packed_rows_are_refused_outside_jit_and_nan_inside(name):
    s = laws.subject(name, causal=False)
    if s.mixer.packing == "native":
        return
    x = laws.normal(22, laws.B, laws.L, laws.D)
    with pytest.raises(ValueError, match="one segment a row"):
        s.mixer(x, laws.PACKED)
    y = np.asarray(s.parallel(s.params, x, laws.PACKED))
    packed = laws.PACKED.max(1) > 1
    assert np.isnan(y[packed]).all()
    assert np.isfinite(y[~packed]).all()


def test_a_task_of_packed_rows_refuses_a_mixer_of_whole_rows():
    spec = ModelSpec(head="classify", vocab_size=5, outputs=2, length=8, packed=True)
    with pytest.raises(ValueError, match="linformer takes one segment a row"):
        build_model(spec, "linformer", rngs=nnx.Rngs(0))
    spec = ModelSpec(head="lm", vocab_size=5, outputs=5, length=8, causal=True)
    with pytest.raises(ValueError, match="no causal form"):
        build_model(spec, "linformer", BackboneConfig(), rngs=nnx.Rngs(0))
