"""Attention to windows of pictures and to chosen blocks against loops over queries and keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import NSA, MoBA, Swin
from seqzoo.models.ops import rope
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs

D, HEADS, K = 8, 2, 4
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax_sum(scores, values):
    """Σ softmax(scores) values; 0 of none."""
    if not len(scores):
        return np.zeros(K)
    p = np.exp(scores - np.max(scores))
    return p / p.sum() @ np.stack(values)


def made(kind, ids, **options):
    """Outputs of a perturbed mixer, its parameters by path, and its projections of the input."""
    mixer = kind(D, num_heads=HEADS, **options, **F64, rngs=nnx.Rngs(0))
    nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.5))
    flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
    w = {"/".join(path): np.asarray(leaf[...]) for path, leaf in flat}
    x = normal(0, *ids.shape, D).astype(np.float64)
    y = np.asarray(jax.jit(mixer)(jnp.asarray(x), ids))

    def projected(name):
        z = x @ w[f"{name}_proj/kernel"] + w.get(f"{name}_proj/bias", 0)
        return z.reshape(*ids.shape, HEADS, K)

    return x, y, w, [projected(name) for name in "qkv"]


def turned(z, run):
    """RoPE of a segment's tokens."""
    return np.asarray(rope(jnp.asarray(z[None, run]), jnp.arange(len(run))))[0]


def moba(q, k, v, size, top):
    """One head of one segment, by equations 2 to 6."""
    out = []
    for t in range(len(q)):
        complete = range(t // size)
        affinity = {i: q[t] @ k[i * size : (i + 1) * size].mean(0) for i in complete}
        chosen = sorted(affinity, key=affinity.get)[::-1][:top]
        seen = [s for s in range(t + 1) if s // size in {*chosen, t // size}]
        out.append(softmax_sum([q[t] @ k[s] / K**0.5 for s in seen], [v[s] for s in seen]))
    return np.stack(out)


def nsa(q, k, v, shares, gates, size, top, window):
    """All heads [T, H, K] of one segment, by equations 5 to 12."""
    out = np.zeros_like(q)
    for t in range(len(q)):
        blocks = range(t // size)
        small = [
            [np.einsum("chk,ck->hk", a[i * size : (i + 1) * size], share) for i in blocks]
            for a, share in zip((k, v), shares, strict=True)
        ]
        weight = np.zeros(len(blocks))
        for h in range(HEADS):
            s = np.array([q[t, h] @ key[h] / K**0.5 for key in small[0]])
            if len(s):
                weight += np.exp(s - s.max()) / np.exp(s - s.max()).sum()
            out[t, h] += gates[t, 0, h] * softmax_sum(s, [value[h] for value in small[1]])
        chosen = sorted(blocks[1:], key=lambda i: weight[i])[::-1][:top]
        some = [s for s in range(t + 1) if s // size in {*chosen, 0, t // size}]
        near = range(max(0, t - window + 1), t + 1)
        for branch, seen in ((1, some), (2, near)):
            for h in range(HEADS):
                s = [q[t, h] @ k[s, h] / K**0.5 for s in seen]
                out[t, h] += gates[t, branch, h] * softmax_sum(s, [v[s, h] for s in seen])
    return out


@pytest.mark.parametrize("kind", [MoBA, NSA])
def test_chosen_blocks_equal_the_equations(kind):
    size, top, options = 2, 1, {"window": 3} if kind is NSA else {}
    with x64():
        options |= {"block_size": size, "top": top, "max_length": 16}
        x, y, w, (q, k, v) = made(kind, PACKED, **options)
        want = np.zeros_like(y)
        for row, run in ((b, run) for b, ids in enumerate(PACKED) for run in runs(ids)):
            qs, ks, vs = turned(q[row], run), turned(k[row], run), v[row, run]
            if kind is MoBA:
                heads = [moba(qs[:, h], ks[:, h], vs[:, h], size, top) for h in range(HEADS)]
                o = np.stack(heads, 1)
            else:
                gates = sigmoid(x[row, run] @ w["gate_proj/kernel"] + w["gate_proj/bias"])
                gates = gates.reshape(-1, 3, HEADS)
                o = nsa(qs, ks, vs, w["mix"], gates, size, top, options["window"])
            want[row, run] = o.reshape(len(run), D) @ w["out_proj/kernel"]
        real = PACKED > 0
        assert_close(y[real], want[real], ratio=1e-12)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_of_a_picture_equal_a_loop_over_pixels(shift):
    """A grid that no window divides, its last line short, with padding in the middle."""
    width, window, ids = 5, 3, np.ones((2, 24), int)
    ids[1, [0, 7, 8]] = 0
    with x64():
        _, y, w, (q, k, v) = made(Swin, ids, grid_width=width, window=window, shift=shift)
        want = np.zeros_like(y)
        for row in range(2):
            run = np.flatnonzero(ids[row])
            o, place = np.zeros((len(run), HEADS, K)), [divmod(i, width) for i in range(len(run))]
            for t, (y_t, x_t) in enumerate(place):
                seen = [
                    s
                    for s, (y_s, x_s) in enumerate(place)
                    if (y_s + shift) // window == (y_t + shift) // window
                    and (x_s + shift) // window == (x_t + shift) // window
                ]
                for h in range(HEADS):
                    scores = []
                    for s in seen:
                        down, right = y_t - place[s][0], x_t - place[s][1]
                        at = (down + window - 1) * (2 * window - 1) + right + window - 1
                        bias = w["position_embed"][at, h]
                        scores.append(q[row, run[t], h] @ k[row, run[s], h] / K**0.5 + bias)
                    o[t, h] = softmax_sum(scores, [v[row, run[s], h] for s in seen])
            made_of = o.reshape(len(run), D) @ w["out_proj/kernel"] + w["out_proj/bias"]
            want[row, run] = made_of
        assert_close(y[ids > 0], want[ids > 0], ratio=1e-12)


def test_layers_of_odd_number_shift():
    shifts = [Swin(D, window=4, layer=(i, 4), rngs=nnx.Rngs(0)).shift[...] for i in range(3)]
    assert [int(s) for s in shifts] == [0, 2, 0]


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (MoBA, {"block_size": 0}, "block_size"),
        (NSA, {"window": 0}, "window"),
        (Swin, {"shift": 8}, "shift"),
        (Swin, {"grid_width": 0}, "grid_width"),
    ],
)
def test_what_cannot_be_is_named(kind, options, says):
    with pytest.raises(ValueError, match=says):
        kind(D, **options, rngs=nnx.Rngs(0))
