"""Linformer, Nystromformer, FNet, Reformer, Sinkhorn and Synthesizer against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import build
from seqzoo.models.attention.fnet import chirp_transform
from seqzoo.models.attention.nystromformer import pseudo_inverse
from seqzoo.models.attention.sinkhorn import doubly_stochastic
from tests.helpers import assert_close, x64
from tests.references import sparse_patterns as patterns

D, L, H = 8, 13, 2
WIDE = {"dtype": "float64", "param_dtype": "float64"}
ROW = np.random.default_rng(0).normal(size=(L, D))
X = np.insert(ROW, [0, 5, L], 1e3, axis=0)[None]  # with padding before, within and behind
IDS = (np.abs(X[..., 0]) < 1e3).astype(np.int32)


def made(name, causal, **options):
    return build(name, D, causal=causal, rngs=nnx.Rngs(0), **WIDE, **options)


def heads(p, x):
    return np.asarray(x @ p.kernel[...]).reshape(len(x), H, -1)


def check(mixer, desired):
    """Rows with padding, and without."""
    run = jax.jit(lambda x, ids: mixer(x, ids))
    assert_close(run(X, IDS)[IDS > 0], desired, ratio=1e-9, what="with padding")
    assert_close(run(ROW[None], None)[0], desired, ratio=1e-9, what="without")


def test_linformer_attends_to_projected_keys():
    with x64():
        mixer = made("linformer", False, num_heads=H, rank=3, max_length=20)
        q, k, v = (heads(p, ROW) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        k, v = (
            np.einsum("lr,lhk->rhk", np.asarray(e.embedding[...])[:L], a)
            for e, a in ((mixer.k_embed, k), (mixer.v_embed, v))
        )
        o = patterns.attention(q, k, v, np.ones((L, 3), bool))
        check(mixer, o.reshape(L, -1) @ np.asarray(mixer.out_proj.kernel[...]))
        with pytest.raises(ValueError, match="max_length=20"):
            mixer(np.zeros((1, 21, D)))


def test_fnet_transforms_the_real_tokens():
    with x64():
        check(made("fnet", False), np.fft.fft2(ROW).real)


def test_a_transform_of_any_length():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(5, 300, 2)) + 1j * rng.normal(size=(5, 300, 2))
    counts = np.array([1, 2, 97, 256, 300])
    z = np.where(np.arange(300)[None, :, None] < counts[:, None, None], z, 0)
    with x64():
        actual = np.asarray(jax.jit(chirp_transform)(z, counts))
    for row, n, y in zip(z, counts, actual, strict=True):
        assert_close(y[:n], np.fft.fft(row[:n], axis=0), ratio=1e-11)


def test_nystromformer_is_softmax_with_a_landmark_for_each_token():
    """Where the iteration has reached the inverse."""
    rng = np.random.default_rng(2)
    a = np.exp(rng.normal(size=(6, 6)) + 4 * np.eye(6))
    a = a / a.sum(-1, keepdims=True)
    with x64():
        assert_close(pseudo_inverse(jnp.asarray(a), 20), np.linalg.inv(a), ratio=1e-9)
        options = {"landmarks": L, "iterations": 40, "conv_width": 0, "use_bias": False}
        mixer = made("nystromformer", False, num_heads=H, **options)
        q, k, v = (heads(p, ROW) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        o = patterns.attention(q, k, v, np.ones((L, L), bool)).reshape(L, -1)
        desired = o @ np.asarray(mixer.out_proj.kernel[...])
        assert_close(jax.jit(lambda x: mixer(x))(ROW[None])[0], desired, ratio=1e-6)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["dense", "random", "factorized"])
def test_synthesizer_makes_its_weights(kind, causal):
    with x64():
        options = {"kind": kind, "rank": 3, "max_length": 16}
        mixer = made("synthesizer", causal, num_heads=H, **options)
        v = heads(mixer.v_proj, ROW)

        def table(embed):
            return np.asarray(embed.embedding[...])[:L].reshape(L, H, -1)

        if kind == "random":
            r = table(mixer.q_embed)[:, :, :L].swapaxes(0, 1)
        else:
            a = table(mixer.q_embed) if kind == "factorized" else heads(mixer.q_proj, ROW)
            a = a if kind == "factorized" else np.maximum(a, 0)
            r = np.einsum("lhk,shk->hls", a, table(mixer.k_embed))
        seen = patterns.distances(L) >= 0 if causal else np.ones((L, L), bool)
        p = np.where(seen, np.exp(r), 0)
        o = np.einsum("hls,shv->lhv", p / p.sum(-1, keepdims=True), v).reshape(L, -1)
        check(mixer, o @ np.asarray(mixer.out_proj.kernel[...]))


def test_sinkhorn_rows_and_columns_sum_to_one_within_segments():
    logits = np.random.default_rng(3).normal(size=(1, 1, 6, 6))
    segment = np.array([0, 0, 0, 1, 2, 2])
    seen = segment[:, None] == segment
    p = np.asarray(doubly_stochastic(jnp.asarray(logits, jnp.float32), seen[None, None], 30))[0, 0]
    assert np.all(p[~seen] == 0)
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-4)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-4)


def test_sinkhorn_sees_its_own_and_a_sorted_block():
    size = 4
    with x64():
        mixer = made("sinkhorn", False, num_heads=H, block_size=size, positions="none")
        q, k, v = (heads(p, ROW) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        count = -(-L // size)
        mean = np.stack([ROW[i * size : (i + 1) * size].mean(0) for i in range(count)])
        s, t = (heads(p, mean) for p in (mixer.sort_q_proj, mixer.sort_k_proj))
        p = np.exp(np.einsum("nhk,mhk->hnm", s, t) * (D // H) ** -0.5 / 0.75)
        for _ in range(5):
            p = p / p.sum(-1, keepdims=True)
            p = p / p.sum(-2, keepdims=True)
        spare = count * size - L
        k_all, v_all = (
            np.einsum(
                "hnm,mchk->nchk",
                p,
                np.pad(a, ((0, spare), (0, 0), (0, 0))).reshape(count, size, H, -1),
            )
            for a in (k, v)
        )
        o = np.zeros((L, H, D // H))
        for i in range(count):
            own = slice(i * size, min((i + 1) * size, L))
            ks, vs = np.concatenate([k[own], k_all[i]]), np.concatenate([v[own], v_all[i]])
            seen = np.ones((len(q[own]), len(ks)), bool)
            o[own] = patterns.attention(q[own], ks, vs, seen)
        check(mixer, o.reshape(L, -1) @ np.asarray(mixer.out_proj.kernel[...]))


def test_sinkhorn_in_one_block_is_attention():
    with x64():
        mixer = made("sinkhorn", False, num_heads=H, block_size=L + 3, positions="none")
        q, k, v = (heads(p, ROW) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
        o = patterns.attention(q, k, v, np.ones((L, L), bool)).reshape(L, -1)
        check(mixer, o @ np.asarray(mixer.out_proj.kernel[...]))


def reformer_by_hand(q, v, bucket, size, causal):
    """q, v [L, K]; bucket [R, L]: one softmax over what all rounds show."""
    k = q / np.sqrt(np.square(q).sum(-1, keepdims=True) + 1e-6)
    o = np.zeros_like(v)
    for t in range(len(q)):
        scores, values = [], []
        for row in bucket:
            rank = [np.sum(row[:s] == row[s]) for s in range(len(row))]
            for s in np.flatnonzero(row == row[t]):
                away = rank[t] // size - rank[s] // size
                if s != t and (s < t or not causal) and abs(away) <= 1:
                    scores.append(q[t] @ k[s] * q.shape[-1] ** -0.5)
                    values.append(v[s])
        p = np.exp(scores)
        o[t] = p @ np.array(values) / p.sum() if scores else v[t]
    return o


@pytest.mark.of_the_day
@pytest.mark.parametrize("causal", [True, False])
def test_reformer_attends_within_buckets(causal):
    with x64():
        options = {"num_heads": H, "num_buckets": 4, "rounds": 2, "block_size": 2}
        mixer = made("reformer", causal, **options)
        q, v = heads(mixer.q_proj, ROW), heads(mixer.v_proj, ROW)
        bucket = np.asarray(mixer._hash(jnp.asarray(q)[None]))[0]
        assert set(np.unique(bucket)) == {0, 1, 2, 3}
        o = [reformer_by_hand(q[:, h], v[:, h], bucket[h], 2, causal) for h in range(H)]
        o = np.stack(o, 1).reshape(L, -1)
        check(mixer, o @ np.asarray(mixer.out_proj.kernel[...]))
