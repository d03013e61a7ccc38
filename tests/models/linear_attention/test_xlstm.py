"""mLSTM and sLSTM against the published cells, the papers' equations and xLSTM-7B's layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import MLSTM, SLSTM
from seqzoo.models.linear_attention.mlstm import MLSTMState, mlstm
from seqzoo.models.ops.layout.segments import segments
from seqzoo.models.ops.scan.running_max import NEVER
from seqzoo.models.recurrent.slstm import SLSTMState, slstm
from tests.golden import golden
from tests.helpers import assert_close, value_and_pullback, x64
from tests.laws import PACKED
from tests.references import xlstm as reference


@pytest.mark.parametrize("name", ["mlstm_0", "mlstm_1"])
def test_mlstm_equals_the_published_cell(name):
    g = golden(f"xlstm/{name}")
    names = ("q", "k", "v", "igate_preact", "fgate_preact")

    def f(m0, q, k, v, i, f):
        q, k, v, i, f = (jnp.swapaxes(x, 1, 2) for x in (q, k, v, i, f))
        initial = MLSTMState(jnp.zeros((2, 2, 4, 5)), jnp.full((2, 2), m0))
        h, state = mlstm(q, k, v, i[..., 0], f[..., 0], initial, chunk_size=5)
        return jnp.swapaxes(h, 1, 2), state

    with x64():
        inputs = [jnp.asarray(g[n]) for n in names]
        y, (s, m) = jax.jit(f)(0.0, *inputs)
        dy = jnp.asarray(g["cotangent"])
        parallel, grads = value_and_pullback(lambda *z: f(NEVER, *z)[0], dy, *inputs)
    assert_close(y, g["y_recurrent"], ratio=1e-10)
    assert_close(s[..., :-1], g["rec_final_C"], ratio=1e-10)
    assert_close(s[..., -1:], g["rec_final_n"], ratio=1e-10)
    assert_close(m, g["rec_final_m"][..., 0, 0], ratio=1e-10)
    # Their parallel form, whose gradients these are, adds eps in units of the row's own maximum,
    # and differentiates that unit, where ours is fixed: the gates feel it.
    assert_close(parallel, g["y_parallel"], ratio=1e-10)
    for n, grad in zip(names, grads, strict=True):
        assert_close(grad, g[f"grad_{n}"], ratio=2e-5 if "gate" in n else 1e-9, what=n)


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(*PACKED.shape, *shape)) for shape in shapes]


def test_mlstm_equals_the_equations_on_packed_rows():
    """But for the eps, which is why the ratio is not smaller."""
    q, k, v, i, f = draw((2, 3), (2, 3), (2, 4), (2,), (2,))
    with x64():
        inputs = map(jnp.asarray, (q, k, v, 3 * i, 2 * f))
        h, _ = jax.jit(lambda *z: mlstm(*z, chunk_size=4, segment_ids=PACKED))(*inputs)
    expected = reference.mlstm(q, k, v, 3 * i, 2 * f, PACKED)
    assert_close(np.asarray(h)[PACKED > 0], expected[PACKED > 0], ratio=1e-5)


def test_mlstm_feels_its_initial_state_alike_in_any_unit():
    q, k, v, i, f = (x[:, :4] for x in draw((2, 3), (2, 3), (2, 4), (2,), (2,)))
    with x64():
        inputs = [jnp.asarray(x) for x in (q, k, v, i, f)]
        s = jnp.asarray(np.random.default_rng(1).normal(size=(len(q), 2, 3, 5)))

        def loss(s, m):
            return jnp.sum(jnp.sin(mlstm(*inputs, MLSTMState(s, m))[0]))

        m = jnp.zeros((len(q), 2))
        value, (ds, dm) = jax.value_and_grad(loss, (0, 1))(s, m)
        assert_close(loss(s * jnp.exp(-1.5), m + 1.5), value, ratio=1e-5)
        assert_close(dm, jnp.sum(s * ds, (-1, -2)), ratio=1e-12)


def test_slstm_equals_the_published_cell():
    g = golden("xlstm/slstm_cell_vanilla")
    heads = int(g["num_heads"])
    length, batch, _ = g["Wx"].shape
    with x64():
        x = jnp.asarray(g["Wx"] + g["b"]).swapaxes(0, 1).reshape(batch, length, 4, -1)
        kernel = jnp.swapaxes(jnp.asarray(g["R"]), 1, 2)
        states, last = slstm(x, kernel, SLSTMState(*map(jnp.asarray, g["states0"])))
    assert kernel.shape[0] == heads
    for n, (ours, theirs) in enumerate(zip(states, g["states_all"], strict=True)):
        assert_close(np.swapaxes(ours, 0, 1), theirs[1:], ratio=1e-10, what=f"state {n}")
        assert_close(last[n], g["last_states"][n], ratio=1e-10, what=f"last state {n}")


def test_slstm_equals_the_equations_and_their_differences():
    (x,) = draw((4, 6))
    rng = np.random.default_rng(2)
    kernel = 0.5 * rng.normal(size=(2, 3, 4, 3))
    dy, dx = rng.normal(size=(*PACKED.shape, 6)) * (PACKED > 0)[..., None], rng.normal(size=x.shape)
    with x64():
        zero = jnp.zeros((len(PACKED), 6))
        layout = segments(PACKED)

        @jax.jit
        def run(x):
            initial = SLSTMState(zero, zero, zero, zero)
            return slstm(x, jnp.asarray(kernel.reshape(2, 3, 12)), initial, segments=layout)[0].h

        y, (grad,) = value_and_pullback(run, jnp.asarray(dy), jnp.asarray(x))
    expected = reference.slstm(x, kernel, PACKED)
    assert_close(np.asarray(y)[PACKED > 0], expected[PACKED > 0], ratio=1e-12)
    ends = [np.sum(dy * reference.slstm(x + e * dx, kernel, PACKED)) for e in (1e-5, -1e-5)]
    assert_close(np.sum(np.asarray(grad) * dx), (ends[0] - ends[1]) / 2e-5, ratio=1e-7)


@pytest.mark.parametrize("scale", [1e-3, 30.0, 1e3])
def test_extreme_gates_are_finite(scale):
    q, k, v, i, f, x = draw((2, 3), (2, 3), (2, 4), (2,), (2,), (4, 6))
    kernel = jnp.zeros((2, 3, 12))
    zero = jnp.zeros((len(PACKED), 6))

    def loss(q, k, v, i, f, x):
        h = mlstm(q, k, v, i, f, segment_ids=PACKED)[0]
        return jnp.sum(h**2) + jnp.sum(slstm(x, kernel, SLSTMState(*[zero] * 4))[0].h ** 2)

    inputs = [jnp.asarray(z, jnp.float32) for z in (q, k, v, scale * i, scale * f, scale * x)]
    value, grads = jax.jit(jax.value_and_grad(loss, tuple(range(6))))(*inputs)
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLSTM(8, gate_cap=0.0, rngs=nnx.Rngs(0)), "gate_cap"),
        (lambda: SLSTM(8, num_heads=3, rngs=nnx.Rngs(0)), "num_heads=3"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
