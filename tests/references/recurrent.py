"""RNN, LSTM and GRU for one row, in float64, gate by gate as the papers write them.

x [L, D]; W, U and b are dictionaries by gate, W[gate] [D, H], U[gate] [P, H], b[gate] [H].
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn(x, W, U, b, h, f):
    hs = []
    for x_t in x:
        h = f(x_t @ W + h @ U + b)
        hs.append(h)
    return np.array(hs)


def gru_reset_before(x, W, U, b, h):
    """Cho et al. 2014, with z for their 1 - z as in torch."""
    hs = []
    for x_t in x:
        r = sigmoid(x_t @ W["r"] + h @ U["r"] + b["r"])
        z = sigmoid(x_t @ W["z"] + h @ U["z"] + b["z"])
        n = np.tanh(x_t @ W["n"] + (r * h) @ U["n"] + b["n"])
        h = (1 - z) * n + z * h
        hs.append(h)
    return np.array(hs)


def lstm(x, W, U, b, peephole, projection, h, c):
    """Gers et al. 2002 (peepholes) with the projection of Sak et al. 2014."""
    hs, cs = [], []
    for x_t in x:
        i = sigmoid(x_t @ W["i"] + h @ U["i"] + b["i"] + peephole["i"] * c)
        f = sigmoid(x_t @ W["f"] + h @ U["f"] + b["f"] + peephole["f"] * c)
        c = f * c + i * np.tanh(x_t @ W["g"] + h @ U["g"] + b["g"])
        o = sigmoid(x_t @ W["o"] + h @ U["o"] + b["o"] + peephole["o"] * c)
        h = (o * np.tanh(c)) @ projection
        hs.append(h)
        cs.append(c)
    return np.array(hs), np.array(cs)
