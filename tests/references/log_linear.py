"""Log-linear attention in float64: the Fenwick tree of states, merged as section 3.2 says."""

import numpy as np


def log_linear(transition, write, q, levels, s0=None, *, scale=1.0, segment_ids=None):
    """Of one rule: `transition(S, row, t, h)` moves a state, `write(row, t, h)` is the new one.

    After n tokens bucket b is that of bit b of n. Level 0 is the token itself, the last level also
    holds all that is older. See seqzoo.models.ops.matrix.log_linear.
    """
    batch, length, heads, most = levels.shape
    shape = write(0, 0, 0).shape
    out = np.zeros((batch, length, heads, shape[1]))
    last = np.zeros((batch, heads, most - 1, *shape))
    for row in range(batch):
        counts, buckets = 0, [[None] * most for _ in range(heads)]
        if s0 is not None:
            counts, states = s0[0][row], s0[1][row]
            buckets = [[None, *states[h]] for h in range(heads)]
        now = None
        for t in range(length):
            one = 1 if segment_ids is None else segment_ids[row, t]
            if one == 0:
                continue
            if now is not None and one != now:
                counts, buckets = 0, [[None] * most for _ in range(heads)]
            now = one
            for h in range(heads):
                level = buckets[h]
                moved = [None if s is None else transition(s, row, t, h) for s in level]
                if counts:
                    merge(moved, counts)
                moved[0] = write(row, t, h)
                for l, s in enumerate(moved):
                    if s is not None:
                        out[row, t, h] += scale * levels[row, t, h, l] * (q[row, t, h] @ s)
                buckets[h] = moved
            counts += 1
        for h in range(heads):
            merge(buckets[h], counts) if counts and now else None
            for b in range(most - 1):
                last[row, h, b] = 0 if buckets[h][b + 1] is None else buckets[h][b + 1]
    return out, last


def merge(levels, t):
    """Before the token t: everything up to the lowest set bit of t becomes one level."""
    lowest = (t & -t).bit_length() - 1
    into = min(lowest + 1, len(levels) - 1)
    parts = [s for s in levels[: into + 1] if s is not None]
    levels[: into + 1] = [None] * (into + 1)
    if parts:
        levels[into] = sum(parts)


def log_linear_attention(q, k, v, levels, log_decay, s0=None, **options):
    """See seqzoo.models.ops.matrix.log_linear."""
    decay = np.exp(np.broadcast_to(log_decay, (*v.shape[:3], q.shape[3])))
    q, k = (np.repeat(x, v.shape[2] // q.shape[2], axis=2) for x in (q, k))

    def transition(S, row, t, h):
        return decay[row, t, h][:, None] * S

    def write(row, t, h):
        return np.outer(k[row, t, h], v[row, t, h])

    return log_linear(transition, write, q, levels, s0, **options)


def log_linear_delta_rule(q, k, v, beta, levels, log_decay, s0=None, **options):
    """See seqzoo.models.ops.matrix.log_linear."""
    decay = np.exp(np.broadcast_to(log_decay, q.shape))

    def transition(S, row, t, h):
        S, key = decay[row, t, h][:, None] * S, k[row, t, h]
        return S - beta[row, t, h] * np.outer(key, key @ S)

    def write(row, t, h):
        return beta[row, t, h] * np.outer(k[row, t, h], v[row, t, h])

    return log_linear(transition, write, q, levels, s0, **options)
