"""What the options of the delta mixers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.linear_attention.delta_parts import strength
from seqzoo.models.linear_attention.deltanet import DeltaNet, DeltaProduct
from seqzoo.models.linear_attention.gated_deltanet import GatedDeltaNet, KimiDeltaAttention
from seqzoo.models.ops.matrix.delta_rules import gated_delta_rule
from seqzoo.models.param_groups import param_groups
from tests.helpers import assert_close


def test_delta_product_makes_its_steps_in_order():
    """Against a loop over householder steps, each with its own key, value and beta."""
    mixer = DeltaProduct(6, num_heads=1, num_householders=3, d_conv=0, gated=True, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 6)), jnp.float32)
    q, k, v, _ = mixer.qkv(x, None, None)
    logits = mixer.in_proj(x)
    beta = 2 * jax.nn.sigmoid(logits[..., :3])
    log_decay = mixer.decay(logits[..., 3:])
    S, outputs = np.zeros((2, 6, 6)), []
    for t in range(5):
        S = np.exp(log_decay[:, t, :, None]) * S
        for j in range(3):
            kj, vj = k[:, 3 * t + j, 0], v[:, 3 * t + j, 0]
            error = vj - np.einsum("bk,bkv->bv", kj, S)
            S = S + kj[:, :, None] * (beta[:, t, j, None] * error)[:, None]
        outputs.append(np.einsum("bk,bkv->bv", q[:, t, 0], S) * 6**-0.5)
    o = jnp.asarray(np.stack(outputs, 1))[:, :, None]
    assert_close(mixer(x), mixer.out_proj(mixer.norm(o).astype(x.dtype)), ratio=1e-5)


def test_one_householder_is_deltanet():
    options = {"num_heads": 2, "allow_negative_eigenvalues": True}
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 9, 8)), jnp.float32)
    one = DeltaProduct(8, num_householders=1, **options, rngs=nnx.Rngs(0))
    assert_close(one(x), DeltaNet(8, **options, rngs=nnx.Rngs(0))(x), ratio=1e-6)


def test_negative_eigenvalues_reflect():
    """What is kept under a key changes its sign at each visit with beta near 2, never below 1."""
    k = jnp.tile(jnp.array([1.0, 0.0]), (1, 4, 1, 1))
    s0 = jnp.array([[[[1.0], [0.0]]]])
    for negative, signs in ((True, [-1, 1, -1, 1]), (False, [1, 1, 1, 1])):
        beta = strength(jnp.full((1, 4, 1), 3.0), negative)
        o, _ = gated_delta_rule(k, k, jnp.zeros((1, 4, 1, 1)), beta, None, s0)
        assert np.sign(np.asarray(o[0, :, 0, 0])).tolist() == signs


def test_decays_are_dynamics():
    groups = param_groups(KimiDeltaAttention(8, num_heads=2, rngs=nnx.Rngs(0)))
    assert set(jax.tree.leaves(groups["decay"])) == {"dynamics"}
    assert jax.tree.leaves(groups["norm"]) == ["no_decay"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "give d_key where 3 heads do not divide d_model=8"),
        ({"num_heads": 2, "num_value_heads": 3}, "divide num_value_heads"),
        ({"num_heads": 2, "d_key": 0}, "d_key must be at least 1"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        GatedDeltaNet(8, **options, rngs=nnx.Rngs(0))
