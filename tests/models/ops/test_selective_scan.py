"""selective_scan against a loop in float64 and the published implementation, in both forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.scan.selective import _scan_forward, selective_scan
from seqzoo.models.ops.scan.selective_chunks import Inputs
from tests.golden import golden
from tests.helpers import assert_close, assert_trees_close, value_and_pullback, x64
from tests.references.selective_scan import selective_scan as reference

IDS = np.array(
    [
        [0, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 1, 1],  # padding left and between, a border, id 1 again
        [3, 3, 3, 1, 1, 1, 1, 1, 2, 2, 0, 0, 0],  # padding right
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
)


@pytest.fixture(params=["sequential", "associative"])
def form(request, monkeypatch):
    table = dict.fromkeys(forms.PLATFORMS, request.param)
    monkeypatch.setattr(forms, "TABLE", {"selective_scan": table})
    return request.param


def draw(batch, length, width=4, states=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(size=(batch, length, width)),
        "dt": np.exp(rng.normal(size=(batch, length, width)) - 1),
        "A": -np.exp(rng.normal(size=(width, states))),
        "B": rng.normal(size=(batch, length, states)),
        "C": rng.normal(size=(batch, length, states)),
        "D": rng.normal(size=width),
        "h0": rng.normal(size=(batch, width, states)),
    }


def plain(u, dt, A, B, C, D, h0, segment_ids=None):
    """The recurrence as jax operations, to be differentiated by jax."""
    starts = np.zeros(u.shape[:2], bool)
    if segment_ids is not None:
        starts[:, 1:] = np.diff(segment_ids) != 0

    def step(h, x):
        u, dt, B, C, start = x
        h = jnp.where(start[:, None, None], 0, h)
        decay = 1 - dt[..., None] * B[:, None] ** 2 if A is None else jnp.exp(dt[..., None] * A)
        h = decay * h + (dt * u)[..., None] * B[:, None]
        return h, jnp.einsum("BDN,BN->BD", h, C) + D * u

    h, y = jax.lax.scan(step, h0, [jnp.moveaxis(a, 1, 0) for a in (u, dt, B, C, starts)])
    return jnp.moveaxis(y, 0, 1), h


def both_losses(f):
    """A scalar of y and the last state, as a function of a dictionary of arguments."""

    def loss(arguments):
        y, h = f(**arguments)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(h))

    return loss


@pytest.mark.every_case
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("length", [1, 7, 37])
def test_equals_the_loop(form, length, chunk_size):
    arguments = draw(2, length)
    with x64():
        y, h = jax.jit(lambda a: selective_scan(**a, chunk_size=chunk_size))(arguments)
    expected_y, expected_h = reference(**arguments)
    assert_close(y, expected_y, ratio=1e-12)
    assert_close(h, expected_h, ratio=1e-12)


def test_equals_the_loop_in_float32(form):
    arguments = draw(2, 37)
    y, h = selective_scan(**{k: jnp.asarray(v, jnp.float32) for k, v in arguments.items()})
    assert h.dtype == jnp.float32
    expected_y, expected_h = reference(**arguments)
    assert_close(y, expected_y)
    assert_close(h, expected_h)


def test_nothing_optional_means_zeros(form):
    arguments = draw(2, 7)
    del arguments["D"], arguments["h0"]
    with x64():
        y, h = selective_scan(**{k: jnp.asarray(v) for k, v in arguments.items()})
    expected_y, expected_h = reference(**arguments)
    assert_close(y, expected_y, ratio=1e-12)
    assert_close(h, expected_h, ratio=1e-12)


@pytest.mark.every_case
def test_decays_of_an_online_learner(form):
    """Values and gradients without A, over segments and several groups of chunks."""
    ids = np.repeat([[1, 2, 3], [1, 1, 2]], 25, axis=1)
    arguments = {**draw(2, 75), "A": None}
    with x64():
        arguments = jax.tree.map(jnp.asarray, arguments)
        power = jnp.sum(arguments["B"] ** 2, -1, keepdims=True)
        arguments["dt"] = jax.nn.sigmoid(arguments["dt"]) / (1 + power)
        fast = functools.partial(selective_scan, chunk_size=4, segment_ids=ids)
        slow = functools.partial(plain, segment_ids=ids)
        assert_trees_close(*(jax.jit(lambda a, f=f: f(**a))(arguments) for f in (fast, slow)))
        grads = [jax.jit(jax.grad(both_losses(f)))(arguments) for f in (fast, slow)]
        assert_trees_close(*grads, ratio=1e-10)


@pytest.mark.parametrize("length", [1, 75])  # 75 is three groups of chunks for the prefix
def test_gradients_equal_those_of_the_loop(form, length):
    arguments = draw(2, length)

    def chunked(**a):
        return selective_scan(**a, chunk_size=4)

    with x64():
        arguments = jax.tree.map(jnp.asarray, arguments)
        actual = jax.jit(jax.grad(both_losses(chunked)))(arguments)
        desired = jax.jit(jax.grad(both_losses(plain)))(arguments)
    assert_trees_close(actual, desired, ratio=1e-11)


def test_the_states_at_borders_are_those_of_the_loop(form):
    """A program lowered for several platforms hands them from one form to the other."""
    a = draw(2, 75)
    x = Inputs(*(jnp.asarray(a[k], jnp.float32) for k in ("u", "dt", "B", "C")), None)
    h0 = np.swapaxes(a["h0"], 1, 2).astype(np.float32)
    _, (_, borders) = _scan_forward(4, x, jnp.asarray(a["A"].T, jnp.float32), h0)
    for i in range(19):
        part = {k: a[k][:, : 4 * i] for k in ("u", "dt", "B", "C")}
        expected = reference(**part, A=a["A"], h0=a["h0"])[1]
        assert_close(np.swapaxes(borders[i], 1, 2), expected)


def test_segments_and_padding(form):
    arguments = draw(3, 13)
    garbage = dict(arguments)
    for name in ("u", "dt", "B", "C"):
        garbage[name] = np.where(IDS[..., None] > 0, arguments[name], 1e3)
    with x64():
        y, h = selective_scan(
            **{k: jnp.asarray(v) for k, v in garbage.items()}, segment_ids=IDS, chunk_size=4
        )
    expected_y, expected_h = reference(**arguments, segment_ids=IDS)
    assert np.all(np.isfinite(y))
    assert_close(np.where(IDS[..., None] > 0, y, 0), expected_y, ratio=1e-12)
    assert_close(h, expected_h, ratio=1e-12)


def test_gradients_stop_at_borders(form):
    ids = np.array([[1] * 5 + [2] * 6, [1] * 11])
    arguments = jax.tree.map(np.asarray, draw(2, 11))
    with x64():
        arguments = jax.tree.map(jnp.asarray, arguments)
        actual, desired = (
            jax.jit(jax.grad(both_losses(lambda f=f, **a: f(**a, segment_ids=ids))))(arguments)
            for f in (selective_scan, plain)
        )
    assert_trees_close(actual, desired, ratio=1e-11)
    assert np.all(np.asarray(actual["h0"])[0] != 0), "h0 belongs to the first segment"


@pytest.mark.parametrize("dt", [1e-12, 1e4, 1e30])
def test_extreme_steps_are_finite(form, dt):
    arguments = {k: jnp.asarray(v, jnp.float32) for k, v in draw(1, 33).items()}
    step = jnp.where(jnp.arange(33)[:, None] % 3 == 0, dt, arguments["dt"])
    arguments["u"] = jnp.where(step > 1e20, 0, arguments["u"])
    arguments["dt"] = step
    value, grads = jax.jit(jax.value_and_grad(both_losses(selective_scan)))(arguments)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_long_row_is_finite_and_nothing_of_its_size_times_n_is_kept():
    """L = 65,536 and N = 16: the program's memory stays below one array of L D N elements."""
    arguments = {k: jnp.asarray(v, jnp.float32) for k, v in draw(1, 65536, 8, 16).items()}
    compiled = jax.jit(jax.grad(both_losses(selective_scan))).lower(arguments).compile()
    one = 4 * 65536 * 8 * 16
    assert compiled.memory_analysis().temp_size_in_bytes < one
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(compiled(arguments)))


def test_bfloat16_inputs_keep_a_float32_state():
    arguments = {k: jnp.asarray(v, jnp.bfloat16) for k, v in draw(2, 40).items()}
    y, h = selective_scan(**arguments)
    assert y.dtype == jnp.bfloat16
    assert h.dtype == jnp.float32
    wide = {k: np.asarray(v, np.float64) for k, v in arguments.items()}
    assert_close(np.asarray(y, np.float64), reference(**wide)[0], ratio=1e-2)
    assert_close(h, reference(**wide)[1], ratio=1e-6)


def published(case, B, C):
    """The reference's function of its own layouts, by our op; B and C are [B, L, N]."""

    def last(x):
        return jnp.swapaxes(x, 1, 2)

    dt = jax.nn.softplus(last(case["delta"]) + case["delta_bias"])
    y, h = selective_scan(last(case["u"]), dt, case["A"], B, C, case["D"])
    y = last(y)
    return (y * jax.nn.silu(case["z"]) if "z" in case else y), h


def variable(case):
    return published(case, jnp.swapaxes(case["B"], 1, 2), jnp.swapaxes(case["C"], 1, 2))


def grouped(case):
    """Channel d uses group d // (D / G)."""
    groups = case["B"].shape[1]

    def split(x, axis):
        return jnp.moveaxis(x.reshape(*x.shape[:axis], groups, -1, *x.shape[axis + 1 :]), axis, 0)

    rows = {k: split(case[k], 1) for k in ("u", "delta", "z")}
    channels = {k: split(case[k], 0) for k in ("A", "D", "delta_bias")}
    weights = {k: jnp.moveaxis(case[k], 1, 0) for k in ("B", "C")}
    y, h = jax.vmap(variable)(rows | channels | weights)
    return tuple(jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1, a.shape[-1]) for a in (y, h))


def constant(case):
    """B and C are constant in time, one row for each channel."""
    length = case["u"].shape[2]

    def one(u, delta, A, B, C, D, delta_bias):
        parts = {"u": u[:, None], "delta": delta[:, None], "A": A[None]}
        parts |= {"D": D[None], "delta_bias": delta_bias[None]}
        B, C = (jnp.broadcast_to(w, (len(u), length, len(w))) for w in (B, C))
        y, h = published(parts, B, C)
        return y[:, 0], h[:, 0]

    names = ("u", "delta", "A", "B", "C", "D", "delta_bias")
    return jax.vmap(one, (1, 1, 0, 0, 0, 0, 0), 1)(*(case[k] for k in names))


@pytest.mark.parametrize(
    ("name", "f"),
    [("varBC_D_z_softplus", variable), ("groups", grouped), ("constBC", constant)],
)
@pytest.mark.parametrize("bits", [64, 32])
def test_published_outputs_states_and_gradients(form, name, f, bits):
    case = golden(f"mamba1/selective_scan_{name}")
    ratio = 1e-9 if bits == 64 else 1e-5
    names = [k.removeprefix("grad_") for k in case if k.startswith("grad_")]
    with jax.enable_x64(bits == 64):
        arrays = {k: jnp.asarray(case[k], f"float{bits}") for k in (*names, "cotangent")}
        cotangent = arrays.pop("cotangent")
        state = jnp.zeros(case["last_state"].shape, cotangent.dtype)
        (y, h), (grads,) = value_and_pullback(f, (cotangent, state), arrays)
    assert_close(y, case["y"], ratio=ratio)
    assert_close(h, case["last_state"], ratio=ratio)
    assert_trees_close(grads, {k: case[f"grad_{k}"] for k in names}, ratio=ratio)


@pytest.mark.every_case
@pytest.mark.parametrize("name", ["complex_varBC", "complex_constBC"])
def test_published_complex_outputs_and_states(form, name):
    case = golden(f"mamba1/selective_scan_{name}")
    with x64():
        if name == "complex_varBC":  # pairs on the last axis are the planes of one step
            planes = {k: case[k].reshape(*case[k].shape[:2], -1, 2) for k in "BC"}
            case |= {k: z[..., 0] + 1j * z[..., 1] for k, z in planes.items()}
        y, h = jax.jit(variable if name == "complex_varBC" else constant)(case)
    gate = case["z"] / (1 + np.exp(-case["z"])) if name == "complex_constBC" else 1
    assert_close(np.asarray(y) * gate, case["y"], ratio=1e-9)
    assert_close(h, case["last_state"], ratio=1e-9)


@pytest.mark.of_the_day("complex gradients")
def test_complex_gradients_equal_those_of_a_loop(form):
    parts = draw(2, 11, width=2, states=2)
    turn = {k: np.random.default_rng(i).normal(size=parts[k].shape) for i, k in enumerate("ABC")}

    def loop(u, dt, A, B, C, D):
        h, ys = jnp.zeros((2, 2, 2), A.dtype), []
        for t in range(u.shape[1]):
            h = jnp.exp(dt[:, t, :, None] * A) * h + (dt * u)[:, t, :, None] * B[:, t, None]
            ys.append(2 * jnp.einsum("BDN,BN->BD", h, C[:, t]).real + D * u[:, t])
        return jnp.stack(ys, 1), h

    def loss(op, parts, turn):
        parts = parts | {k: jax.lax.complex(parts[k], turn[k]) for k in "ABC"}
        y, h = op(**parts)
        return jnp.sum(jnp.sin(y)) + jnp.sum(h.real * h.imag)

    with x64():
        args = jax.tree.map(jnp.asarray, ({k: parts[k] for k in ("u", "dt", *"ABCD")}, turn))
        grad = jax.jit(jax.grad(loss, (1, 2)), static_argnums=0)
        op = functools.partial(selective_scan, chunk_size=4)
        assert_trees_close(grad(op, *args), grad(loop, *args), ratio=1e-10)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("dt", np.ones((2, 7, 5)), "dt must have shape"),
        ("B", np.ones((2, 7, 4)), "B must have shape"),
        ("h0", np.ones((2, 3, 4)), "h0 must have shape"),
        ("chunk_size", 0, "at least 1"),
    ],
)
def test_errors(name, value, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**{**draw(2, 7), name: value})
