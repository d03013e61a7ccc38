"""minGRU, minLSTM, HGRN, IndRNN, QRNN and SRU in float64, one step at a time, from their papers."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def steps(cell, inputs, h0):
    """All states of h = cell(h, *step) for inputs [B, L, ...]."""
    h, states = h0, []
    for t in range(inputs[0].shape[1]):
        h = cell(h, *(x[:, t] for x in inputs))
        states.append(h)
    return np.stack(states, 1)


def min_gru(gate, candidate, h0):
    def cell(h, k, g):
        z = sigmoid(k)
        return (1 - z) * h + z * g

    return steps(cell, (gate, candidate), h0)


def min_lstm(forget, input, candidate, h0):
    def cell(h, f, i, g):
        f, i = sigmoid(f), sigmoid(i)
        return f / (f + i) * h + i / (f + i) * g

    return steps(cell, (forget, input, candidate), h0)


def min_gru_in_logarithms(gate, candidate, h0):
    """The paper's parallel form, by a cumulative log-sum-exp (appendix B); all positive."""
    log_keep, log_new = -np.logaddexp(0, gate), -np.logaddexp(0, -gate) + np.log(candidate)
    a = np.concatenate([np.zeros_like(gate[:, :1]), np.cumsum(log_keep, 1)], 1)
    values = np.concatenate([np.log(h0)[:, None], log_new], 1)
    return np.exp(a + np.logaddexp.accumulate(values - a, axis=1))[:, 1:]


def hgrn(forget, candidate, h0, lower_bound):
    def cell(h, f, c):
        f = lower_bound + (1 - lower_bound) * sigmoid(f)
        return f * h + (1 - f) * c * sigmoid(c)

    return steps(cell, (forget, candidate), h0)


def ind_rnn(x, decay, h0, f):
    return steps(lambda h, x: f(x + decay * h), (x,), h0)


def sru(x, v, c0):
    """Outputs and last c; x holds the four inputs of a step."""
    c, ys = c0, []
    for t in range(x.shape[1]):
        value, forget, reset, highway = np.split(x[:, t], 4, axis=-1)
        f, r = sigmoid(forget + v[0] * c), sigmoid(reset + v[1] * c)
        c = f * c + (1 - f) * value
        ys.append(r * c + (1 - r) * highway)
    return np.stack(ys, 1), c


def qrnn(x, kernel, bias, width):
    """Outputs and last c of fo-pooling from zeros; kernel [width D, 3 H], oldest step first."""
    batch, length, _ = x.shape
    padded = np.pad(x, ((0, 0), (width - 1, 0), (0, 0)))
    c, ys = np.zeros((batch, kernel.shape[1] // 3)), []
    for t in range(length):
        seen = padded[:, t : t + width].reshape(batch, -1)
        z, f, o = np.split(seen @ kernel + bias, 3, axis=-1)
        c = sigmoid(f) * c + (1 - sigmoid(f)) * np.tanh(z)
        ys.append(sigmoid(o) * c)
    return np.stack(ys, 1), c
