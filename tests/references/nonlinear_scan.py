"""h_t = cell(h_{t-1}, x_t) in float64, one row and one step at a time, for a state of one array."""

import numpy as np


def nonlinear_scan(cell, x, h0, *, reverse=False, segment_ids=None):
    """`cell` maps NumPy arrays [D'], [D] to [D']; padding keeps the state, segments begin at 0."""
    batch, length = x.shape[:2]
    h = np.zeros((batch, length, *h0.shape[1:]))
    last_state = np.array(h0, np.float64)
    for row in range(batch):
        last = None
        for t in reversed(range(length)) if reverse else range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one != 0:
                fresh = last is not None and one != last
                state = np.zeros_like(last_state[row]) if fresh else last_state[row]
                last, last_state[row] = one, cell(state, x[row, t])
            h[row, t] = last_state[row]
    return h, last_state
