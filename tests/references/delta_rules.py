"""The delta rules in float64, one row, one head and one step at a time."""

import numpy as np


def _run(step, q, s0, segment_ids, scale, values):
    """`step(S, row, t, h)` gives S_t; padding keeps the state, a new segment begins at zero."""
    batch, length, heads, keys = q.shape
    o = np.zeros((batch, length, heads, values))
    states = np.zeros((batch, heads, keys, values)) if s0 is None else np.array(s0, np.float64)
    for row in range(batch):
        last = None
        for t in range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one == 0:
                continue
            if last is not None and one != last:
                states[row] = 0
            last = one
            for h in range(heads):
                states[row, h] = step(states[row, h], row, t, h)
                o[row, t, h] = scale * q[row, t, h] @ states[row, h]
    return o, states


def gated_delta_rule(
    q, k, v, beta, log_decay=None, s0=None, *, read=None, scale=1.0, segment_ids=None
):
    """See seqzoo.models.ops.matrix.delta_rules."""
    read = k if read is None else read
    decay = np.exp(np.broadcast_to(0.0 if log_decay is None else log_decay, q.shape))

    def step(S, row, t, h):
        S = decay[row, t, h][:, None] * S
        recalled = read[row, t, h] @ S
        return S + np.outer(k[row, t, h], beta[row, t, h] * (v[row, t, h] - recalled))

    return _run(step, q, s0, segment_ids, scale, v.shape[-1])


def dplr_delta_rule(q, k, v, a, b, log_decay=None, s0=None, *, scale=1.0, segment_ids=None):
    """See seqzoo.models.ops.matrix.delta_rules."""
    decay = np.exp(np.broadcast_to(0.0 if log_decay is None else log_decay, q.shape))

    def step(S, row, t, h):
        moved = np.outer(b[row, t, h], a[row, t, h] @ S)
        written = np.outer(k[row, t, h], v[row, t, h])
        return decay[row, t, h][:, None] * S + moved + written

    return _run(step, q, s0, segment_ids, scale, v.shape[-1])
