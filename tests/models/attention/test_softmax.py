"""The mixer against the equations, written out with loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Attention
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, runs


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
