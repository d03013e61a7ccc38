"""minGRU, minLSTM, HGRN, IndRNN, QRNN and SRU against loops written from their papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.param_groups import param_groups
from seqzoo.models.recurrent.elementwise import QRNN, SRU, IndRNN, ind_rnn, sru
from seqzoo.models.recurrent.hgrn import HGRN, hgrn
from seqzoo.models.recurrent.min_rnn import MinGRU, MinLSTM, min_gru, min_lstm, positive_part
from tests.helpers import assert_close, x64
from tests.references import gated_rnn as reference

B, H = 2, 4
WIDE = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def draw(count, length, scale=2.0, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(count, B, length, H)), rng.normal(size=(B, H))


@pytest.mark.parametrize("length", [1, 29])
@pytest.mark.parametrize(
    ("ours", "theirs", "count"),
    [
        (min_gru, reference.min_gru, 2),
        (min_lstm, reference.min_lstm, 3),
        (
            functools.partial(hgrn, lower_bound=0.3),
            functools.partial(reference.hgrn, lower_bound=0.3),
            2,
        ),
    ],
    ids=["min_gru", "min_lstm", "hgrn"],
)
def test_gated_recurrences_equal_the_loop(ours, theirs, count, length):
    inputs, h0 = draw(count, length)
    with x64():
        h = jax.jit(ours)(*map(jnp.asarray, inputs), jnp.asarray(h0))
    assert_close(h, theirs(*inputs, h0), ratio=1e-12)


def test_the_form_in_logarithms_is_the_same():
    (gate, candidate), h0 = draw(2, 40)
    with x64():
        candidate = np.asarray(positive_part(jnp.asarray(candidate)))
        h = min_gru(jnp.asarray(gate), jnp.asarray(candidate), jnp.asarray(np.abs(h0)))
    expected = reference.min_gru_in_logarithms(gate, candidate, np.abs(h0))
    assert_close(h, expected, ratio=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_extreme_gates_are_finite(scale):
    inputs, _ = draw(3, 64, scale)
    inputs = [jnp.asarray(a, jnp.float32) for a in inputs]

    def loss(inputs):
        gru, lstm = min_gru(*inputs[:2]), min_lstm(*inputs)
        return sum(jnp.sum(h**2) for h in (gru, lstm, hgrn(*inputs[:2])))

    value, grads = jax.jit(jax.value_and_grad(loss))(inputs)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_extreme_gates_of_min_lstm_keep_their_ratio():
    """Both gates underflow in float32, their ratio does not."""
    forget, input = jnp.full((1, 3, 1), -200.0), jnp.full((1, 3, 1), -200.0)
    h = min_lstm(forget, input, jnp.ones((1, 3, 1)))
    np.testing.assert_allclose(h[0, :, 0], [0.5, 0.75, 0.875], rtol=1e-6)


def test_ind_rnn_equals_the_loop():
    (x,), h0 = draw(1, 29)
    decay = np.random.default_rng(1).uniform(-1, 1, H)
    with x64():
        h, last = ind_rnn(jnp.asarray(x), jnp.asarray(decay), jnp.asarray(h0), activation="tanh")
    expected = reference.ind_rnn(x, decay, h0, np.tanh)
    assert_close(h, expected, ratio=1e-12)
    assert_close(last, expected[:, -1], ratio=1e-12)


def test_sru_equals_the_loop():
    parts, c0 = draw(4, 29)
    x = np.concatenate(list(parts), axis=-1)
    v = np.random.default_rng(1).normal(size=(2, H))
    with x64():
        h, c = sru(jnp.asarray(x), jnp.asarray(v), jnp.asarray(c0))
    expected, last = reference.sru(x, v, c0)
    assert_close(h, expected, ratio=1e-12)
    assert_close(c, last, ratio=1e-12)


@pytest.mark.parametrize("width", [1, 3])
def test_qrnn_equals_the_loop(width):
    (x,), _ = draw(1, 9)
    with x64():
        mixer = QRNN(H, width=width, **WIDE, rngs=nnx.Rngs(0))
        kernel, bias = mixer.in_proj.kernel[...], mixer.in_proj.bias[...] + 0.3
        mixer.in_proj.bias[...] = bias
        y, state = mixer._mix(jnp.asarray(x), None, Context(all_real(9)))
    expected, last = reference.qrnn(x, np.asarray(kernel), np.asarray(bias), width)
    assert_close(y, expected, ratio=1e-12)
    assert_close(state.c, last, ratio=1e-12)


def test_sru_s_highway_is_sqrt_3():
    with x64():
        mixer = SRU(H, **WIDE, rngs=nnx.Rngs(0))
        mixer.in_proj.kernel[...] = jnp.zeros((H, H))
        mixer.gate_proj.kernel[...] = jnp.zeros((H, 2 * H))
        x = jnp.asarray(draw(1, 5)[0][0])
        y = mixer(x)
    assert_close(y, np.sqrt(3) / 2 * np.asarray(x), ratio=1e-12)


def test_recurrent_weights_are_not_decayed():
    for mixer, name, group in (
        (IndRNN(H, rngs=nnx.Rngs(0)), "decay", "dynamics"),
        (SRU(H, rngs=nnx.Rngs(0)), "hidden_scale", "no_decay"),
    ):
        assert param_groups(mixer)[name] == group


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (MinGRU, {"d_hidden": 0}, "d_hidden"),
        (MinLSTM, {"d_hidden": 0}, "d_hidden"),
        (HGRN, {"lower_bound": 1.0}, "lower_bound"),
        (IndRNN, {"activation": "elu"}, "activation"),
        (QRNN, {"width": 0}, "width"),
    ],
)
def test_errors(module, options, message):
    with pytest.raises(ValueError, match=message):
        module(H, **options, rngs=nnx.Rngs(0))


def test_indrnn_acts_within_its_bound_and_comes_back():
    """2,048 tokens make at most 2 of a state, whatever the weight; its gradient is not lost."""
    mixer = IndRNN(H, rngs=nnx.Rngs(0))
    mixer.in_proj.kernel[...] = 0 * mixer.in_proj.kernel[...]
    mixer.decay[...] = jnp.full(H, 1.5)
    state = mixer.init_state(1)
    state = state._replace(inner=jnp.ones_like(state.inner))
    run = nnx.jit(lambda mixer: mixer.extend(jnp.zeros((1, 2048, H)), state)[0][0, -1])
    np.testing.assert_allclose(run(mixer), 2, rtol=1e-3)
    assert np.all(np.asarray(nnx.grad(lambda mixer: run(mixer).sum())(mixer).decay[...]) > 0)
    free = IndRNN(H, length=0, rngs=nnx.Rngs(0))
    nnx.update(free, nnx.state(mixer))
    assert not np.any(np.isfinite(run(free)))
    with pytest.raises(ValueError, match="growth is a factor above 0"):
        IndRNN(H, growth=0.0, rngs=nnx.Rngs(0))
