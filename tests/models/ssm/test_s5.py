"""S5 against the published initialisation, discretisation, layer and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real
from seqzoo.models.param_groups import param_groups
from seqzoo.models.ssm.discretize import discretize
from seqzoo.models.ssm.hippo import hippo
from seqzoo.models.ssm.s5 import S5, s5_init
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64

NAMES = {"A_real": "Lambda_re", "A_imag": "Lambda_im", "D": "D", "log_dt": "log_step"}


@pytest.mark.parametrize("block", [0, 1])
def test_initialisation_equals_the_published_one(block):
    g = golden("s5/init")
    n, blocks, conj = (g[f"block{block}_{k}"].item() for k in ("ssm_size", "blocks", "conj_sym"))
    lam, v = s5_init(n, blocks, conj_sym=conj)
    theirs = g[f"block{block}_V"]
    assert_close(lam, g[f"block{block}_Lambda"], ratio=1e-12)
    assert_close(abs(v), abs(theirs), ratio=1e-12)
    phase = (v.conj() * theirs).sum(0)
    assert_close(v * phase, theirs, ratio=1e-12)
    assert_close(v.conj().T / phase[:, None], g[f"block{block}_Vinv"], ratio=1e-12)


@pytest.mark.every_case
@pytest.mark.parametrize("n", [4, 8, 16])
def test_matrices_equal_the_published_ones(n):
    g = golden("s5/init")
    assert_close(hippo("legs", n)[0], g[f"A_hippo_{n}"], ratio=1e-14)
    lam, v = s5_init(n, conj_sym=False)
    assert_close(lam, g[f"Lambda_{n}"], ratio=1e-12)
    assert_close((v * lam) @ v.conj().T, g[f"A_normal_{n}"], ratio=1e-12)
    assert_close(abs(v.conj().T @ g[f"P_real_{n}"]), abs(g[f"P_tilde_{n}"]), ratio=1e-12)
    assert_close(abs(v.conj().T @ g[f"B_hippo_{n}"]), abs(g[f"B_tilde_{n}"]), ratio=1e-12)


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_discretisation_equals_the_published_one(method):
    g = golden("s5/discretize")
    with x64():
        dA, factor = map(np.asarray, discretize(g["Lambda"], 1.0, g["Delta"], method=method))
    assert_close(dA, g[f"{method}_Lambda_bar"], ratio=1e-12)
    assert_close(factor[:, None] * g["B_tilde"], g[f"{method}_B_bar"], ratio=1e-12)


def complexes(g, name):
    """Ours from theirs: B or C as two planes; two C's as one with a leading axis."""
    z = np.stack([g[f"{name}1"], g[f"{name}2"]]) if f"{name}1" in g else g[name]
    return {f"{name[-1]}_re": jnp.asarray(z[..., 0]), f"{name[-1]}_im": jnp.asarray(z[..., 1])}


def parameters(g, prefix="param_"):
    p = {ours: jnp.asarray(g[prefix + theirs]) for ours, theirs in NAMES.items()}
    p["log_dt"] = p["log_dt"][:, 0]
    return p | complexes(g, prefix + "B") | complexes(g, prefix + "C")


def build(width, size, **options):
    precision = {"dtype": jnp.float64, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
    return S5(width, d_state=size, **options, **precision)


def with_parameters(mixer, p):
    ours = nnx.merge(*nnx.split(mixer), copy=True)
    for name, value in p.items():
        assert getattr(ours, name)[...].shape == value.shape, name
        getattr(ours, name)[...] = value
    return ours


@pytest.mark.parametrize(
    "case", ["ssm_zoh_conj_uni_0", "ssm_bilinear_conj_bi_1", "ssm_zoh_full_uni_2"]
)
def test_outputs_states_and_gradients_equal_the_published_ones(case):
    g = golden(f"s5/{case}")
    _, method, symmetry, ways, _ = case.split("_")
    options = {"clip_eigs": bool(g["clip_eigs"]), "step_rescale": float(g["step_rescale"])}
    options |= {"discretization": method, "causal": ways == "uni", "gate": "none"}
    with x64():
        mixer = build(4, 8, conj_sym=symmetry == "conj", **options)

        def layer(p, u):
            return with_parameters(mixer, p)._mix(u, None, Context(all_real(u.shape[1])))

        u, p, final = jnp.asarray(g["u"])[None], parameters(g), g["states"][-1, : mixer.size]
        cotangent = (g["cotangent"][None], jnp.zeros((1, 2 * mixer.size)))
        (y, last), (grads, du) = value_and_pullback(layer, cotangent, p, u)
        theirs = parameters(g, "grad_")
    assert_close(y[0], g["y"], ratio=1e-10)
    assert_close(last[0], np.concatenate([final.real, final.imag]), ratio=1e-10, what="state")
    assert_close(du[0], g["grad_u"], ratio=1e-9, what="gradient of u")
    for name in p:
        assert_close(grads[name], theirs[name], ratio=1e-9, what=name)


def norm(x, g):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * g["param_norm/scale"] + g["param_norm/bias"]


@pytest.mark.parametrize("case", ["layer_half_glu1_prenorm", "layer_full_glu_postnorm"])
def test_inside_the_published_block(case):
    g = golden(f"s5/{case}")
    gate = case.removeprefix("layer_").rsplit("_", 1)[0]
    with x64():
        p = parameters(g, "param_seq/")
        width, (size,) = len(p["D"]), p["A_real"].shape
        mixer = with_parameters(build(width, 2 * size, gate=gate), p)
        layers = {"gate_proj": "out2", "out_proj": "out1"}
        for ours, theirs in layers.items():
            if getattr(mixer, ours) is not None:
                getattr(mixer, ours).kernel[...] = g[f"param_{theirs}/kernel"]
                getattr(mixer, ours).bias[...] = g[f"param_{theirs}/bias"]
        x = g["u"]
        inside = norm(x, g) if "pre" in case else x
        y = x + np.asarray(nnx.jit(S5.__call__)(mixer, jnp.asarray(inside)[None]))[0]
        y = y if "pre" in case else norm(y, g)
    assert_close(y, g["y"], ratio=1e-10)


def test_half_glu2_gates_the_system_and_not_its_gelu():
    one, two = (S5(4, d_state=4, gate=f"half_glu{i}", rngs=nnx.Rngs(0)) for i in (1, 2))
    y = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4)), jnp.float32)
    g = jax.nn.gelu(y, approximate=True)
    assert_close(two._gated(y) * g, one._gated(y) * y)
    assert_close(S5(4, gate="gelu", rngs=nnx.Rngs(0))._gated(y), g)


def test_recipe_and_sizes():
    mixer = S5(5, d_state=8, rngs=nnx.Rngs(0))
    groups = param_groups(mixer)
    names = ("A_real", "A_imag", "log_dt", "B_re", "B_im", "C_re", "C_im", "D")
    dynamics = {k for k in names if getattr(groups, k) == "dynamics"}
    assert dynamics == {"A_real", "A_imag", "log_dt", "B_re", "B_im"}
    assert mixer.state_size() == mixer.init_state(2).inner[0].size == 8
    assert S5(5, d_state=8, conj_sym=False, rngs=nnx.Rngs(0)).state_size() == 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 3}, "blocks must divide"),
        ({"d_state": 6, "num_blocks": 2}, "even, positive size; got 3"),
        ({"gate": "glu"}, "known: none, gelu"),
        ({"discretization": "euler"}, "known: zoh, bilinear"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max"),
    ],
)
def test_errors_name_the_rule(options, message):
    with pytest.raises(ValueError, match=message):
        S5(4, **options, rngs=nnx.Rngs(0))
