"""Depthwise causal convolution token by token, in float64."""

import numpy as np


def short_conv(x, kernel, window, ids):
    """Keeps the last W-1 real inputs of the current segment in a list; returns (y, window)."""
    x, kernel, window = (np.asarray(a, np.float64) for a in (x, kernel, window))
    width = kernel.shape[0]
    y, last = np.zeros_like(x), np.zeros_like(window)
    for b in range(x.shape[0]):
        kept, current = list(window[b]), None
        for t in range(x.shape[1]):
            if ids[b][t] == 0:
                continue
            if current is not None and ids[b][t] != current:
                kept = [np.zeros(x.shape[2])] * (width - 1)
            current = ids[b][t]
            kept = [*kept, x[b, t]]
            y[b, t] = sum(kernel[i] * kept[i] for i in range(width))
            kept = kept[1:]
        last[b] = np.asarray(kept).reshape(width - 1, -1)
    return y, last
