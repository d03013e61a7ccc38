"""h_t = a_t h_{t-1} + b_t in float64, one row and one step at a time."""

import numpy as np


def linear_scan(a, b, h0=None, *, reverse=False, segment_ids=None):
    """See seqzoo.models.ops.scan.linear; padding keeps the state, a new segment starts from 0."""
    dtype = np.result_type(a, b, np.float64)
    a = np.broadcast_to(a, b.shape)
    batch, length = b.shape[:2]
    h = np.zeros(b.shape, dtype)
    for row in range(batch):
        state = np.zeros(b.shape[2:], dtype) if h0 is None else np.array(h0[row], dtype)
        last = None
        for t in reversed(range(length)) if reverse else range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one != 0:
                if last is not None and one != last:
                    state = np.zeros_like(state)
                last = one
                state = a[row, t] * state + b[row, t]
            h[row, t] = state
    return h
