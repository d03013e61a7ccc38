"""Cross-attention against loops over tokens, packed and padded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.attention.cross import CrossAttention
from tests.helpers import assert_close, x64
from tests.laws import normal

IDS = np.array([[1, 1, 2, 0, 3], [0, 2, 2, 1, 4]])
CONTEXT_IDS = np.array([[2, 1, 0, 1, 2, 1, 0], [1, 2, 0, 2, 2, 1, 1]])  # no context for 3 and 4


def made(**options):
    return CrossAttention(8, 6, num_heads=4, num_kv_heads=2, **options, rngs=nnx.Rngs(0))


def by_hand(mixer, x, context, ids, context_ids):
    w = {n: np.asarray(getattr(mixer, f"{n}_proj").kernel[...]) for n in ("q", "k", "v", "out")}
    q, k, v = x @ w["q"], context @ w["k"], context @ w["v"]
    q, k, v = (a.reshape(*a.shape[:2], -1, 2) for a in (q, k, v))
    o = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        (seen,) = np.nonzero((context_ids[b] == ids[b, t]) & (ids[b, t] > 0))
        if len(seen):
            p = np.exp(k[b, seen, h // 2] @ q[b, t, h] / 2**0.5)
            o[b, t, h] = p / p.sum() @ v[b, seen, h // 2]
    return o.reshape(*x.shape[:2], -1) @ w["out"]


@pytest.mark.parametrize("masked", ["both", "context", "none"])
def test_equals_the_equation(masked):
    x, context = (
        normal(i, 2, n, d).astype(np.float64) for i, (n, d) in enumerate(((5, 8), (7, 6)))
    )
    ids = IDS if masked == "both" else None
    context_ids = None if masked == "none" else CONTEXT_IDS
    with x64():
        mixer = made(dtype=jnp.float64, param_dtype=jnp.float64)
        y = mixer(jnp.asarray(x), jnp.asarray(context), ids, context_ids)
    want = by_hand(
        mixer,
        x,
        context,
        np.ones((2, 5), int) if ids is None else ids,
        np.ones((2, 7), int) if context_ids is None else context_ids,
    )
    assert_close(y, want, ratio=1e-12)


def test_other_segments_and_padding_have_no_gradient():
    mixer, x, context = made(), normal(0, 2, 5, 8), normal(1, 2, 7, 6)

    def first(context):
        return mixer(x, context, IDS, CONTEXT_IDS)[0, 0].sum()  # of segment 1

    felt = np.any(np.asarray(jax.grad(first)(context)) != 0, axis=-1)
    np.testing.assert_array_equal(felt[0], CONTEXT_IDS[0] == 1)
    assert not felt[1].any()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="num_heads must divide d_model"):
        CrossAttention(8, num_heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_kv_heads must divide"):
        CrossAttention(8, num_heads=4, num_kv_heads=3, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"context_segment_ids.*\(2, 7\)"):
        made()(normal(0, 2, 5, 8), normal(1, 2, 7, 6), None, IDS)
