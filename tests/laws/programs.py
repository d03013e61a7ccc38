"""Laws of how a program may run a mixer: eagerly, on meshes, differentiated, exported."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from .cases import B, C, L, N, normal
from .compare import expect, rms
from .subject import Subject, flat

EVEN = L - 1  # a length that two devices can divide


def compiled_once(s: Subject) -> None:
    """Outside of jit the second call, step and gradient of a shape compile nothing."""
    x, ids = jnp.asarray(normal(41, B, C, s.d_model)), jnp.asarray(s.ids[:, :C])
    token = x[:, :1]
    calls: dict[str, Callable] = {
        "a call": lambda: s.mixer(x),
        "a call with ids": lambda: s.mixer(x, ids),
        "a gradient": lambda: jax.grad(lambda p: s.merge(p)(x).sum())(s.params),
    }
    if s.streams:
        state = s.mixer.init_state(B)
        calls["a step"] = lambda: s.mixer.extend(token, state)
        calls["a step with ids"] = lambda: s.mixer.extend(token, state, ids[:, :1])
    for what, call in calls.items():
        call()
        count = compilations(call)
        expect(count == 0, f"{what} compiles {count} programs when it is called again")


def compilations(call: Callable[[], object]) -> int:
    """How many programs JAX compiles for it."""
    seen: list[str] = []

    def listen(name: str, *_, **__) -> None:
        seen.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.block_until_ready(call())
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return sum("backend_compile" in name for name in seen)


def explicit_mesh(s: Subject) -> None:
    """On a mesh of `jax.make_mesh`, rows divided, all is as on one device: gradients, streams."""
    x, dy = normal(42, B, L, s.d_model), normal(43, B, L, s.d_model)
    ids = s.ids.copy()
    ids[:, EVEN:] = 0
    dy *= (ids > 0)[..., None]
    whole = s.rows(x, ids, dy)
    several = np.repeat([1, 1, 1, 2, 2], B * C).reshape(N, B, C).astype(np.int32)
    parts = normal(44, N, B, C, s.d_model), several
    stream = s.chunks(*parts, parts[0]) if s.streams else None
    mesh = _mesh()

    def put(a: np.ndarray, *spec: str | None) -> jax.Array:
        return jax.device_put(a, NamedSharding(mesh, P(*spec)))

    with jax.set_mesh(mesh):
        rows = (put(a[:, :EVEN], *mesh.axis_names) for a in (x, ids, dy))
        found = s.rows(*rows)
        s.close(found.y, whole.y[:, :EVEN], what="outputs")
        s.close(found.dx, whole.dx[:, :EVEN], what="gradient of x")
        s.close(flat(found.dparams), flat(whole.dparams), what="gradient of the parameters")
        two = jnp.stack(2 * [put(x[:, :EVEN], *mesh.axis_names)])
        jax.eval_shape(jax.vmap(lambda x: s.merge(s.params)(x)), two)
        if stream is None:
            return
        placed = [put(a, None, "data") for a in (*parts, parts[0])]
        found = s.chunks(*placed)
        s.close(found.y, stream.y, what="outputs of the stream")
        s.close(found.dx, stream.dx, what="gradient of the stream's x")
        step = jax.jit(lambda x, state: s.merge(s.params).extend(x, state), donate_argnums=1)
        state = jax.tree.map(lambda a: put(a, "data"), s.merge(s.params).init_state(B))
        for n in range(2):
            y, state = step(put(parts[0][n], "data"), state)
            s.close(y, stream.y[n], what="outputs of steps with donated states")


def _mesh() -> jax.sharding.Mesh:
    """Axes for rows and their tokens, as many as there are devices."""
    devices = len(jax.devices())
    if devices >= 4:
        return jax.make_mesh((2, 2), ("data", "seq"))
    return jax.make_mesh((min(devices, 2), 1), ("data", "seq"))


def derivatives(s: Subject) -> None:
    """Forward mode is the transpose of reverse mode; both compositions, vmap, checkpoint exist."""
    x, v, dy = (normal(seed, B, L, s.d_model) for seed in (45, 46, 47))
    dparams = jax.tree.map(lambda p: jnp.asarray(normal(48, *p.shape), p.dtype), s.params)
    ids = s.ids
    dy *= (ids > 0)[..., None]

    def call(params, x):
        return s.merge(params)(x, ids)

    moved = jax.jit(lambda p, x, dp, v: jax.jvp(call, (p, x), (dp, v))[1])(s.params, x, dparams, v)
    back = s.rows(x, ids, dy)
    forward = float(np.sum(np.asarray(moved, np.float64) * dy))
    reverse = float(flat(back.dparams).astype(np.float64) @ flat(dparams)) + np.sum(back.dx * v)
    scale = rms(moved) * rms(dy) * dy.size**0.5
    seen = f"<dy, J v> = {forward:.6g} and <Jᵀ dy, v> = {reverse:.6g}"
    expect(abs(forward - reverse) <= 10 * s.ratio * scale, seen)

    def loss(params, x):
        return jnp.sum(jnp.square(call(params, x)))

    slope = jax.grad(loss, argnums=(0, 1))
    at, along = (s.params, x), (dparams, v)
    forward_over_reverse = lambda *at: jax.jvp(slope, at, along)[1]  # noqa: E731
    reverse_over_forward = jax.grad(lambda *at: jax.jvp(loss, at, along)[1], argnums=(0, 1))
    for f in (forward_over_reverse, reverse_over_forward, jax.grad(jax.checkpoint(loss))):
        jax.eval_shape(f, *at)
    many = np.stack([x, v])
    jax.eval_shape(jax.vmap(slope, in_axes=(None, 0)), s.params, many)
    jax.eval_shape(lambda x: jax.linearize(functools.partial(loss, s.params), x)[1](x), x)


def exported(s: Subject) -> None:
    """A call and a step of any batch size are exported with flat leaves."""
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, C, s.d_model), jnp.float32)
    leaves, tree = jax.tree.flatten(s.params)

    def call(leaves, x):
        return s.merge(tree.unflatten(leaves))(x)

    made = [jax.export.export(jax.jit(call))(leaves, x)]
    if s.streams:
        state = jax.eval_shape(lambda: s.mixer.init_state(1))
        flat_state, form = jax.tree.flatten(state)
        start = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in flat_state]

        def step(leaves, x, state):
            y, state = s.merge(tree.unflatten(leaves)).extend(x, form.unflatten(state))
            return y, jax.tree.leaves(state)

        made.append(jax.export.export(jax.jit(step))(leaves, x, start))
    for program in made:
        (free,) = {d for aval in program.in_avals for d in aval.shape if d == batch}
        expect(free == batch, "the batch size became a number")
