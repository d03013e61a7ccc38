"""Public ops outside of `jit`, under forced forms, and on meshes as `jax.make_mesh` gives them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from seqzoo.models import ops
from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.matrix.feature_maps import alike
from tests.helpers import assert_trees_close, x64
from tests.models.ops.calls import ALL, CALLS, IDS, B, D, L, normal, qkv
from tests.references.nonlinear_scan import nonlinear_scan as reference


@pytest.fixture
def compiled_programs():
    """A function that calls another and counts what it compiles."""
    names = []

    def listen(name, *_, **__):
        names.append(name)

    def count(f, *args):
        del names[:]
        jax.block_until_ready(f(*args))
        return sum("backend_compile" in name for name in names)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("name", ALL)
def test_a_second_eager_call_compiles_nothing(name, compiled_programs):
    f, *args = ALL[name]
    args, ids = jax.tree.map(jnp.asarray, args), jnp.asarray(IDS)

    def call(*args):
        return f(ids, *args)

    def total(*args):
        return sum(jnp.sum(y) for y in jax.tree.leaves(call(*args)))

    slope = jax.grad(total, tuple(range(len(args))))
    for called in (call, slope):
        assert compiled_programs(called, *args) > 0
        assert compiled_programs(called, *args) == 0


def test_functions_with_arrays_are_compiled_once(compiled_programs):
    def features(weights, kind, q, k):
        return kind(q @ weights), kind(k @ weights)

    q, k, v = map(jnp.asarray, qkv())
    for feature_map in (
        lambda w: functools.partial(features, jnp.full((3, 5), w), jnp.exp),
        lambda w: alike(jax.nn.relu),
    ):

        def call(w, feature_map=feature_map):
            return ops.kernel_sums(q, k, v, causal=True, feature_map=feature_map(w))

        assert compiled_programs(call, 0.1) > 0
        assert compiled_programs(call, 0.2) == 0
    inside = functools.partial(features, jnp.full((3, 5), 0.3), jnp.exp)
    other = ops.kernel_sums(q, k, v, causal=True, feature_map=inside)[0]
    assert_trees_close(ops.kernel_sums(*inside(q, k), v, causal=True)[0], other, ratio=1e-6)


def test_a_forced_form_is_taken_by_a_cached_call_and_leaves_nothing():
    @op(rows="x")
    def which(x):
        apart = {name: lambda x, n=n: x + n for n, name in enumerate(("apart", "together"))}
        return forms.run("normaliser", apart, x)

    x = jnp.zeros((1, 2))
    for call in (which, jax.jit(which)):
        before = float(call(x)[0, 0])
        for n, form in enumerate(("apart", "together", "apart")):
            with forms.forced("normaliser", form):
                assert float(call(x)[0, 0]) == n % 2
        assert float(call(x)[0, 0]) == before
    with (
        forms.forced("normaliser", "nowhere"),
        pytest.raises(ValueError, match="no form 'nowhere'"),
    ):
        which(x)
    with pytest.raises(ValueError, match="no op 'nothing'"), forms.forced("nothing", "apart"):
        pass


@pytest.mark.parametrize("name", CALLS)
def test_a_mesh_with_explicit_axes_is_one_device(name):
    """Rows divided along B and L: values and gradients, of one call and of two under `vmap`."""
    f, *args = CALLS[name]

    def at_real_tokens(y):
        rows = y.shape[:2] == IDS.shape
        return jnp.where((IDS > 0).reshape(B, L, *(1,) * (y.ndim - 2)), y, 0) if rows else y

    def call(*args):
        return jax.tree.map(at_real_tokens, f(IDS, *args))

    def both(*args):
        y, pull = jax.vjp(call, *args)
        weights = jax.tree.map(lambda y: jnp.cos(y), y)
        return y, pull(weights), jax.vmap(call)(*(jnp.stack([x, 2 * x]) for x in args))

    mesh = jax.make_mesh((2, 4), ("data", "seq"))

    def place(x):
        spec = P("data", "seq") if x.shape[:2] == (B, L) else P("data") if len(x) == B else P()
        return jax.device_put(x, NamedSharding(mesh, spec))

    expected = jax.jit(both)(*args)
    with jax.set_mesh(mesh):
        found = jax.jit(both)(*map(place, args))
        rows = found[0][0] if isinstance(found[0], tuple) else found[0]
        assert jax.typeof(rows).sharding.spec[:2] == ("data", "seq")
        assert jax.typeof(jax.tree.leaves(found[2])[0]).sharding.spec[1:3] == ("data", "seq")
    assert_trees_close(found, jax.tree.map(np.asarray, expected), ratio=1e-5)


def test_an_explicit_mesh_need_not_be_the_ambient_one():
    q = jax.device_put(normal(0, 4, 5, 1, 2), NamedSharding(jax.make_mesh((4,), ("b",)), P("b")))
    o, s = ops.gated_linear_attention(q, q, q)
    assert jax.typeof(o).sharding.spec[0] == jax.typeof(s).sharding.spec[0] == "b"


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"rope", "attend_blocks", "near_blocks"}))
def test_nothing_comes_of_nothing(name):
    """Rows of no tokens leave the state as padding does; a batch of no rows has no outputs."""
    f, *args = ALL[name]

    def shorter(x):
        rows = x.shape[:2] == (B, L)
        return x[:, :0] if rows else x[..., :0, :0] if x.shape[-2:] == (L, L) else x

    def fewer(x):
        return x[:0] if len(x) == B else x

    whole = jax.eval_shape(lambda *args: f(IDS, *args), *args)
    none = jax.tree.map(fewer, args)
    for y, found in zip(*map(jax.tree.leaves, (whole, f(fewer(IDS), *none))), strict=True):
        assert (found.shape, found.dtype) == ((0, *y.shape[1:]), y.dtype)
    carried = jax.tree.leaves(jax.jit(f)(np.zeros_like(IDS), *args))
    for ids in (None, IDS[:, :0]):
        found = jax.tree.leaves(f(ids, *map(shorter, args)))
        for y, state, other in zip(jax.tree.leaves(whole), carried, found, strict=True):
            if y.shape[:2] == (B, L):
                assert (other.shape, other.dtype) == ((B, 0, *y.shape[2:]), y.dtype)
            else:
                assert_trees_close(other, state, ratio=1e-6)


@pytest.mark.every_case
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("name", ALL)
def test_one_width_of_numbers(name, wide):
    """With 64 bits allowed: none of 32 in a float64 op, and a float32 op returns none of 64."""
    f, *args = ALL[name]
    with x64():
        if wide:
            args = [a.astype(np.result_type(a, np.float64)) for a in args]
        program = jax.make_jaxpr(functools.partial(f, IDS))(*args).jaxpr
    made = program.outvars if not wide else [v for eqn in equations(program) for v in eqn.outvars]
    for v in made:
        kind, bits = v.aval.dtype.kind, 8 * v.aval.dtype.itemsize
        if v.aval.ndim and kind in "fc":
            assert bits == (64 if wide else 32) * (1 + (kind == "c")), v.aval


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


SCALE = jnp.array(0.5)  # read by a cell as a global name


class Plain:
    def __init__(self, w):
        self.w = w

    def cell(self, h, x):
        return jnp.tanh(h + self.w * x)


class Module(nnx.Module):
    def __init__(self, w):
        self.w = nnx.Param(jnp.asarray(w))

    def cell(self, h, x):
        return jnp.tanh(h + self.w[...] * x)


def closure(w):
    parts = {"w": jnp.asarray(w)}

    def own(x, one=1):
        return one * parts["w"] * x

    if w is None:
        never = 0

    none = w is None
    return lambda h, x: jnp.tanh(h + own(x) + (never if none else 0))


def reads_a_global(w):
    globals()["SCALE"] = jnp.asarray(w)
    return lambda h, x: jnp.tanh(h + SCALE * x)


def static_constant(w):
    sizes, weight = np.array([2, D - 2]), np.full(D, w, "f")  # sizes are known while tracing

    def cell(h, x):
        a, b = jnp.split(weight * x, np.cumsum(sizes)[:-1], axis=-1)
        return jnp.tanh(h + jnp.concatenate([a, b], -1))

    return cell


MADE = {  # from a weight, a cell made anew; whether it is one program whatever the weight
    "closure": (closure, True),
    "partial": (
        lambda w: functools.partial(lambda w, h, x: jnp.tanh(h + w * x), np.array(w)),
        True,
    ),
    "global array": (reads_a_global, True),
    "method of a module": (lambda w: Module(w).cell, True),
    "constants": (static_constant, False),
    "method of an object": (lambda w: Plain(jnp.asarray(w)).cell, False),
}


@pytest.mark.parametrize("kind", MADE)
def test_cells_made_anew_are_compiled_once_and_read_as_they_are(kind, compiled_programs):
    make, once = MADE[kind]
    x, h0 = jnp.asarray(normal(0, B, L, D)), jnp.zeros((B, D))

    def call(w):
        return ops.nonlinear_scan(make(w), x, h0)[0]

    assert compiled_programs(call, 0.1) > 0
    if kind != "method of an object":  # of which nothing is known
        assert compiled_programs(call, 0.1) == 0
    assert (compiled_programs(call, 0.2) == 0) == once
    for w in (0.1, 0.2):
        assert_trees_close(call(w), reference(lambda h, x, w=w: np.tanh(h + w * x), x, h0)[0])


def test_an_object_that_changes_is_read_again():
    x, h0 = jnp.asarray(normal(0, B, L, D)), jnp.zeros((B, D))
    for held in (Plain(jnp.array(0.1)), Module(0.1)):
        first = ops.nonlinear_scan(held.cell, x, h0)[0]
        held.w = nnx.Param(jnp.array(0.2)) if isinstance(held, Module) else jnp.array(0.2)
        second = ops.nonlinear_scan(held.cell, x, h0)[0]
        assert float(jnp.abs(second - first).max()) > 0.01


TRACED = []


def test_a_step_traces_its_cell_once():
    """And a loop, whose products are found first, twice."""
    kernel = jnp.eye(D)

    def cell(h, x, dot):
        TRACED.append(1)
        return jnp.tanh(dot(h) + x)

    def scan(x):
        return ops.nonlinear_scan(cell, x, x[:, 0], kernels=(kernel,))

    for length, times in ((1, 1), (5, 2)):
        del TRACED[:]
        jax.make_jaxpr(scan)(jnp.ones((2, length, D)))
        assert len(TRACED) == times


@pytest.mark.parametrize(("batch", "length"), [(2, 0), (0, 5)])
def test_no_tokens_and_no_rows_are_valid(batch, length):
    x, s0 = jnp.zeros((batch, length, 2, 3)), jnp.ones((batch, 2, 3, 3))
    ids = jnp.ones((batch, length), jnp.int32)
    for f, rest in (
        (ops.gated_linear_attention, (x,)),
        (ops.gated_linear_attention, (x[..., :1],)),
        (ops.gated_delta_rule, (x[..., 0], x)),
        (ops.dplr_delta_rule, (x, x, x)),
    ):
        o, s = jax.eval_shape(functools.partial(f, segment_ids=ids), x, x, x, *rest, s0)
        assert (o.shape, s.shape) == (x.shape, s0.shape)
    assert_trees_close(ops.gated_linear_attention(x, x, x, x, s0)[1], s0)
