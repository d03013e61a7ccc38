"""Algorithm 2 of arXiv:2312.00752 in float64, one row and one step at a time."""

import numpy as np


def selective_scan(u, dt, A, B, C, D=None, h0=None, segment_ids=None):
    """See seqzoo.models.ops.scan.selective; padding keeps the state, a new segment forgets it."""
    batch, length, width = u.shape
    y = np.zeros(u.shape)
    last_h = np.zeros((batch, width, A.shape[1]))
    for row in range(batch):
        h = np.zeros(A.shape) if h0 is None else np.array(h0[row])
        last = None
        for t in range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one == 0:
                continue
            if last is not None and one != last:
                h = np.zeros(A.shape)
            last = one
            h = np.exp(dt[row, t][:, None] * A) * h + (dt[row, t] * u[row, t])[:, None] * B[row, t]
            y[row, t] = h @ C[row, t]
            if D is not None:
                y[row, t] += D * u[row, t]
        last_h[row] = h
    return y, last_h
