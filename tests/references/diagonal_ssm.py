"""h_t = a h_{t-1} + b u_t, y_t = 2 Re(sum c h_t), in complex128, one token of one row at a time."""

import numpy as np


def diagonal_ssm(u, a, b, c, h0=None, *, segment_ids=None):
    """See seqzoo.models.ops.ssm.diagonal; outputs at padding are 0."""
    batch, length, width = u.shape
    y = np.zeros(u.shape)
    last = np.zeros((batch, width, 2 * a.shape[1]))
    for row in range(batch):
        h = np.zeros(a.shape, np.complex128)
        if h0 is not None:
            h = h0[row, :, : a.shape[1]] + 1j * h0[row, :, a.shape[1] :]
        previous = None
        for t in range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one == 0:
                continue
            if previous is not None and one != previous:
                h = np.zeros_like(h)
            previous = one
            h = a * h + b * u[row, t][:, None]
            y[row, t] = 2 * (c * h).sum(1).real
        last[row] = np.concatenate([h.real, h.imag], 1)
    return y, last
