"""Mamba against the published block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.mamba import Mamba
from tests.golden import golden
from tests.helpers import assert_close
from tests.models.published import Published, same, taps, transposed

NAMES = {
    "A_log": ("A_log", same),
    "D": ("D", same),
    "dt_bias": ("dt_proj.bias", same),
    "conv/kernel": ("conv1d.weight", taps),
    "conv/bias": ("conv1d.bias", same),
    **{
        f"{name}/kernel": (f"{name}.weight", transposed)
        for name in ("in_proj", "x_proj", "dt_proj", "out_proj")
    },
    **{f"{name}/bias": (f"{name}.bias", same) for name in ("in_proj", "out_proj")},
}


def published(case, bits):
    width = case["x"].shape[-1]
    dtype = jnp.dtype(f"float{bits}")
    mixer = Mamba(
        width,
        d_state=int(case["d_state"]),
        expand=int(case["expand"]),
        d_conv=int(case["d_conv"]),
        dt_rank=int(case["dt_rank"]),
        use_bias="param_in_proj.bias" in case,
        conv_bias="param_conv1d.bias" in case,
        chunk_size=4,
        dtype=dtype,
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
    )
    present = {k: v for k, v in NAMES.items() if f"param_{v[0]}" in case}
    return Published(mixer, present)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["block_0", "block_1"])
def test_outputs_states_and_gradients_equal_the_published_ones(name, bits):
    case = golden(f"mamba1/{name}")
    case = {k: v.astype(f"float{bits}") if v.ndim else v for k, v in case.items()}
    ratio = 1e-9 if bits == 64 else 1e-5
    with jax.enable_x64(bits == 64):
        block = published(case, bits)
        window, h = block.check(case, ratio)
        block.check_steps(case, ratio)
    # The reference keeps one input more than its convolution will read again.
    assert_close(np.swapaxes(window, 1, 2), case["final_conv_state"][..., 1:], ratio=ratio)
    assert_close(h, case["final_ssm_state"], ratio=ratio)


def test_the_published_initialisation():
    mixer = Mamba(32, d_state=5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(-np.exp(mixer.A_log[...])[7], -np.arange(1, 6), rtol=1e-6)
    dt = np.log(np.asarray(jax.nn.softplus(mixer.dt_bias[...])))
    assert dt.min() >= np.log(1e-3) - 1e-4
    assert dt.max() <= np.log(0.1) + 1e-4
    assert abs(dt.mean() - np.log(1e-2)) < 4 * np.log(100) / np.sqrt(12 * 64)
    assert np.all(mixer.D[...] == 1)
    assert mixer.dt_rank == 2
    assert np.abs(mixer.dt_proj.kernel[...]).max() <= 2**-0.5


def test_dynamics_have_their_own_group():
    groups = param_groups(Mamba(16, rngs=nnx.Rngs(0)))
    named = {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(groups)}
    assert {k for k, v in named.items() if v == "dynamics"} == {"A_log", "D", "dt_bias"}
    assert named["conv/bias"] == "no_decay"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 0}, "d_state"),
        ({"dt_min": 0.2}, "dt_min"),
        ({"d_conv": 0}, "width"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Mamba(16, **options, rngs=nnx.Rngs(0))(jnp.zeros((1, 2, 16)))
