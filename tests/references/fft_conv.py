"""Convolution within segments, pair by pair, and its gradients, in float64."""

import numpy as np


def fft_conv(u, kernel, cotangent, *, reverse_kernel=None, tags=None):
    """Returns y and the gradients of sum(y * cotangent) for u, kernel and reverse_kernel.

    `tags` number segments from 1, 0 at padding; offsets count real tokens.
    """
    u, kernel, cotangent = (np.asarray(a, np.float64) for a in (u, kernel, cotangent))
    reverse = np.zeros((0, u.shape[2])) if reverse_kernel is None else np.asarray(reverse_kernel)
    tags = np.ones(u.shape[:2], int) if tags is None else tags
    y, du, dkernel, dreverse = (np.zeros(a.shape) for a in (u, u, kernel, reverse))
    for b in range(u.shape[0]):
        for tag in np.unique(tags[b][tags[b] > 0]):
            (at,) = np.nonzero(tags[b] == tag)
            for i, t in enumerate(at):
                for j, s in enumerate(at):
                    offset = i - j if s <= t else j - i - 1
                    tap, dtap = (kernel, dkernel) if s <= t else (reverse, dreverse)
                    if offset >= len(tap):
                        continue
                    y[b, t] += tap[offset] * u[b, s]
                    du[b, s] += tap[offset] * cotangent[b, t]
                    dtap[offset] += u[b, s] * cotangent[b, t]
    return y, (du, dkernel, dreverse)
