"""S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ in float64, one row and one step at a time."""

import numpy as np


def gated_linear_attention(
    q,
    k,
    v,
    log_decay=None,
    s0=None,
    *,
    scale=1.0,
    segment_ids=None,
    read_before=False,
    bonus=None,
):
    """See seqzoo.models.ops.matrix.gated_linear."""
    batch, length, heads, keys = q.shape
    decay = np.exp(np.broadcast_to(0.0 if log_decay is None else log_decay, q.shape))
    o = np.zeros((batch, length, heads, v.shape[-1]))
    states = np.zeros((batch, heads, keys, v.shape[-1])) if s0 is None else np.array(s0)
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
                before = states[row, h].copy()
                update = np.outer(k[row, t, h], v[row, t, h])
                states[row, h] = decay[row, t, h][:, None] * before + update
                read = states[row, h]
                if read_before:
                    read = before + (0 if bonus is None else bonus[h][:, None] * update)
                o[row, t, h] = scale * q[row, t, h] @ read
    return o, states
