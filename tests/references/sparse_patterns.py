"""Which keys sparse patterns let a query see, from their papers, and attention with such a mask."""

import numpy as np


def distances(length):
    t = np.arange(length)
    return t[:, None] - t


def local(length, size, back, causal):
    block = np.arange(length) // size
    away = block[:, None] - block
    seen = (np.abs(away) <= back) if not causal else (away >= 0) & (away <= back)
    return seen & (distances(length) >= 0) if causal else seen


def strided(length, stride, causal):
    far = distances(length)
    seen = (np.abs(far) <= stride) | (far % stride == 0)
    return seen & (far >= 0) if causal else seen


def fixed(length, stride, summary, causal):
    t = np.arange(length)
    seen = t[:, None] // stride == t // stride
    seen = seen | (t % stride >= stride - summary)
    return seen & (distances(length) >= 0) if causal else seen


def window(length, size, positions, causal):
    far = distances(length)
    seen = np.abs(far) < size
    seen[:, [p for p in positions if p < length]] = True
    if causal:
        return seen & (far >= 0)
    seen[[p for p in positions if p < length]] = True
    return seen


def attention(q, k, v, seen):
    """q, k, v [L, H, K]; seen [L, L]."""
    s = np.einsum("lhk,shk->hls", q, k) * q.shape[-1] ** -0.5
    s = np.where(seen, s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return np.einsum("hls,shv->lhv", p / p.sum(-1, keepdims=True), v)
