"""Every mixer of the registry under every law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import MIXERS, BackboneConfig, ModelSpec, build, build_model
from seqzoo.models.mixer import Mixer
from tests import laws
from tests.flags import DAY
from tests.helpers import assert_close
from tests.laws.cases import N
from tests.models.subjects import PERIOD, ROOM, as_users, causal_form, options, subject, turn
from tests.models.tiny import TINY

pytestmark = [pytest.mark.usefixtures("in_short_forms"), pytest.mark.every_case]
SLOW = pytest.mark.slow

# One of each primitive of docs/design.md.
SMOKE = (
    *("attention", "bigbird", "gau", "transformer_vq", "performer", "mamba2", "gated_deltanet"),
    *("s4d", "hyena", "lru", "mamba", "lstm"),
)
# Each mixer's tests run one after another, so that what is compiled for it serves them all.
GROUPED = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TINY]
CAUSAL = [name for name in GROUPED if causal_form(name.values[0])]
WHOLE_ROWS = [name for name in GROUPED if not causal_form(name.values[0])]
THIRDS = PERIOD // 2  # days in which the rows that are not among them have their turn
# Laws of which everything has its day: of a mixer, and of a variant or a second direction, which
# share with it what the others say.
BY_TURNS = {"base": {"gradients"}, "variant": set(laws.NUMBERS) - {"packed", "ragged-packed"}}


def _of_the_day(name, causal=True):
    """Only when it is its turn."""
    mark = pytest.mark.of_the_day(*turn(*name.values, causal))
    return pytest.param(*name.values, marks=[*name.marks, mark])


def _with_laws(name):
    """When it has its laws."""
    if name.values[0] in SMOKE:
        return name
    mark = pytest.mark.of_the_day([*MIXERS].index(name.values[0].partition("@")[0]), THIRDS)
    return pytest.param(*name.values, marks=[*name.marks, mark])


def _cases(names, causal):
    for name in names:
        base, _, variant = name.values[0].partition("@")
        again = variant or (not causal and causal_form(base))
        for law in laws.laws_of(causal, among=laws.NUMBERS):
            by_turns = law in BY_TURNS["variant" if again else "base"]
            case = _of_the_day(name, causal) if by_turns else _with_laws(name)
            marks = list(case.marks) + [pytest.mark.smoke] * (causal and base in SMOKE)
            yield pytest.param(*name.values, law, marks=marks)


def _both_ways():
    """Mixers that look both ways by nature; of those that are wrapped one, the rest when slow."""
    for name in GROUPED:
        base, _, variant = name.values[0].partition("@")
        if MIXERS[base].looks_both_ways or name.values[0] == "lru":
            yield name
        elif not variant:
            yield pytest.param(*name.values, marks=[*name.marks, SLOW])


def test_every_mixer_is_under_the_laws():
    assert {name.split("@")[0] for name in TINY} == set(MIXERS)


def test_every_program_is_one_of_users_within_twelve_days(monkeypatch):
    seen = set()
    for day in range(2 * PERIOD):
        monkeypatch.setenv(DAY, str(day))
        seen |= {(name, form) for name in MIXERS for form in as_users(name, causal_form(name))}
    assert seen == {(name, form) for name in MIXERS for form in ("rows", "chunks", "plain")}


@pytest.mark.parametrize(("name", "law"), list(_cases(CAUSAL, causal=True)))
def test_causal(name, law):
    laws.LAWS[law].check(subject(name))


@pytest.mark.parametrize(("name", "law"), list(_cases(_both_ways(), causal=False)))
def test_both_ways(name, law):
    laws.LAWS[law].check(subject(name, causal=False))


@pytest.mark.parametrize("name", MIXERS)
def test_both_forms_are_those_of_the_contract(name):
    """So that what they check, every mixer checks; one that looks both ways cannot stream."""
    module = MIXERS[name]
    for form in ("__call__", "init_state", "extend"):
        assert getattr(module, form) is getattr(Mixer, form)


@pytest.mark.parametrize("name", ["attention", "lru"])
def test_a_mixer_that_looks_both_ways_cannot_stream(name):
    mixer = build(name, laws.D, causal=False, rngs=nnx.Rngs(0), **TINY[name])
    with pytest.raises(ValueError, match="causal=True"):
        mixer.init_state(1)
    with pytest.raises(ValueError, match="causal=True"):
        mixer.extend(jnp.zeros((1, 1, laws.D)), None)


@pytest.mark.parametrize("name", [_of_the_day(n, causal_form(*n.values)) for n in GROUPED])
def test_bfloat16_compute_keeps_float32_state(name):
    """bfloat16 in and out, states in float32 but for cached keys and values; finite gradients."""
    s = subject(name, causal_form(name))
    low = build(name.split("@")[0], laws.D, rngs=nnx.Rngs(0), dtype=jnp.bfloat16, **options(name))
    graphdef, _, rest = nnx.split(low, nnx.Param, ...)

    @jax.jit
    def run(params, x, dy):
        def f(params, x):
            return nnx.merge(graphdef, params, rest, copy=True)(x)

        y, pull = jax.vjp(f, params, x)
        return y, pull(dy)

    # On the border of two codewords or blocks bfloat16 takes the other one: here there is none.
    chosen = name in ("transformer_vq", "moba")
    x = laws.normal(23 if chosen else 20, laws.B, laws.L, laws.D)
    y, grads = run(s.params, x.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    if low.causal:
        sizes = {leaf.dtype.itemsize for leaf in jax.tree.leaves(low.init_state(1))}
        caches = "attention" in type(low).__module__.split(".") or name.startswith("mega")
        assert min(sizes) >= (2 if caches else 4), sizes
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert_close(y.astype(jnp.float32), s.rows(x, laws.ONES).y, ratio=0.05)


@pytest.mark.parametrize("name", [_with_laws(name) for name in CAUSAL])
def test_a_full_state_is_an_error_outside_jit_and_nan_inside(name):
    s = subject(name)
    if s.mixer.state_growth != "linear":
        assert s.mixer.max_length is None
        return
    assert s.mixer.max_length == ROOM
    x = laws.normal(21, N, laws.B, laws.C, laws.D)
    with pytest.raises(ValueError, match="max_length"):
        s.mixer.extend(x[:, 0].reshape(1, -1, laws.D), s.mixer.init_state(1))
    y = s.chunks(x, np.ones(x.shape[:3], np.int32)).y.swapaxes(0, 1).reshape(laws.B, -1, laws.D)
    assert np.isfinite(y[:, :ROOM]).all()
    assert np.isnan(y[:, ROOM:]).all()


@pytest.mark.parametrize("name", WHOLE_ROWS)
def test_a_mixer_of_whole_rows_refuses_to_be_causal(name):
    base = name.split("@")[0]
    with pytest.raises(ValueError, match=r"no causal form.*causal=False"):
        build(base, laws.D, causal=True, rngs=nnx.Rngs(0), **TINY[name])
    with pytest.raises(ValueError, match=r"no causal form.*causal=False"):
        MIXERS[base](laws.D, causal=True, rngs=nnx.Rngs(0), **TINY[name])


@pytest.mark.parametrize("name", [_with_laws(name) for name in WHOLE_ROWS])
def test_packed_rows_are_refused_outside_jit_and_nan_inside(name):
    s = subject(name, causal=False)
    if s.mixer.packing == "native":
        return
    x = laws.normal(22, laws.B, laws.L, laws.D)
    with pytest.raises(ValueError, match="one segment a row"):
        s.mixer(x, laws.PACKED)
    y = s.rows(x, laws.PACKED).y
    packed, real = laws.PACKED.max(1) > 1, laws.PACKED > 0
    assert np.isnan(y[packed[:, None] & real]).all()
    assert np.isfinite(y[~packed]).all()


def test_a_task_of_packed_rows_refuses_a_mixer_of_whole_rows():
    spec = ModelSpec(head="classify", vocab_size=5, outputs=2, length=8, packed=True)
    with pytest.raises(ValueError, match="linformer takes one segment a row"):
        build_model(spec, "linformer", rngs=nnx.Rngs(0))
    spec = ModelSpec(head="lm", vocab_size=5, outputs=5, length=8, causal=True)
    with pytest.raises(ValueError, match="no causal form"):
        build_model(spec, "linformer", BackboneConfig(), rngs=nnx.Rngs(0))
