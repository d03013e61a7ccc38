"""RWKV-4's WKV in float64 as its definition says, without a stabiliser, one row at a time."""

import numpy as np


def wkv(k, v, log_decay, bonus, initial=None, *, segment_ids=None):
    """See seqzoo.models.ops.scan.wkv_recurrence; `initial` and the state hold the plain sums."""
    batch, length, channels = k.shape
    a, b = np.zeros((2, batch, channels)) if initial is None else np.array(initial, np.float64)
    o = np.zeros(k.shape)
    for row in range(batch):
        last = None
        for t in range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one == 0:
                continue
            if last is not None and one != last:
                a[row] = b[row] = 0
            last = one
            own = np.exp(bonus + k[row, t])
            o[row, t] = (a[row] + own * v[row, t]) / (b[row] + own)
            a[row] = np.exp(log_decay) * a[row] + np.exp(k[row, t]) * v[row, t]
            b[row] = np.exp(log_decay) * b[row] + np.exp(k[row, t])
    return o, (a, b)
