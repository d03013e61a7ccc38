"""T5 in loops over heads, float64, from its paper (Raffel et al. 2020) and the tensors' names.

No scaling of scores; a bias for the bucket of each distance, of the first layer for all; RMS norms
in front; the published file's names are those of the transformers library.
"""

import math

import numpy as np


def logits(tensors, config, inputs, tokens):
    """[B, T, V] of rows without padding."""
    w = {name: np.asarray(array, np.float64) for name, array in tensors.items()}
    return np.stack([_row(w, config, x, y) for x, y in zip(inputs, tokens, strict=True)])


def _row(w, config, inputs, tokens):
    embed = w["shared.weight"]
    read = _stack(w, config, "encoder", embed[inputs], None)
    h = _stack(w, config, "decoder", embed[tokens], read)
    if "lm_head.weight" in w:
        return h @ w["lm_head.weight"].T
    return (h * config["d_model"] ** -0.5) @ embed.T


def _stack(w, config, name, x, context):
    eps, causal = config["layer_norm_epsilon"], context is not None
    table = w[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    bias = np.array([[table[_bucket(s - t, config, causal)] for s in range(len(x))]
                     for t in range(len(x))])  # fmt: skip
    if causal:
        bias = np.where(np.tri(len(x), dtype=bool)[..., None], bias, -np.inf)
    depth = config["num_decoder_layers" if causal else "num_layers"]
    for i in range(depth):
        at = f"{name}.block.{i}.layer"
        h = _norm(x, w[f"{at}.0.layer_norm.weight"], eps)
        x = x + _attend(w, f"{at}.0.SelfAttention", config, h, h, bias)
        if causal:
            h = _norm(x, w[f"{at}.1.layer_norm.weight"], eps)
            x = x + _attend(w, f"{at}.1.EncDecAttention", config, h, context, 0.0)
        last = f"{at}.{1 + causal}"
        h, ff = _norm(x, w[f"{last}.layer_norm.weight"], eps), f"{last}.DenseReluDense"
        if f"{ff}.wi.weight" in w:
            h = np.maximum(h @ w[f"{ff}.wi.weight"].T, 0)
        else:
            g = h @ w[f"{ff}.wi_0.weight"].T
            gelu = 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
            h = gelu * (h @ w[f"{ff}.wi_1.weight"].T)
        x = x + h @ w[f"{ff}.wo.weight"].T
    return _norm(x, w[f"{name}.final_layer_norm.weight"], eps)


def _attend(w, at, config, x, context, bias):
    width, out = config["d_kv"], 0.0
    for n in range(config["num_heads"]):
        own = slice(n * width, (n + 1) * width)
        q, k, v = (
            a @ w[f"{at}.{name}.weight"][own].T
            for name, a in (("q", x), ("k", context), ("v", context))
        )
        scores = q @ k.T + (bias[..., n] if np.ndim(bias) else bias)
        p = np.exp(scores - scores.max(1, keepdims=True))
        out = out + (p / p.sum(1, keepdims=True)) @ v @ w[f"{at}.o.weight"][:, own].T
    return out


def _bucket(ahead, config, causal):
    """Half of the buckets for single distances, the rest in steps of a logarithm."""
    count, most = (
        config["relative_attention_num_buckets"],
        config["relative_attention_max_distance"],
    )
    first = 0
    if not causal:
        count //= 2
        first = count if ahead > 0 else 0
    distance = max(-ahead, 0) if causal else abs(ahead)
    exact = count // 2
    if distance < exact:
        return first + distance
    step = math.log(distance / exact) / math.log(most / exact) * (count - exact)
    return first + min(exact + int(step), count - 1)


def _norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight
