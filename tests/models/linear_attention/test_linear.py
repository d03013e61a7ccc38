"""Linear attention against the paper's equations and against published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Based, CosFormer, LinearAttention, Rebased
from seqzoo.models.linear_attention.linear import LinearAttentionState
from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.ops.matrix.feature_maps import alike, quadratic, taylor
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64
from tests.laws import PACKED, normal, runs
from tests.models.attention.test_softmax import rotate

PHI = {
    "elu+1": lambda a: np.where(a > 0, a + 1, np.exp(a)),
    "relu": lambda a: np.maximum(a, 0),
    "squared_relu": lambda a: np.maximum(a, 0) ** 2,
}


def by_hand(mixer, x, ids, *, heads, causal, normalize, rotary):
    phi = PHI[mixer.feature_map]
    w = {n: np.asarray(getattr(mixer, n).kernel[...]) for n in ("q_proj", "k_proj", "v_proj")}
    d_head = x.shape[-1] // heads
    y = np.zeros_like(x)
    for b, row in enumerate(ids):
        for run in runs(row):
            q, k, v = (
                (x[b, run] @ w[n]).reshape(len(run), heads, d_head)
                for n in ("q_proj", "k_proj", "v_proj")
            )
            q, k = phi(q), phi(k)
            turn = rotate if rotary else (lambda a, p: a)
            for t in range(len(run)):
                out = []
                for h in range(heads):
                    seen = range(t + 1 if causal else len(run))
                    top = sum((turn(q[t, h], t) @ turn(k[s, h], s)) * v[s, h] for s in seen)
                    bottom = sum(q[t, h] @ k[s, h] for s in seen) + mixer.eps
                    out.append(top / bottom if normalize else top * d_head**-0.5)
                y[b, run[t]] = np.concatenate(out) @ np.asarray(mixer.out_proj.kernel[...])
    return y


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("normalize", "positions", "feature_map"),
    [(True, "rope", "elu+1"), (True, "none", "relu"), (False, "rope", "squared_relu")],
)
def test_equals_the_equations(normalize, positions, feature_map, causal):
    with x64():
        x = normal(0, *PACKED.shape, 8).astype(np.float64)
        mixer = LinearAttention(
            8,
            num_heads=2,
            normalize=normalize,
            positions=positions,
            feature_map=feature_map,
            causal=causal,
            dtype=jnp.float64,
            param_dtype=jnp.float64,
            rngs=nnx.Rngs(0),
        )
        rotary = positions == "rope"
        expected = by_hand(
            mixer, x, PACKED, heads=2, causal=causal, normalize=normalize, rotary=rotary
        )
        y = np.asarray(mixer(jnp.asarray(x), PACKED))
        assert_close(np.where(PACKED[..., None] > 0, y, 0), expected, ratio=1e-12)


@pytest.mark.parametrize("name", ["linear_attn_normalized", "linear_attn_normalized_state"])
def test_the_normaliser_equals_the_published_one(name):
    with x64():
        theirs = jax.tree.map(jnp.asarray, golden(f"linear_rnn/{name}"))
        scale = float(theirs["scale"])
        mixer = LinearAttention(8, num_heads=2, eps=1e-10 / scale, rngs=nnx.Rngs(0))
        state = None
        if "initial_state_kv" in theirs:
            z0 = jnp.moveaxis(theirs["initial_state_z"], 1, 3)
            state = LinearAttentionState(theirs["initial_state_kv"], z0)

        def attend(q, k, v):
            return mixer._attend((q, k, None), None, v, state, Context(all_real(q.shape[1])))

        o, pull, after = jax.vjp(attend, *(theirs[n] for n in "qkv"), has_aux=True)
        assert_close(o, theirs["o"], ratio=1e-9)
        assert_close(after.s, theirs["final_state_0"], ratio=1e-9)
        assert_close(after.z, jnp.moveaxis(theirs["final_state_1"], 1, 3), ratio=1e-9)
        for n, grad in zip("qkv", pull(theirs["cotangent"]), strict=True):
            assert_close(grad, theirs["grad_" + n], ratio=1e-9, what=n)


@pytest.mark.parametrize("case", ["based_norm", "based_nonorm", "rebased_norm", "rebased_nonorm"])
def test_based_and_rebased_equal_the_published_kernels(case):
    name, norm = case.split("_")
    phi = {"based": taylor, "rebased": quadratic}[name]
    with x64():
        case = golden(f"linear_rnn/{name}_BHTD_{norm}")
        g = {key: jnp.asarray(value).swapaxes(1, 2) for key, value in case.items()}
        mixer = Based(8, num_heads=2, normalize=norm == "norm", chunk_size=4, rngs=nnx.Rngs(0))

        def attend(q, k, v):
            layout = Context(all_real(q.shape[1]))
            features = (q, k, alike(phi))
            return mixer._attend(features, None, v, None, layout)[0]

        o, grads = value_and_pullback(attend, g["cotangent"], *(g[n] for n in "qkv"))
        assert_close(o, g["o"], ratio=1e-9)
        for n, grad in zip("qkv", grads, strict=True):
            assert_close(grad, g["grad_" + n], ratio=1e-9, what=n)


@pytest.mark.parametrize("module", [Rebased, CosFormer])
def test_learned_and_reweighted_maps_equal_their_weights(module):
    """One head, no padding: rows of weights written out from the papers."""
    with x64():
        dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        mixer = module(4, num_heads=1, chunk_size=2, **dtypes, rngs=nnx.Rngs(0))
        x = normal(3, 1, 6, 4).astype(np.float64)
        q, k, v = (np.asarray(getattr(mixer, n + "_proj")(x))[0] for n in "qkv")
        if module is Rebased:
            mixer.q_norm.scale[...] = jnp.linspace(0.5, 2, 16)
            mixer.k_norm.bias[...] = jnp.linspace(-1, 1, 16)
            q, k = (standard(a) for a in (q, k))
            weights = ((q * np.linspace(0.5, 2, 16)) @ (k + np.linspace(-1, 1, 16)).T) ** 2 / 16
        else:
            t = np.arange(6)
            weights = np.maximum(q, 0) @ np.maximum(k, 0).T
            weights = weights * np.cos(np.pi / 2 * (t[:, None] - t) / mixer.horizon)
        weights = np.tril(weights)
        expected = weights @ v / (weights.sum(1, keepdims=True) + mixer.eps)
        out = mixer(jnp.asarray(x))[0]
        assert_close(out, expected @ np.asarray(mixer.out_proj.kernel[...]), ratio=1e-9)


def standard(a):
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-6)


def test_unknown_feature_maps_are_refused():
    with pytest.raises(ValueError, match="squared_relu"):
        LinearAttention(8, feature_map="tanh", rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="horizon"):
        CosFormer(8, horizon=0, rngs=nnx.Rngs(0))
