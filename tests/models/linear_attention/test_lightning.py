"""Lightning attention against its equations."""

import jax
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import BackboneConfig, LightningAttention
from seqzoo.models.backbone import Backbone
from tests.laws import normal
from tests.models.linear_attention import by_hand as hand


def equations(w, x):
    q, k, v = (hand.silu(hand.heads(x @ w[n])) for n in ("q_proj", "k_proj", "v_proj"))
    decay = -(0.5 + 1e-5) * np.array([2.0**-4, 2.0**-8])[:, None]
    o = hand.rms_norm(hand.recur(q, k, v, decay).reshape(*x.shape[:2], -1), w["norm"], 1e-5)
    return (hand.sigmoid(x @ w["gate_proj"]) * o) @ w["out_proj"]


def test_equals_the_equations():
    hand.check(LightningAttention, equations, layer=(1, 3), chunk_size=5)


@pytest.mark.parametrize("scan", [True, False])
def test_later_layers_of_a_stack_forget_less(scan):
    config = BackboneConfig(d_model=8, depth=3, scan=scan)
    stack = Backbone(("lightning_attention",), config, {"num_heads": 2}, rngs=nnx.Rngs(0)).stack
    if scan:
        factors = stack.units.mixer.decay[...]
    else:
        factors = [unit.mixer.decay[...] for unit in stack.units]
    np.testing.assert_allclose(factors, np.array([1.0, 0.5, 0.0]) + 1e-5, rtol=1e-2)
    assert np.isfinite(jax.jit(lambda x: stack(x))(normal(0, 1, 4, 8))).all()
