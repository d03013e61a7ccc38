"""Equations 1 to 4 of arXiv:2402.19427 in float64, one row and one step at a time."""

import numpy as np


def rg_lru(x, input_gate, decay_gate, decay, position, h0=None):
    """States [B, L, W]; at position 0 the state is forgotten and the input enters whole."""
    h_all = np.zeros(x.shape)
    for row in range(len(x)):
        h = np.zeros(x.shape[2]) if h0 is None else np.array(h0[row])
        for t in range(x.shape[1]):
            a = np.exp(-8 * decay_gate[row, t] * np.log1p(np.exp(decay)))
            gated = input_gate[row, t] * x[row, t]
            h = gated if position[row, t] == 0 else a * h + np.sqrt(1 - a**2) * gated
            h_all[row, t] = h
    return h_all
