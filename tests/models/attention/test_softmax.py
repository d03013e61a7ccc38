"""The mixer against the equations, written out with loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Attention
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs


def rotate(x, position, base=10000.0):
    half = len(x) // 2
    angle = position * base ** (-np.arange(half) / half)
    a, b = x[:half], x[half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)]
    )


def by_hand(mixer, x, ids, *, heads, kv_heads, causal, window, rotary):
    w = {n: np.asarray(getattr(mixer, n).kernel[...]) for n in ("q_proj", "k_proj", "v_proj")}
    d_head = w["q_proj"].shape[1] // heads
    y = np.zeros_like(x)
    for b, row in enumerate(ids):
        for run in runs(row):
            q, k, v = (x[b, run] @ w[n] for n in ("q_proj", "k_proj", "v_proj"))
            q, k, v = (a.reshape(len(run), -1, d_head) for a in (q, k, v))
            for t in range(len(run)):
                out = []
                for h in range(heads):
                    g = h // (heads // kv_heads)
                    seen = [
                        s
                        for s in range(len(run))
                        if (not causal or s <= t) and (window is None or abs(t - s) < window)
                    ]
                    turn = rotate if rotary else (lambda a, p: a)
                    scores = [turn(q[t, h], t) @ turn(k[s, g], s) / d_head**0.5 for s in seen]
                    p = np.exp(scores - np.max(scores))
                    out.append((p / p.sum()) @ v[seen, g])
                y[b, run[t]] = np.concatenate(out) @ np.asarray(mixer.out_proj.kernel[...])
    return y


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "window", "positions"),
    [(2, 2, None, "rope"), (4, 2, 3, "rope"), (2, 1, None, "none")],
)
def test_equals_the_equations(heads, kv_heads, window, positions, causal):
    with x64():
        x = normal(0, *PACKED.shape, 8).astype(np.float64)
        mixer = Attention(
            8,
            num_heads=heads,
            num_kv_heads=kv_heads,
            window=window,
            positions=positions,
            causal=causal,
            dtype=jnp.float64,
            param_dtype=jnp.float64,
            rngs=nnx.Rngs(0),
        )
        options = {"heads": heads, "kv_heads": kv_heads, "window": window, "causal": causal}
        expected = by_hand(mixer, x, PACKED, rotary=positions == "rope", **options)
        y = np.asarray(mixer(jnp.asarray(x), PACKED))
        assert_close(np.where(PACKED[..., None] > 0, y, 0), expected, ratio=1e-12)


def test_differential_attention_equals_the_equations():
    """In the third layer, heads of queries sharing keys, and values of both heads of a pair."""
    kinds = {"num_heads": 4, "num_kv_heads": 2, "d_head": 2, "layer": (2, 5), "norm_eps": 1e-5}
    with x64():
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        kinds |= {"positions": "none", "differential": True}
        mixer = Attention(8, **kinds, **dtypes, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        x = normal(0, *PACKED.shape, 8).astype(np.float64)
        y = np.asarray(mixer(jnp.asarray(x), PACKED))
        kernels = ("q_proj", "k_proj", "v_proj", "out_proj")
        w_q, w_k, w_v, w_out = (np.asarray(getattr(mixer, n).kernel[...]) for n in kernels)
        q_1, k_1, q_2, k_2 = np.asarray(mixer.pairs.mix[...])
        scale = np.asarray(mixer.pairs.scale[...])
    first = 0.8 - 0.6 * np.exp(-0.3 * 2)
    share = np.exp(q_1 @ k_1) - np.exp(q_2 @ k_2) + first
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        q, k, v = x[b, run] @ w_q, x[b, run] @ w_k, x[b, run] @ w_v
        for t in range(len(run)):
            out = []
            for pair in range(2):  # both of the same two heads of keys, and of their values
                both = []
                for one in (2 * pair, 2 * pair + 1):
                    own = slice(pair * 2, pair * 2 + 2)
                    scores = k[: t + 1, own] @ q[t, 2 * one : 2 * one + 2] / 2**0.5
                    p = np.exp(scores - scores.max())
                    both.append(p / p.sum() @ v[: t + 1])
                o = both[0] - share * both[1]
                out.append(o / np.sqrt(np.mean(o**2) + 1e-5) * scale * (1 - first))
            assert_close(y[b, run[t]], np.concatenate(out) @ w_out, ratio=1e-12)


def test_the_ring_holds_a_window_however_long_the_stream():
    mixer = Attention(8, num_heads=2, window=4, rngs=nnx.Rngs(0))
    x = normal(1, 1, 23, 8)
    whole, state, start = mixer(x), mixer.init_state(1), 0
    extend, ys = jax.jit(lambda x, state: mixer.extend(x, state)), []
    for size in (1, 7, 3, 9, 3):  # chunks shorter and longer than the ring
        y, state = extend(x[:, start : start + size], state)
        ys.append(y)
        start += size
    assert_close(jnp.concatenate(ys, 1), whole, ratio=1e-5)
    assert state.inner.k.shape == (1, 4, 2, 4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "num_heads must divide d_model"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide num_heads"),
        ({"num_heads": 8}, "even head width"),
        ({"num_heads": 1, "positions": "rope:fraction=0.4"}, "fraction=0.4"),
        ({"positions": "rope:fraction=1.5"}, "a share of each head's channels"),
        ({"window": 0}, "at least 1"),
    ],
)
def test_impossible_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Attention(8, **options, rngs=nnx.Rngs(0))
