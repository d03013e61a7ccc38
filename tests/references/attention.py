"""Softmax attention query by query, and its gradients, in float64."""

import numpy as np


def runs(ids):
    """Numbers segments from 1 in every row, 0 at padding: padding out, a run of one id is one."""
    tags = np.zeros_like(ids)
    for row, tag_row in zip(ids, tags, strict=True):
        current, count = None, 0
        for t, name in enumerate(row):
            if name == 0:
                continue
            count += name != current
            current = name
            tag_row[t] = count
    return tags


def attention(
    q, k, v, cotangent, *, bias=0.0, causal=False, window=None, scale=None,
    q_positions=None, k_positions=None, q_tags=None, k_tags=None,
):  # fmt: skip
    """Returns o and the gradients of sum(o * cotangent) for q, k, v and the full bias."""
    q, k, v, cotangent = (np.asarray(a, np.float64) for a in (q, k, v, cotangent))
    batch, length, heads, width = q.shape
    keys, shared = k.shape[1], heads // k.shape[2]
    scale = width**-0.5 if scale is None else scale
    bias = np.broadcast_to(bias, (batch, heads, length, keys))
    q_positions = np.broadcast_to(
        np.arange(length) if q_positions is None else q_positions, (batch, length)
    )
    k_positions = np.broadcast_to(
        np.arange(keys) if k_positions is None else k_positions, (batch, keys)
    )
    q_tags = np.ones((batch, length)) if q_tags is None else q_tags
    k_tags = np.ones((batch, keys)) if k_tags is None else k_tags
    o = np.zeros((batch, length, heads, v.shape[3]))
    dq, dk, dv, dbias = (np.zeros(a.shape) for a in (q, k, v, bias))
    for b in range(batch):
        for t in range(length):
            ahead = q_positions[b, t] - k_positions[b]
            seen = (k_tags[b] == q_tags[b, t]) & (k_tags[b] > 0)
            if causal:
                seen &= ahead >= 0
            if window is not None:
                seen &= (ahead < window) & (causal | (-ahead < window))
            (at,) = np.nonzero(seen)
            if not len(at):
                continue
            for h in range(heads):
                g = h // shared
                s = scale * k[b, at, g] @ q[b, t, h] + bias[b, h, t, at]
                p = np.exp(s - s.max())
                p /= p.sum()
                o[b, t, h] = p @ v[b, at, g]
                dp = v[b, at, g] @ cotangent[b, t, h]
                ds = p * (dp - p @ dp)
                dv[b, at, g] += np.outer(p, cotangent[b, t, h])
                dq[b, t, h] += scale * ds @ k[b, at, g]
                dk[b, at, g] += scale * np.outer(ds, q[b, t, h])
                dbias[b, h, t, at] += ds
    return o, (dq, dk, dv, dbias)
