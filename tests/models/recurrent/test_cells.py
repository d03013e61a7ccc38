"""What torch has not: peepholes, GRU's reset before the product; options, defaults, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.param_groups import param_groups
from seqzoo.models.recurrent.gru import GRU
from seqzoo.models.recurrent.lstm import LSTM, LSTMState, LSTMWeights, lstm
from seqzoo.models.recurrent.rnn import RNN
from tests.helpers import assert_close, x64
from tests.references import recurrent as reference

D, H, P, L = 3, 5, 2, 9


def gates(matrix, names):
    return dict(zip(names, np.split(np.asarray(matrix), len(names), axis=-1), strict=True))


def moved(mixer):
    """Parameters away from zero, the projection back to d_model left out."""
    mixer.out_proj = None
    for key, param in enumerate(jax.tree.leaves(nnx.state(mixer), is_leaf=is_variable)):
        noise = jax.random.normal(jax.random.key(key), param.shape, param[...].dtype)
        param[...] = param[...] + 0.3 * noise
    return mixer


def is_variable(x):
    return isinstance(x, nnx.Variable)


def build(kind, **options):
    options |= {"dtype": jnp.float64, "param_dtype": jnp.float64}
    return moved(kind(D, d_hidden=H, **options, rngs=nnx.Rngs(0)))


def outputs(mixer):
    x = np.random.default_rng(0).normal(size=(L, D))
    y, state = nnx.jit(lambda m, x: m.extend(x, m.init_state(1)))(mixer, x[None])
    return x, y[0], jax.tree.map(lambda s: s[0], state.inner)


@pytest.mark.parametrize(("name", "f"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_rnn_equals_the_loop(name, f):
    with x64():
        mixer = build(RNN, activation=name)
        x, y, last = outputs(mixer)
    W, b, U = mixer.in_proj.kernel[...], mixer.in_proj.bias[...], mixer.hidden_kernel[...]
    expected = reference.rnn(x, *(np.asarray(p) for p in (W, U, b)), np.zeros(H), f)
    assert_close(y, expected, ratio=1e-12)
    assert_close(last, expected[-1], ratio=1e-12)


def test_gru_with_the_reset_before_the_product_equals_the_loop():
    with x64():
        mixer = build(GRU, reset_after=False)
        x, y, last = outputs(mixer)
    W, b, U = mixer.in_proj.kernel[...], mixer.in_proj.bias[...], mixer.hidden_kernel[...]
    expected = reference.gru_reset_before(x, *(gates(p, "rzn") for p in (W, U, b)), np.zeros(H))
    assert_close(y, expected, ratio=1e-12)
    assert_close(last, expected[-1], ratio=1e-12)


@pytest.mark.parametrize("projected", [False, True])
def test_lstm_with_peepholes_equals_the_loop(projected):
    with x64():
        mixer = build(LSTM, peephole=True, d_proj=P if projected else None)
        x, y, last = outputs(mixer)
    W, b, U = mixer.in_proj.kernel[...], mixer.in_proj.bias[...], mixer.hidden_kernel[...]
    peephole = dict(zip("ifo", np.asarray(mixer.hidden_scale[...]), strict=True))
    projection = np.asarray(mixer.hidden_proj[...]) if projected else np.eye(H)
    weights = [gates(p, "ifgo") for p in (W, U, b)]
    start = np.zeros(P if projected else H), np.zeros(H)
    h, c = reference.lstm(x, *weights, peephole, projection, *start)
    assert_close(y, h, ratio=1e-12)
    assert_close(last.h, h[-1], ratio=1e-12)
    assert_close(last.c, c[-1], ratio=1e-12)


def test_initial_values():
    lstm = LSTM(D, forget_bias=2.0, rngs=nnx.Rngs(0))
    bias = gates(lstm.in_proj.bias[...], "ifgo")
    assert np.all(bias["f"] == 2)
    assert np.all(bias["i"] == 0)
    kernel = np.asarray(GRU(H, rngs=nnx.Rngs(0)).hidden_kernel[...])
    for U in gates(kernel, "rzn").values():
        assert_close(U @ U.T, np.eye(H), ratio=1e-6)
    assert np.all(RNN(D, activation="relu", rngs=nnx.Rngs(0)).hidden_kernel[...] == np.eye(D))


def test_state_sizes_and_the_way_out():
    """States are the outputs where widths agree, else they are projected."""
    assert LSTM(D, d_hidden=H, d_proj=P, rngs=nnx.Rngs(0)).state_size() == H + P
    assert LSTM(D, d_hidden=H, d_proj=D, rngs=nnx.Rngs(0)).out_proj is None
    assert GRU(D, rngs=nnx.Rngs(0)).out_proj is None
    assert RNN(D, d_hidden=H, rngs=nnx.Rngs(0)).out_proj.kernel.shape == (H, D)


def test_biases_are_not_decayed():
    groups = param_groups(GRU(D, rngs=nnx.Rngs(0)))
    assert groups.hidden_bias == "no_decay"
    assert groups.in_proj.bias == "no_decay"
    assert groups.hidden_kernel == "default"


def test_errors_name_the_rule():
    rngs = nnx.Rngs(0)
    with pytest.raises(ValueError, match="known: tanh, relu"):
        RNN(D, activation="gelu", rngs=rngs)
    with pytest.raises(ValueError, match="d_hidden must be at least 1"):
        GRU(D, d_hidden=0, rngs=rngs)
    with pytest.raises(ValueError, match="d_hidden - 1 = 2; got d_proj=3"):
        LSTM(D, d_proj=3, rngs=rngs)


@pytest.mark.parametrize("size", [1e-6, 1e-3, 0.1, 0.24, 0.26, 2.0])
def test_the_candidate_has_its_digits_near_0(size):
    """c = i tanh(g) of one step: the relative error is float32's, however small g is."""
    g = (size * np.linspace(0.5, 1, 7)).astype(np.float32)
    z = np.concatenate([np.full(7, 3.0), np.zeros(7), g, np.zeros(7)]).astype(np.float32)
    start = LSTMState(jnp.zeros((1, 7)), jnp.zeros((1, 7)))
    _, last = lstm(jnp.asarray(z)[None, None], LSTMWeights(jnp.zeros((7, 28))), start)
    expected = np.tanh(g.astype(np.float64)) / (1 + np.exp(-3.0))
    assert np.max(np.abs(last.c[0] / expected - 1)) < 4e-7
