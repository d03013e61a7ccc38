"""S4 against published kernels, states, blocks and gradients; steps; sampling rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.ops.ssm.dense import dense_ssm
from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.dplr import bilinear_dplr, readout, s4_kernel
from seqzoo.models.ssm.s4 import S4
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64

KERNELS = ["dplr_kernel_legs_0", "dplr_kernel_fourier_1", "dplr_kernel_legt_2"]
kernel_of = jax.jit(s4_kernel, static_argnums=5)
run = jax.jit(dense_ssm)


def load(case):
    """The golden arrays, with P's rank next to last and dt without a state axis."""
    g = golden(f"s4/{case}")
    return g | {"P": np.moveaxis(g["P"], 0, -2), "dt": g["dt"][:, 0]}


def flat(z):
    return np.concatenate([z.real, z.imag], -1)


@pytest.mark.parametrize("bits", [64, 32])
@pytest.mark.parametrize("case", KERNELS)
def test_kernels_equal_the_published_ones(case, bits):
    g = load(case)
    length = g["K"].shape[-1]
    with jax.enable_x64(bits == 64):
        kernel = kernel_of(*(jnp.asarray(g[k]) for k in ("A", "P", "B", "C", "dt")), length)
    assert_close(kernel, g["K"], ratio=1e-10 if bits == 64 else 1e-5)


@pytest.mark.parametrize("case", KERNELS)
def test_discrete_systems_outputs_and_states_equal_the_published_ones(case):
    g = load(case)
    u, m = np.swapaxes(g["u"], 1, 2), g["A"].shape[-1]
    with x64():
        A, b = bilinear_dplr(*(jnp.asarray(g[k]) for k in ("A", "P", "B", "dt")))
        for channel, c in enumerate(g["C"]):
            y, h = run(u, A, b, readout(c), np.zeros((*u.shape[::2], 2 * m)))
            more, _ = run(np.zeros_like(u), A, b, readout(c), h)
            assert_close(jnp.swapaxes(y, 1, 2), g["y"][:, channel], ratio=1e-10)
            assert_close(jnp.swapaxes(more, 1, 2), g["K_state"][:, channel], ratio=1e-10)
    assert_close(b, flat(g["dB"][:, :m]), ratio=1e-12, what="dB")
    assert_close(h, flat(g["final_state"][..., :m]), ratio=1e-10, what="final state")
    # Their matrix acts on [x, x*]; on planes [Re x, Im x] it is T^-1 dA T.
    one = np.eye(m)
    T = np.block([[one, 1j * one], [one, -1j * one]])
    assert_close(A, np.linalg.solve(T, g["dA"] @ T).real, ratio=1e-12, what="dA")


BLOCK = {
    "D": "layer.D",
    "C": "layer.kernel.C",
    "B": "layer.kernel.B",
    "P": "layer.kernel.P",
    "inv_dt": "layer.kernel.inv_dt",
    "A_real": "layer.kernel.A_real",
    "A_imag": "layer.kernel.A_imag",
    "weight": "output_linear.0.weight",
    "bias": "output_linear.0.bias",
}


def original_c(c, A, P, dt, length):
    """C of C-tilde = C (1 - dA^length): what the reference trains is tied to one length."""
    one = jnp.eye(2 * A.shape[-1])
    full, p = (jnp.concatenate([z, z.conj()], -1) for z in (A, P))
    M = full[:, None] * one - jnp.einsum("RHM,RHN->HMN", p, p.conj())
    half = 0.5 * dt[:, None, None] * M
    dA = jnp.linalg.solve(one - half, one + half)
    rest = one - jnp.linalg.matrix_power(dA, length)
    both = jnp.concatenate([c, c.conj()], -1)
    return jnp.linalg.solve(jnp.swapaxes(rest, 1, 2), both[..., None])[..., : A.shape[-1], 0]


@pytest.mark.of_the_day
@pytest.mark.parametrize("case", ["s4block_dplr_uni_2", "s4block_dplr_bi_1"])
def test_blocks_and_gradients_equal_the_published_ones(case):
    g = golden(f"s4/{case}")
    length, width = g["x"].shape[1:]

    def layer(p, x):
        b, c, low = (jax.lax.complex(p[k][..., 0], p[k][..., 1]) for k in "BCP")
        A = jax.lax.complex(-jnp.exp(p["A_real"]), -p["A_imag"])
        c = original_c(c, A, low, jnp.exp(p["inv_dt"][:, 0]), length)
        c, low = (c[0] if mixer.causal else c), jnp.moveaxis(low, 0, -2)
        own = {"D": p["D"][0], "log_dt": p["inv_dt"][:, 0], "log_A_real": p["A_real"]}
        own |= {"A_imag": -p["A_imag"], "B_re": b[0].real, "B_im": b[0].imag}
        own |= {"C_re": c.real, "C_im": c.imag, "P_re": low.real, "P_im": low.imag}
        ours = nnx.merge(*nnx.split(mixer), copy=True)
        for name, value in own.items():
            assert getattr(ours, name)[...].shape == value.shape
            getattr(ours, name)[...] = value
        ours.out_proj.kernel[...], ours.out_proj.bias[...] = p["weight"].T, p["bias"]
        return ours(x)

    with x64():
        options = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        mixer = S4(width, d_state=8, causal="uni" in case, chunk_size=8, **options)
        p = {ours: jnp.asarray(g[f"param_{theirs}"]) for ours, theirs in BLOCK.items()}
        p["C"] = jnp.asarray(g["param_after_first_forward_C_is_Ctilde"])
        y, (grads, dx) = value_and_pullback(layer, g["cotangent"], p, g["x"])
    assert_close(y, g["y"], ratio=1e-10)
    assert_close(dx, g["grad_x"], ratio=1e-10, what="gradient of x")
    for ours, theirs in BLOCK.items():
        assert_close(grads[ours], g[f"grad_{theirs}"], ratio=1e-9, what=theirs)


@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_one_token_without_the_matrix_equals_the_chunks(measure):
    mixer = S4(3, d_state=6, measure=measure, gate=False, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3)), jnp.float32)
    first = nnx.jit(lambda m, x: m.extend(x, m.init_state(2)))(mixer, jnp.repeat(x, 3, 1))[1]
    y, state = nnx.jit(type(mixer).extend)(mixer, x, first)
    two = jnp.concatenate([x, jnp.zeros_like(x)], 1)
    ids = jnp.array([[1, 0], [1, 0]])
    again, same = nnx.jit(type(mixer).extend)(mixer, two, first, ids)
    assert_close(y[:, 0], again[:, 0], ratio=1e-6)
    assert_close(state.inner, same.inner, ratio=1e-6)


def test_recipe_and_sizes():
    mixer = S4(5, d_state=8, rngs=nnx.Rngs(0))
    groups = param_groups(mixer)
    names = ("log_dt", "log_A_real", "A_imag", "P_re", "P_im", "B_re", "B_im", "C_re", "C_im", "D")
    dynamics = {k for k in names if getattr(groups, k) == "dynamics"}
    assert dynamics == set(names) - {"C_re", "C_im", "D"}
    assert mixer.init_state(2).inner.shape == (2, 5, 8)
    assert mixer.state_size() == 40


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_state": 7}, "got 7: use 8"),
        ({"measure": "glagt"}, "no normal plus low-rank form of 'glagt'"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max"),
        ({"step_rescale": 0.0}, "step_rescale must be positive"),
        ({"chunk_size": 12}, "power of two"),
    ],
)
def test_errors_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        S4(4, rngs=nnx.Rngs(0), **options)
