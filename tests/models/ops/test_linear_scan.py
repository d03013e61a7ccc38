"""linear_scan against a loop in float64: values, gradients, segments, both forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.scan.linear import linear_scan
from tests.golden import golden
from tests.helpers import assert_close, assert_trees_close, x64
from tests.references.linear_scan import linear_scan as reference

FORMS = ("sequential", "associative")
IDS = np.array(
    [
        [0, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 1, 1],  # padding left and between, a border, id 1 again
        [3, 3, 3, 1, 1, 1, 1, 1, 2, 2, 0, 0, 0],  # padding right
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
)


def draw(shape, seed, *, complex_=False, dtype=np.float64):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, shape)
    return (x + 1j * rng.uniform(-1, 1, shape) if complex_ else x).astype(
        np.complex128 if complex_ else dtype
    )


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    table = dict.fromkeys(forms.PLATFORMS, request.param)
    monkeypatch.setattr(forms, "TABLE", {"linear_scan": table})


def loop(a, b, h0, reverse=False):
    """The recurrence as a plain scan, to be differentiated by jax."""

    def step(h, x):
        h = x[0] * h + x[1]
        return h, h

    xs = tuple(jnp.moveaxis(x, 1, 0) for x in (jnp.broadcast_to(a, b.shape), b))
    return jnp.moveaxis(lax.scan(step, h0, xs, reverse=reverse)[1], 0, 1)


def gradients(f, arrays, weight=1.0):
    def loss(*arrays):
        return jnp.real(jnp.sum(weight * f(*arrays) ** 2))

    return jax.jit(jax.grad(loss, tuple(range(len(arrays)))))(*arrays)


@pytest.mark.every_case
@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 13])
def test_equals_the_loop(form, complex_, reverse, length):
    a, b = (draw((3, length, 4), i, complex_=complex_) for i in (0, 1))
    h0 = draw((3, 4), 2, complex_=complex_)
    with x64():
        h = jax.jit(functools.partial(linear_scan, reverse=reverse))(a, b, h0)
    assert_close(h, reference(a, b, h0, reverse=reverse), ratio=1e-12)


@pytest.mark.parametrize("shape", [(4,), (1, 13, 4), (3, 1, 1), ()])
def test_decay_broadcasts(form, shape):
    a, b = draw(shape, 0), draw((3, 13, 4), 1)
    with x64():
        h = jax.jit(linear_scan)(a, b)
        actual = gradients(linear_scan, (a, b))
        desired = gradients(lambda a, b: loop(a, b, jnp.zeros((3, 4))), (a, b))
    assert_close(h, reference(a, b), ratio=1e-12)
    assert_trees_close(actual, desired, ratio=1e-12)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_equal_the_loop(form, complex_, reverse):
    arrays = tuple(
        draw(s, i, complex_=complex_) for i, s in enumerate([(2, 9, 3), (2, 9, 3), (2, 3)])
    )
    weight = draw((2, 9, 3), 5, complex_=complex_)
    with x64():
        actual = gradients(functools.partial(linear_scan, reverse=reverse), arrays, weight)
        desired = gradients(functools.partial(loop, reverse=reverse), arrays, weight)
    assert_trees_close(actual, desired, ratio=1e-12)


@pytest.mark.every_case
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", [(3, 13, 4), (4,)])
def test_segments(form, reverse, shape):
    a, b, h0 = draw(shape, 0), draw((3, 13, 4), 1), draw((3, 4), 2)
    with x64():
        h = jax.jit(functools.partial(linear_scan, reverse=reverse, segment_ids=IDS))(a, b, h0)
    assert_close(h, reference(a, b, h0, reverse=reverse, segment_ids=IDS), ratio=1e-12)
    assert_close(h[2], np.broadcast_to(h0[2], h[2].shape), ratio=0)


def test_padding_has_no_gradient_and_borders_stop_it():
    a, b, h0 = (jnp.asarray(draw(s, i)) for i, s in enumerate([(3, 13, 4), (3, 13, 4), (3, 4)]))

    def last(a, b, h0):
        return jnp.sum(linear_scan(a, b, h0, segment_ids=jnp.asarray(IDS))[:, -1])

    a_grad, b_grad, h0_grad = jax.jit(jax.grad(last, (0, 1, 2)))(a, b, h0)
    assert not np.any(np.asarray(b_grad)[IDS == 0])
    assert not np.any(np.asarray(a_grad)[IDS == 0])
    assert np.all(np.asarray(b_grad)[0, 10:])
    assert not np.any(np.asarray(b_grad)[0, :10])
    assert not np.any(np.asarray(h0_grad)[:2])
    assert np.all(np.asarray(h0_grad)[2] == 1)


def test_second_derivative():
    a, b, h0 = (draw(s, i) for i, s in enumerate([(1, 5, 2), (1, 5, 2), (1, 2)]))

    def slope(f, a):
        return jnp.sum(jax.grad(lambda b: jnp.sum(f(a, b, h0) ** 3))(b) ** 2)

    with x64():
        actual, desired = (
            jax.jit(jax.grad(functools.partial(slope, f)))(a) for f in (linear_scan, loop)
        )
    assert_close(actual, desired, ratio=1e-12)


def test_vmap_under_jit_equals_separate_calls(form):
    a, b, h0 = (draw(s, i, dtype=np.float32) for i, s in enumerate([(5, 3), (5, 2, 7, 3), (2, 3)]))

    def gradient(a, b):
        return jax.grad(lambda a, b: jnp.sum(linear_scan(a, b, h0) ** 2), (0, 1))(a, b)

    together = jax.jit(jax.vmap(gradient))(a, b)
    separate = [jax.jit(gradient)(x, y) for x, y in zip(a, b, strict=True)]
    assert_trees_close(together, jax.tree.map(lambda *x: jnp.stack(x), *separate), ratio=1e-5)


def test_states_are_float32_under_bfloat16():
    b = jnp.ones((1, 4, 2), jnp.bfloat16)
    assert linear_scan(b, b).dtype == jnp.float32
    assert linear_scan(b, b, jnp.zeros((1, 2), jnp.complex64)).dtype == jnp.complex64


def test_memory_is_linear_and_keeps_only_h():
    def peak(length):
        b = jax.ShapeDtypeStruct((1, length, 8), jnp.float32)
        compiled = jax.jit(jax.grad(lambda a, b: jnp.sum(linear_scan(a, b) ** 2), (0, 1)))
        return compiled.lower(b, b).compile().memory_analysis().temp_size_in_bytes / length

    assert peak(8192) <= 1.1 * peak(2048)
    assert peak(8192) <= 3 * 8 * 4  # h, its cotangent and one copy


@pytest.mark.parametrize(
    ("a", "h0", "message"),
    [((3, 5), None, "a must broadcast"), ((2, 4, 3), (3, 3), "h0 must broadcast")],
)
def test_bad_shapes_are_named(a, h0, message):
    h0 = None if h0 is None else jnp.zeros(h0)
    with pytest.raises(ValueError, match=message):
        linear_scan(jnp.zeros(a), jnp.zeros((2, 4, 3)), h0)


def test_table_names_forms_that_exist():
    assert set(forms.TABLE["linear_scan"].values()) <= set(FORMS)
    assert forms.chosen("linear_scan", "cpu") == "sequential"
    with pytest.raises(ValueError, match="no platform 'abacus'"):
        forms.chosen("linear_scan", "abacus")
    with pytest.raises(ValueError, match="no op 'sort'"):
        forms.chosen("sort", "cpu")


def test_the_form_is_chosen_when_lowering_not_by_the_host():
    b = jax.ShapeDtypeStruct((2, 64, 4), jnp.float32)
    lower = jax.jit(linear_scan).trace(b, b).lower
    assert "while" in lower(lowering_platforms=("cpu",)).as_text()
    assert "while" not in lower(lowering_platforms=("tpu",)).as_text()


def test_hgrn_equals_the_reference_implementation():
    theirs = golden("linear_rnn/hgrn")

    def outputs(x, g, h0):
        h = linear_scan(jnp.exp(g), x, h0)
        return h, h[:, -1]

    def loss(x, g, h0):
        return jnp.sum(outputs(x, g, h0)[0] * theirs["cotangent"])

    with x64():
        inputs = tuple(jnp.asarray(theirs[n]) for n in ("x", "g", "initial_state"))
        actual = (*outputs(*inputs), *jax.jit(jax.grad(loss, (0, 1, 2)))(*inputs))
    names = ("o", "final_state", "grad_x", "grad_g", "grad_initial_state")
    for name, value in zip(names, actual, strict=True):
        assert_close(value, theirs[name], ratio=1e-9, what=name)
