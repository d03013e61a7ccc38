"""A loop over steps as one kernel, in Pallas' interpreter, against the loop; what has no kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.scan import on_chip
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.ops.scan.walk import PROGRAMS, Plan, Sizes, gpu_plan, tpu_plan
from seqzoo.models.recurrent.elementwise import ind_rnn, sru
from seqzoo.models.recurrent.gru import gru
from seqzoo.models.recurrent.lstm import LSTMState, LSTMWeights, lstm
from seqzoo.models.recurrent.slstm import SLSTMState, slstm
from tests.helpers import assert_trees_close

B, L, E = 3, 6, 32
IDS = np.array([[1, 1, 2, 0, 2, 2], [0, 1, 1, 1, 3, 3], [1, 1, 1, 1, 0, 0]])
# Who walks: a program with all channels, as on a GPU; the grid, with half of them, as on a TPU.
PLANS = {
    "inside": lambda sizes: Plan(16, sizes.width, inside=True, interpret=True),
    "by grid": lambda sizes: Plan(sizes.batch, 16, inside=False, interpret=True),
}


@pytest.fixture(params=PLANS)
def form(request, monkeypatch):
    monkeypatch.setitem(on_chip.PLANS, request.param, PLANS[request.param])
    return request.param


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng([seed, *shape]).normal(size=shape), jnp.float32) / 2


def run_lstm(ids, x, kernel, peephole, h, c):
    return lstm(x, LSTMWeights(kernel, peephole), LSTMState(h, c), segments=ids)


def run_gru(ids, *args):
    return gru(*args, segments=ids)


def run_slstm(ids, x, kernel, h, c, n, m):
    return slstm(x, kernel, SLSTMState(h, c, jnp.abs(n) + 0.1, m), segments=ids)


def run_indrnn(ids, *args):
    return ind_rnn(*args, activation="tanh", segments=ids)


def run_sru(ids, *args):
    return sru(*args, segments=ids)


def run_rnn(ids, x, kernel, h):
    x = x.astype(jnp.bfloat16)
    return nonlinear_scan(
        lambda h, x, dot: jnp.tanh(x + dot(h)),
        x,
        h,
        kernels=(kernel,),
        reverse=True,
        segment_ids=ids,
    )


STATE, WIDE = normal(B, E, seed=1), [normal(B, 2 * E, seed=i) for i in range(4)]
CELLS = {
    "lstm": (run_lstm, (normal(B, L, 4 * E), normal(E, 4 * E), None, STATE, normal(B, E))),
    "peepholes": (
        run_lstm,
        (normal(B, L, 4 * E), normal(E, 4 * E), normal(3, E), STATE, normal(B, E)),
    ),
    "gru": (run_gru, (normal(B, L, 3 * E), normal(E, 3 * E), normal(E), STATE)),
    "slstm": (run_slstm, (normal(B, L, 4, 2 * E), normal(2, E, 4 * E), *WIDE)),
    "indrnn": (run_indrnn, (normal(B, L, E), normal(E), STATE)),
    "sru": (run_sru, (normal(B, L, 4 * E), normal(2, E), STATE)),
    "rnn, backwards, bfloat16": (run_rnn, (normal(B, L, E), normal(E, E), STATE)),
}


def with_gradients(run, args, ids, form):
    def loss(args):
        out = run(ids, *args)
        terms = enumerate(jax.tree.leaves(out))
        return sum(jnp.sum(jnp.sin(a + i).astype(jnp.float32)) for i, a in terms), out

    with forms.forced("nonlinear_scan", form):
        lowered = jax.jit(jax.grad(loss, has_aux=True)).lower(args)
        gradients, out = lowered.compile()(args)
    return gradients, out, "pallas_call" in lowered.as_text(debug_info=True)


@pytest.mark.of_the_day
@pytest.mark.parametrize("cell", CELLS)
def test_a_kernel_equals_the_loop(cell, form):
    run, args = CELLS[cell]
    ids = None if cell == "peepholes" else IDS
    *expected, in_kernels = with_gradients(run, args, ids, "loop")
    assert not in_kernels
    *actual, in_kernels = with_gradients(run, args, ids, form)
    assert in_kernels
    assert_trees_close(actual, expected, ratio=2e-3 if "bfloat16" in cell else 5e-6)


def tanh_cell(h, x, dot):
    return jnp.tanh(x + dot(h))


def simple(kernel, x, h):
    return nonlinear_scan(tanh_cell, x, h, kernels=(kernel,))[0]


SIMPLE = normal(E, E), normal(B, L, E), STATE


@pytest.mark.of_the_day
def test_forward_mode_vmap_and_second_derivatives(form):
    kernel, x, h = SIMPLE

    def twice(kernel):
        return jnp.sum(jax.grad(lambda h: jnp.sum(jnp.sin(simple(kernel, x, h))))(h) ** 2)

    def all_of_it(kernels):
        forward = jax.jvp(lambda k: simple(k, x, h), (kernel,), (x[0, 0] * kernel,))[1]
        return forward, jax.vmap(simple, (0, None, None))(kernels, x, h), jax.grad(twice)(kernel)

    kernels, found = jnp.stack([kernel, 0.5 * kernel]), []
    for name in ("loop", form):
        with forms.forced("nonlinear_scan", name):
            found.append(jax.jit(all_of_it)(kernels))
    assert_trees_close(*found, ratio=5e-6)


def test_devices_walk_over_their_own_rows(monkeypatch):
    monkeypatch.setitem(on_chip.PLANS, "inside", PLANS["inside"])
    kernel, x, h = SIMPLE[0], normal(4, L, E), normal(4, E)

    def gradient(kernel, x, h):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(simple(*a))), (0, 1, 2))(kernel, x, h)

    expected = jax.jit(gradient)(kernel, x, h)
    mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh), forms.forced("nonlinear_scan", "inside"):
        rows = jax.device_put((x, h), jax.NamedSharding(mesh, jax.P("data")))
        compiled = jax.jit(gradient).lower(kernel, *rows).compile()
        assert_trees_close(compiled(kernel, *rows), expected, ratio=5e-6)
    assert "all-gather" not in compiled.as_text()


def heads_of_their_own(h, x, dot):
    """The second head does what the first does not."""
    twice = jnp.repeat(jnp.array([1.0, 2.0]), E)
    return jnp.tanh(x + twice * dot(h.reshape(-1, 2, E)).reshape(x.shape))


OTHERS = {
    "channels are turned": (lambda h, x, dot: jnp.tanh(x + dot(h)[:, ::-1]), E, (E, E)),
    "channels are summed up": (lambda h, x, dot: x + dot(h).sum(-1, keepdims=True), E, (E, E)),
    "rows are mixed": (lambda h, x, dot: jnp.tanh(x + dot(h) - x.mean(0)), E, (E, E)),
    "the product is of something else": (lambda h, x, dot: jnp.tanh(x + dot(2 * h)), E, (E, E)),
    "heads differ": (heads_of_their_own, 2 * E, (2, E, E)),
}


@pytest.mark.every_case
@pytest.mark.parametrize("why", OTHERS)
def test_a_cell_that_is_more_than_blocks_takes_the_loop(why, monkeypatch):
    monkeypatch.setitem(on_chip.PLANS, "inside", PLANS["inside"])
    cell, width, shape = OTHERS[why]

    def run(kernel, x, h):
        return nonlinear_scan(cell, x, h, kernels=(kernel,))

    args = normal(*shape), normal(2, 3, width), normal(2, width)
    with forms.forced("nonlinear_scan", "inside"):
        forced = jax.jit(run).lower(*args)
    assert "pallas_call" not in forced.as_text(debug_info=True)


ALONE = {
    "channels are turned": lambda h, x: jnp.tanh(x + h[:, ::-1]),
    "a matrix that is no kernel": lambda h, x: jnp.tanh(x + h @ SIMPLE[0]),
    "a number for each row": lambda h, x: jnp.tanh(x + h * jnp.arange(1.0, 1 + B)[:, None]),
}


@pytest.mark.every_case
@pytest.mark.parametrize("why", ALONE)
def test_a_cell_without_kernels_that_is_more_than_blocks_takes_the_loop(why, monkeypatch):
    monkeypatch.setitem(on_chip.PLANS, "inside", PLANS["inside"])
    args = SIMPLE[1:]
    with forms.forced("nonlinear_scan", "inside"):
        forced = jax.jit(lambda x, h: nonlinear_scan(ALONE[why], x, h)).lower(*args)
    assert "pallas_call" not in forced.as_text(debug_info=True)


CALLS = [("tpu", "tpu_custom_call"), ("cuda", "triton")]


@pytest.mark.of_the_day
@pytest.mark.parametrize(("platform", "call"), CALLS)
def test_a_chip_walks_over_channels_that_are_apart(platform, call):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(2, L, 128), (128,), (2, 128)]]

    def gradient(*args):
        loss = lambda *args: sum(map(jnp.sum, ind_rnn(*args, segments=IDS[:2])))  # noqa: E731
        return jax.grad(loss, (0, 1, 2))(*args)

    text = jax.jit(gradient).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert text.count(f"@{call}") + text.count(f"@__gpu$xla.gpu.{call}") == 2
    assert "stablehlo.while" not in text


@pytest.mark.parametrize(("platform", "call"), CALLS)
def test_a_chip_has_two_kernels_and_no_loop(platform, call):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in [(128, 384), (2, L, 384), (2, 128)]]

    def last_state(kernel, x, h):
        return gru(x, kernel, normal(128), h)[1]

    def gradient(kernel, x, h):
        def loss(kernel, x, h):
            h, last = gru(x, kernel, normal(128), h, segments=IDS[:2])
            return jnp.sum(h) + jnp.sum(last)

        return jax.grad(loss, (0, 1, 2))(kernel, x, h)

    traced = jax.jit(gradient).trace(*shapes)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count(f"@{call}") + text.count(f"@__gpu$xla.gpu.{call}") == 2
    assert "stablehlo.while" not in text
    rows = jax.export.symbolic_shape("B")[0]
    open_sizes = [jax.ShapeDtypeStruct((rows, *s.shape[1:]), s.dtype) for s in shapes[1:]]
    exported = jax.export.export(jax.jit(last_state), platforms=[platform])(shapes[0], *open_sizes)
    assert "stablehlo.while" in exported.mlir_module()


def test_channels_that_are_apart_wait_for_nobody():
    for width, channels in ((4096, 32), (48, 16)):
        assert gpu_plan(Sizes(512, 1, width, 0, 40)) == Plan(16, channels, inside=True)
    assert gpu_plan(Sizes(512, 1, 40, 0, 40)) is None


def test_programs_that_wait_for_each_other_are_few_enough_to_run_at_once():
    for batch in (1, 16, 100, 512):
        for heads, width in ((1, 256), (1, 1024), (4, 256), (16, 64), (1, 48), (1, 40), (1, 4096)):
            plan = gpu_plan(Sizes(batch, heads, width, 4, 40))
            if plan is None:
                continue
            parts, rest = divmod(width, plan.channels)
            assert rest == 0
            programs = -(-batch // plan.rows) * heads * parts
            assert parts == 1 or programs <= PROGRAMS
    assert gpu_plan(Sizes(16, 1, 1024, 4, 40)) == Plan(16, 16, inside=True)
    assert gpu_plan(Sizes(16, 1, 40, 4, 40)) is None
    assert tpu_plan(Sizes(16, 1, 1024, 4, 40)) == Plan(16, 1024, inside=False)
    assert tpu_plan(Sizes(16, 1, 2048, 4, 40)) is None  # 64 MiB of R
