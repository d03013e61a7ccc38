"""RNN, LSTM and GRU against torch: outputs, states, gradients, packed rows, both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real, segments
from seqzoo.models.recurrent.gru import GRU
from seqzoo.models.recurrent.lstm import LSTM, LSTMState
from seqzoo.models.recurrent.rnn import RNN
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64

CASES = (
    "RNN_tanh_2_1layer",
    "RNN_relu_3_2layer_bi",
    "LSTM_0_2layer_bi",
    "LSTM_4_1layer_proj",
    "GRU_1_2layer_bi",
)


def cell(case, width_in, hidden, proj):
    options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    if case.startswith("GRU"):
        made = GRU(width_in, d_hidden=hidden, **options)
    elif case.startswith("LSTM"):
        made = LSTM(width_in, d_hidden=hidden, d_proj=proj or None, **options)
    else:
        made = RNN(width_in, d_hidden=hidden, activation=case.split("_")[1], **options)
    made.out_proj = None  # torch returns the states
    return made


def with_weights(made, p, suffix):
    """The mixer with torch's weights; the two biases add up, but GRU's b_hn stays apart."""
    ih, hh = p[f"weight_ih_{suffix}"], p[f"weight_hh_{suffix}"]
    zero = jnp.zeros(len(ih))
    b_ih, b_hh = (p.get(f"bias_{i}_{suffix}", zero) for i in ("ih", "hh"))
    if isinstance(made, GRU):
        new = 2 * made.d_hidden
        made.hidden_bias[...], b_hh = b_hh[new:], b_hh.at[new:].set(0)
    made.in_proj.kernel[...], made.in_proj.bias[...] = ih.T, b_ih + b_hh
    made.hidden_kernel[...] = hh.T
    if f"weight_hr_{suffix}" in p:
        made.hidden_proj[...] = p[f"weight_hr_{suffix}"].T
    return made


def direction(made, x, initial, layout, backwards):
    """One torch direction: outputs and (h_n,) or (h_n, c_n)."""
    lstm = isinstance(made, LSTM)
    if backwards:
        x, layout = x[:, ::-1], layout.flip()
    y, last = made._mix(x, LSTMState(*initial) if lstm else initial[0], Context(layout))
    return y[:, ::-1] if backwards else y, last if lstm else (last,)


def network(case, g, p, x, starts, ids=None):
    """The torch module of a golden file: y, then h_n and c_n stacked as torch does."""
    layout = all_real(x.shape[1]) if ids is None else segments(jnp.asarray(ids))
    ways = 2 if g["bidirectional"] else 1
    finals = []
    for layer in range(int(g["num_layers"])):
        outs = []
        for way in range(ways):
            made = cell(case, x.shape[-1], int(g["hidden_size"]), int(g["proj_size"]))
            made = with_weights(made, p, f"l{layer}" + "_reverse" * way)
            initial = [start[layer * ways + way] for start in starts]
            y, last = direction(made, x, initial, layout, bool(way))
            outs.append(y)
            finals.append(last)
        x = jnp.concatenate(outs, -1)
    return x, [jnp.stack(f) for f in zip(*finals, strict=True)]


def load(case):
    g = golden(f"torch_rnn/{case}")
    p = {k.removeprefix("param_"): jnp.asarray(v) for k, v in g.items() if k.startswith("param_")}
    starts = [jnp.asarray(g[k]) for k in ("h0", "c0") if k in g]
    return g, p, jnp.asarray(g["x"]), starts


@pytest.mark.parametrize("case", CASES)
def test_outputs_states_and_gradients(case):
    with x64():
        g, p, x, starts = load(case)

        def run(p, x):
            return network(case, g, p, x, starts)

        cotangent = (g["cotangent"], [np.zeros_like(s) for s in starts])
        (y, finals), (grads, dx) = value_and_pullback(run, cotangent, p, x)
    assert_close(y, g["y"], ratio=1e-9)
    for final, name in zip(finals, ("h_n", "c_n"), strict=False):
        assert_close(final, g[name], ratio=1e-9, what=name)
    assert_close(dx, g["grad_x"], ratio=1e-9, what="gradient of x")
    for name, grad in grads.items():
        assert_close(grad, g[f"grad_{name}"], ratio=1e-9, what=name)


@pytest.mark.parametrize("case", CASES)
def test_packed_rows_and_zero_states(case):
    with x64():
        g, p, x, starts = load(case)
        ids = np.arange(x.shape[1]) < g["lengths"][:, None]

        @jax.jit
        def run(p, x):
            zeros = [jnp.zeros_like(s) for s in starts]
            return network(case, g, p, x, starts, ids.astype(int)), network(case, g, p, x, zeros)

        garbage = jnp.where(ids[..., None], x, 1e3)
        (y, finals), _ = run(p, garbage)
        y_zero, _ = run(p, x)[1]
    assert_close(np.where(ids[..., None], y, 0), g["y_packed"], ratio=1e-9)
    for final, name in zip(finals, ("h_n_packed", "c_n_packed"), strict=False):
        assert_close(final, g[name], ratio=1e-9, what=name)
    assert_close(y_zero, g["y_zero_init"], ratio=1e-9)
