"""HGRN2 against its equations, and the lower bounds of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import HGRN2, Backbone, BackboneConfig
from seqzoo.models.linear_attention.hgrn2 import forget_and_key
from tests.models.linear_attention import by_hand as hand


def equations(w, x, bound):
    q, forget, v = (hand.heads(x @ w[n]) for n in ("q_proj", "k_proj", "v_proj"))
    f = bound + (1 - bound) * hand.sigmoid(forget)
    o = hand.recur(hand.silu(q), 1 - f, v, np.log(f)).reshape(*x.shape[:2], -1)
    return hand.rms_norm(o, w["norm"], 1e-5) @ w["out_proj"]


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_equals_the_equations(bound):
    hand.check(HGRN2, lambda w, x: equations(w, x, bound), lower_bound=bound, chunk_size=5)


@pytest.mark.parametrize("name", ["hgrn2", "hgrn"])
def test_bounds_rise_with_depth(name):
    options = {"num_heads": 2} if name == "hgrn2" else {}
    config = BackboneConfig(d_model=8, depth=4)
    stack = Backbone((name,), config, options, rngs=nnx.Rngs(0)).stack
    np.testing.assert_allclose(stack.units.mixer.lower_bound[...], [0, 0.25, 0.5, 0.75])
    assert np.isfinite(jax.jit(lambda x: stack(x))(np.ones((1, 3, 8), np.float32))).all()


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_gates_far_out_are_finite(bound):
    logits = jnp.array([-200.0, -20.0, 20.0, 200.0])
    log_forget, key = forget_and_key(logits, bound)
    both = jax.jacobian(lambda z: jnp.stack(forget_and_key(z, bound)))(logits)
    assert bool(jnp.isfinite(both).all())
    assert bool(jnp.isfinite(log_forget).all())
    assert bool((log_forget <= 0).all())
    assert 0 < float(key[2]) < 1e-8


def test_a_bound_of_one_is_an_error():
    with pytest.raises(ValueError, match="lower_bound"):
        HGRN2(8, lower_bound=1.0, rngs=nnx.Rngs(0))
