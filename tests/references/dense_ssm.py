"""h_t = A h_{t-1} + b u_t, y_t = c . h_t, one token of one row at a time."""

import numpy as np


def dense_ssm(u, A, b, c, h0=None, *, segment_ids=None):
    """See seqzoo.models.ops.ssm.dense; outputs at padding are 0."""
    y, last = np.zeros(u.shape), np.zeros((u.shape[0], *b.shape))
    for row in range(u.shape[0]):
        h = np.zeros(b.shape) if h0 is None else np.array(h0[row])
        previous = None
        for t in range(u.shape[1]):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one == 0:
                continue
            if previous is not None and one != previous:
                h = np.zeros_like(h)
            previous = one
            h = np.einsum("HMN,HN->HM", A, h) + b * u[row, t][:, None]
            y[row, t] = (c * h).sum(1)
        last[row] = h
    return y, last
