"""mLSTM and sLSTM in float64 as the paper defines them, without stabilisers."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mlstm(q, k, v, i, f, segment_ids):
    """C by rows and steps; q, k and v [B, L, H, *], gates [B, L, H]."""
    batch, length, heads, keys = q.shape
    h = np.zeros(v.shape)
    for row in range(batch):
        C, n, last = np.zeros((heads, keys, v.shape[-1])), np.zeros((heads, keys)), None
        for t in range(length):
            one = segment_ids[row, t]
            if one == 0:
                continue
            if last is not None and one != last:
                C[:], n[:] = 0, 0
            last = one
            for j in range(heads):
                key = k[row, t, j] / np.sqrt(keys) * np.exp(i[row, t, j])
                forget = sigmoid(f[row, t, j])
                C[j] = forget * C[j] + np.outer(key, v[row, t, j])
                n[j] = forget * n[j] + key
                h[row, t, j] = q[row, t, j] @ C[j] / max(abs(q[row, t, j] @ n[j]), 1)
    return h


def slstm(x, kernel, segment_ids):
    """x [B, L, 4, D] by gates i, f, z, o; kernel [H, E, 4, E]."""
    batch, length, _, width = x.shape
    heads = kernel.shape[0]
    out = np.zeros((batch, length, width))
    for row in range(batch):
        h, c, n = np.zeros((3, width))
        last = None
        for t in range(length):
            one = segment_ids[row, t]
            if one == 0:
                continue
            if last is not None and one != last:
                h, c, n = np.zeros((3, width))
            last = one
            back = np.einsum("hi,higo->gho", h.reshape(heads, -1), kernel).reshape(4, width)
            i, f, z, o = x[row, t] + back
            c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
            n = sigmoid(f) * n + np.exp(i)
            h = sigmoid(o) * c / n
            out[row, t] = h
    return out
