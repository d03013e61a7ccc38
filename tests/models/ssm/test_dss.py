"""DSS against the published softmax kernel, and its two kernels against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.ops.ssm.diagonal import diagonal_ssm
from seqzoo.models.ssm.discretize import discretize
from seqzoo.models.ssm.dss import DSS, softmax_weights
from seqzoo.models.ssm.s4d import S4D
from tests.golden import golden
from tests.helpers import assert_close, x64


def test_kernel_equals_the_published_one():
    """The reference computes it in float32."""
    g = golden("s4/diag_kernel_diag-lin_dss_3")
    length = g["K"].shape[-1]
    with x64():
        mixer = DSS(2, d_state=8, length=length, gate=False, dtype=jnp.float64, rngs=nnx.Rngs(0))
        cb = g["C"][0] * g["B"]
        values = {"log_A_real": g["raw_A_real"], "A_imag": -g["raw_A_imag"]}
        values |= {"log_dt": g["raw_inv_dt"][:, 0], "C_re": cb.real, "C_im": cb.imag}
        for name, value in values.items():
            assert getattr(mixer, name)[...].shape == value.shape
            setattr(mixer, name, nnx.Param(jnp.asarray(value)))
        mixer.D = nnx.Param(jnp.zeros(2))
        impulse = jnp.zeros((1, length, 2)).at[:, 0].set(1)
        kernel = nnx.jit(DSS.__call__)(mixer, impulse)[0].T
    assert_close(kernel, g["K"][0], ratio=1e-5)


def test_softmax_weights_are_those_of_a_softmax():
    A, dt = np.array([-0.5 - 2j, -0.3 + 1j]), 0.07
    with x64():
        dB = discretize(A, 1.0, dt, method="zoh")[1]
        weights = np.asarray(dB * A * softmax_weights(jnp.asarray(A), dt, 50))
    rows = np.exp(np.outer(A * dt, np.arange(50)))
    assert_close(weights, 1 / (A * rows.sum(1)), ratio=1e-6)
    assert np.isfinite(softmax_weights(jnp.zeros(1, jnp.complex64), 0.1, 4)).all()


def test_exponential_kernel_is_half_of_s4d():
    """No conjugate is added."""
    ours = DSS(3, d_state=4, kernel="exp", rngs=nnx.Rngs(0))
    s4d = S4D(3, d_state=4, init="legs", rngs=nnx.Rngs(0))
    u = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 3)), jnp.float32)
    run = jax.jit(diagonal_ssm)
    assert_close(2 * run(u, *ours._system())[0], run(u, *s4d._system())[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"kernel": "relu"}, "known: softmax, exp"), ({"length": 0}, "length >= 1")],
)
def test_errors_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        DSS(4, **options, rngs=nnx.Rngs(0))
