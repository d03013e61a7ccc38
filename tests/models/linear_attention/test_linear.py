"""Linear attention against the paper's equations and against published numbers."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import LinearAttention
from seqzoo.models.linear_attention.linear import LinearAttentionState
from seqzoo.models.mixer import Context
from seqzoo.models.ops.segments import all_real
from tests.helpers import assert_close, x64
from tests.models.attention.test_softmax import rotate
from tests.models.laws import PACKED, normal, runs

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "linear_rnn"


def by_hand(mixer, x, ids, *, heads, causal, normalize, rotary):
    def phi(a):
        return np.where(a > 0, a + 1, np.exp(a))

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
    ("normalize", "positions"), [(True, "rope"), (True, "none"), (False, "rope")]
)
def test_equals_the_equations(normalize, positions, causal):
    with x64():
        x = normal(0, *PACKED.shape, 8).astype(np.float64)
        mixer = LinearAttention(
            8,
            num_heads=2,
            normalize=normalize,
            positions=positions,
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
    with x64(), np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
        golden = {key: jnp.asarray(file[key]) for key in file.files}
        scale = float(golden["scale"])
        mixer = LinearAttention(8, num_heads=2, eps=1e-10 / scale, rngs=nnx.Rngs(0))
        state = None
        if "initial_state_kv" in golden:
            z0 = jnp.moveaxis(golden["initial_state_z"], 1, 3)
            state = LinearAttentionState(golden["initial_state_kv"], z0)

        def attend(q, k, v):
            return mixer._attend((q, k), None, v, state, Context(all_real(q.shape[1])))

        o, pull, after = jax.vjp(attend, *(golden[n] for n in "qkv"), has_aux=True)
        assert_close(o, golden["o"], ratio=1e-9)
        assert_close(after.s, golden["final_state_0"], ratio=1e-9)
        assert_close(after.z, jnp.moveaxis(golden["final_state_1"], 1, 3), ratio=1e-9)
        for n, grad in zip("qkv", pull(golden["cotangent"]), strict=True):
            assert_close(grad, golden["grad_" + n], ratio=1e-9, what=n)
