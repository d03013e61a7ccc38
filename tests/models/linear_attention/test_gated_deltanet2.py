"""Gated DeltaNet-2 and Comba against their equations."""

import numpy as np
import pytest
from flax import nnx

from seqzoo.models import Comba, GatedDeltaNet2
from tests.laws import PACKED
from tests.models.linear_attention import by_hand as hand
from tests.references.delta_rules import gated_delta_rule


def softplus(x):
    return np.log1p(np.exp(x))


def out(w, o, gate):
    o = hand.rms_norm(o, w["norm"], 1e-5).reshape(*o.shape[:2], -1)
    return (o * hand.sigmoid(gate)) @ w["out_proj"]


@pytest.mark.parametrize("negative", [False, True])
def test_gated_deltanet2_equals_the_equations(negative):
    def equations(w, x):
        q, k, v = hand.projected(w, x)
        b, write, a, gate = np.split(x @ w["in_proj"], [8, 16, 20], axis=-1)
        erase = hand.heads(hand.sigmoid(b)) * (1 + negative)
        a = hand.heads(softplus(a @ w["decay_proj"] + w["decay/dt_bias"]))
        log_decay = -np.exp(w["decay/A_log"])[:, None] * a
        write = hand.heads(hand.sigmoid(write)) * v
        beta = np.ones(q.shape[:3])
        o, _ = gated_delta_rule(
            q, k, write, beta, log_decay, read=erase * k, scale=0.5, segment_ids=PACKED
        )
        return out(w, o, gate @ w["gate_proj"])

    hand.check(GatedDeltaNet2, equations, allow_negative_eigenvalues=negative, chunk_size=4)


def test_comba_equals_the_equations():
    def equations(w, x):
        q, k, v = hand.projected(w, x)
        beta, a = np.split(x @ w["in_proj"], 2, axis=-1)
        log_decay = -np.exp(w["decay/A_log"]) * softplus(a + w["decay/dt_bias"])
        read = hand.sigmoid(w["mix"])[:, None] * k
        q = q - w["D"][:, None] * read
        options = {"read": read, "scale": 0.5, "segment_ids": PACKED}
        o, _ = gated_delta_rule(q, k, v, hand.sigmoid(beta), log_decay[..., None], **options)
        return out(w, o, x @ w["gate_proj"])

    hand.check(Comba, equations, chunk_size=4)


def test_the_first_correction_is_an_option():
    mixer = Comba(8, num_heads=2, correction=0.02, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(mixer.D[...], 0.02)
