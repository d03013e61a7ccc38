"""The LRU of Orvieto et al. 2023, one row and one token at a time, in complex128."""

import numpy as np


def lru(x, nu_log, theta_log, gamma_log, B, C, D, h=None):
    """x [L, D]; B [N, D] and C [D, N] complex; returns y [L, D] and all states [L, N]."""
    decay = np.exp(-np.exp(nu_log) + 1j * np.exp(theta_log))
    h = np.zeros(decay.shape, complex) if h is None else h
    ys, hs = [], []
    for x_t in x:
        h = decay * h + np.exp(gamma_log) * (B @ x_t)
        ys.append((C @ h).real + D * x_t)
        hs.append(h)
    return np.array(ys), np.array(hs)
