"""Mamba-2 against the published mixer and the published forms of its recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.mamba2 import Mamba2, ssd
from tests.golden import golden
from tests.helpers import assert_close, x64
from tests.models.published import Published, same, taps, transposed

NAMES = {
    "A_log": ("A_log", same),
    "D": ("D", same),
    "dt_bias": ("dt_bias", same),
    "conv/kernel": ("conv1d.weight", taps),
    "conv/bias": ("conv1d.bias", same),
    "norm/scale": ("norm.weight", same),
    "in_proj/kernel": ("in_proj.weight", transposed),
    "out_proj/kernel": ("out_proj.weight", transposed),
}


def published(case, bits):
    dtype = jnp.dtype(f"float{bits}")
    mixer = Mamba2(
        case["x"].shape[-1],
        d_state=int(case["d_state"]),
        expand=int(case["expand"]),
        d_head=int(case["headdim"]),
        num_groups=int(case["ngroups"]),
        d_conv=int(case["d_conv"]),
        norm=bool(case["rmsnorm"]),
        norm_before_gate=bool(case["norm_before_gate"]),
        chunk_size=5,
        dtype=dtype,
        param_dtype=dtype,
        rngs=nnx.Rngs(0),
    )
    return Published(mixer, {k: v for k, v in NAMES.items() if f"param_{v[0]}" in case})


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("name", ["mixer_0", "mixer_1", "mixer_2"])
def test_outputs_states_and_gradients_equal_the_published_ones(name, bits):
    case = golden(f"mamba2/{name}")
    case = {k: v.astype(f"float{bits}") if v.ndim else v for k, v in case.items()}
    ratio = 1e-9 if bits == 64 else 1e-5
    with jax.enable_x64(bits == 64):
        block = published(case, bits)
        window, s = block.check(case, ratio)
        block.check_steps(case, ratio)
    assert_close(np.swapaxes(window, 1, 2), case["final_conv_state"][..., 1:], ratio=ratio)
    assert_close(np.swapaxes(s, 2, 3), case["final_ssm_state"], ratio=ratio)


@pytest.mark.parametrize("name", ["ssd_minimal_0", "ssd_minimal_1"])
def test_ssd_equals_the_minimal_form(name):
    """Inputs there are discretised already: dt is 1 and A varies in time."""
    g = golden(f"mamba2/{name}")
    with x64():
        s0 = None
        if "initial_states" in g:
            s0 = jnp.swapaxes(jnp.asarray(g["initial_states"][:, 0]), 2, 3)
        y, s = gated_linear_attention(
            *(jnp.asarray(g[k]) for k in ("C", "B", "X")), jnp.asarray(g["A"])[..., None], s0
        )
    assert_close(y, g["Y"], ratio=1e-12)
    assert_close(np.swapaxes(s, 2, 3), g["final_state"], ratio=1e-12)


def test_ssd_equals_the_published_scan():
    g = golden("mamba2/chunk_scan_combined_0")
    with x64():
        g = {k: jnp.asarray(g[k]) for k in g}
        dt = jax.nn.softplus(g["dt"] + g["dt_bias"])
        y, s = ssd(g["x"], dt, g["A"], g["B"], g["C"], g["D"], chunk_size=3)
        y = y * jax.nn.silu(g["z"])
    assert_close(y, g["y"], ratio=1e-12)
    assert_close(np.swapaxes(s, 2, 3), g["final_state"], ratio=1e-12)


def test_dynamics_have_their_own_group():
    groups = param_groups(Mamba2(16, rngs=nnx.Rngs(0)))
    named = {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(groups)}
    assert {k for k, v in named.items() if v == "dynamics"} == {"A_log", "D", "dt_bias"}
    assert named["norm/scale"] == "no_decay"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_head": 5}, "d_head must divide"),
        ({"d_head": 8, "num_groups": 3}, "num_groups"),
        ({"d_state": 0}, "at least 1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Mamba2(16, **options, rngs=nnx.Rngs(0))
