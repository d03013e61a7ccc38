"""H3, Hyena and Mega as loops over single rows, from the papers; p maps paths to parameters."""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def linear(p, name, x):
    y = x @ p[f"{name}/kernel"]
    return y + p[f"{name}/bias"] if f"{name}/bias" in p else y


def filtered(taps, x):
    """y_t = Σ_j taps[W-1-j] x_{t-j}."""
    width = len(taps)
    return np.stack(
        [
            sum(taps[width - 1 - j] * x[t - j] for j in range(min(width, t + 1)))
            for t in range(len(x))
        ]
    )


def h3(p, x, d_head):
    q, k, v = (linear(p, f"{n}_proj", x) for n in "qkv")
    k = filtered(p["conv/kernel"], k)
    a = -np.exp(p["ssm/log_A_real"]) + 1j * p["ssm/A_imag"]
    step = np.exp(p["ssm/log_dt"])[:, None]
    decay, c = np.exp(step * a), p["ssm/C_re"] + 1j * p["ssm/C_im"]
    gather = (decay - 1) / a
    y = np.zeros_like(x)
    for head in range(len(a)):
        own = slice(head * d_head, (head + 1) * d_head)
        state = np.zeros((d_head, d_head, a.shape[1]), complex)
        for t in range(len(x)):
            u = np.outer(k[t, own], v[t, own])
            state = decay[head] * state + gather[head] * u[..., None]
            y[t, own] = q[t, own] @ (2 * (state @ c[head]).real + p["ssm/D"][head] * u)
    return linear(p, "out_proj", y)


def hyena(p, x, order, length):
    mixed = filtered(p["conv/kernel"], linear(p, "in_proj", x)) + p["conv/bias"]
    *gates, v = np.split(mixed, order + 1, axis=1)
    width = x.shape[1]
    taps = []
    for i in range(len(x)):
        h = np.array([i / (length - 1), *np.exp(-2j * np.pi * 1e-4 * i / length)[None].view(float)])
        for layer in ("in_proj", "hidden1_proj", "hidden2_proj"):
            h = np.sin(p["filter/scale"] * linear(p, f"filter/{layer}", h))
        decay = np.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, width) * i / (length - 1)
        taps.append(linear(p, "filter/out_proj", h).reshape(order - 1, width) * np.exp(decay))
    for n, gate in enumerate(gates[:0:-1]):
        v = v * gate
        v = filtered(np.stack(taps)[::-1, n], v) + p["D"][n] * v
    return linear(p, "out_proj", gates[0] * v)


def average(p, way, x):
    alpha, delta = (sigmoid(p[f"average/decay_{n}"][way]) for n in ("alpha", "delta"))
    h, y = np.zeros_like(alpha), []
    for u in x:
        h = (1 - alpha * delta) * h + alpha * p["average/B_in"][way] * u[:, None]
        y.append((p["average/C_out"][way] * h).sum(1) / math.sqrt(h.shape[1]))
    return np.stack(y)


def turned(vector, t):
    half = len(vector) // 2
    z = (vector[:half] + 1j * vector[half:]) * np.exp(1j * t * 10000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def mega(p, x, *, causal, kind, block):
    length, width = x.shape
    m = average(p, 0, x) + p["average/D"] * x
    if not causal:
        m = m + average(p, 1, x[::-1])[::-1]
    m = silu(m)
    d_qk, d_value = p["scale"].shape[1], p["v_proj/kernel"].shape[1]
    update, z, reset, own = np.split(
        linear(p, "in_proj", m), np.cumsum([width, d_qk, d_value]), axis=1
    )
    q, k = (silu(z) * p["scale"][i] + p["bias"][i] for i in (0, 1))
    v, o = silu(linear(p, "v_proj", x)), np.zeros((length, d_value))
    for t in range(length):
        start = 0 if block is None else t // block * block
        end = t + 1 if causal else (length if block is None else min(start + block, length))
        n = end - start
        s = q[t] @ k[start:end].T / (n if kind == "laplace" else math.sqrt(d_qk))
        a, b = p["distance_scale"]
        s = s + [turned(a, t) @ turned(b, i) for i in range(start, end)]
        if kind == "softmax":
            w = np.exp(s) / np.exp(s).sum()
        else:
            w = np.array([(1 + math.erf((i - 0.5**0.5) * math.sqrt(2 * np.pi))) / 2 for i in s])
        o[t] = w @ v[start:end]
    own = silu(own + linear(p, "hidden_proj", silu(reset) * o))
    return sigmoid(update) * (own - x)
