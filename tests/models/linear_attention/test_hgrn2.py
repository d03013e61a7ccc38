"""HGRN2 against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import HGRN2
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
