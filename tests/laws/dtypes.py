"""Laws of dtypes. They look at traced programs, so that nothing is compiled."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.mixer import Mixer

from .cases import B, C, L
from .compare import expect
from .subject import Subject

WIDTHS = (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)
NARROW = (np.dtype(np.float32), np.dtype(np.complex64))


def outputs_and_states(s: Subject) -> None:
    """Outputs have x's dtype, and no width of x changes that of a state."""
    with jax.enable_x64(True):
        for dtype in WIDTHS:
            y = jax.eval_shape(s.mixer, jax.ShapeDtypeStruct((B, L, s.d_model), dtype))
            expect(y.dtype == dtype, f"{y.dtype} out of {jnp.dtype(dtype)}")
            if not s.streams:
                continue
            state = s.mixer.init_state(B)
            x = jax.ShapeDtypeStruct((B, C, s.d_model), dtype)
            y, after = jax.eval_shape(s.mixer.extend, x, state)
            expect(y.dtype == dtype, f"extend: {y.dtype} out of {jnp.dtype(dtype)}")
            old = jax.tree_util.tree_leaves_with_path(state)
            for (path, a), b in zip(old, jax.tree.leaves(after), strict=True):
                same = (a.shape, a.dtype) == (b.shape, b.dtype)
                where = jax.tree_util.keystr(path)
                expect(same, f"{jnp.dtype(dtype)} in: state{where} {a.dtype} becomes {b.dtype}")


def parameters_of_any_width(s: Subject) -> None:
    """Parameters are made, finite, in float16, bfloat16 and float32."""
    for dtype in WIDTHS[:3]:
        mixer = _made(s, param_dtype=dtype)
        if mixer is None:
            return
        params = nnx.state(mixer, nnx.Param)
        for path, p in jax.tree_util.tree_leaves_with_path(params):
            where = jax.tree_util.keystr(path)
            expect(p.dtype == dtype, f"{where} is {p.dtype}, asked for {jnp.dtype(dtype)}")
            fine = np.isfinite(np.asarray(p, np.float32)).all()
            expect(fine, f"{where} is not finite in {jnp.dtype(dtype)}")


def nothing_narrow_in_float64(s: Subject) -> None:
    """A float64 mixer holds nothing of float32, in its arrays and in its programs."""
    with jax.enable_x64(True):
        mixer = _made(s, dtype=jnp.float64, param_dtype=jnp.float64)
        if mixer is None:
            return
        arrays = [nnx.state(mixer), mixer.init_state(B) if s.streams else ()]
        for path, a in jax.tree_util.tree_leaves_with_path(arrays):
            expect(a.dtype not in NARROW, f"{jax.tree_util.keystr(path)} is {a.dtype}")
        x = jax.ShapeDtypeStruct((B, C, s.d_model), jnp.float64)
        ids = jax.ShapeDtypeStruct((B, C), jnp.int32)
        programs = [jax.make_jaxpr(lambda x, ids: mixer(x, ids))(x, ids)]
        if s.streams:
            extend = jax.make_jaxpr(lambda x, state, ids: mixer.extend(x, state, ids))
            programs.append(extend(x, arrays[1], ids))
        for program in programs:
            found = sorted(set(_narrow(program.jaxpr)))
            expect(not found, f"float32 comes out of {', '.join(found)}")


def _made(s: Subject, **dtypes) -> Mixer | None:
    """The mixer in other dtypes, None where `make` does not take them."""
    try:
        return s.make(s.d_model, **dtypes, rngs=nnx.Rngs(0))
    except TypeError:
        return None


def _narrow(jaxpr):
    """The primitives that give arrays of float32, loops and branches included."""
    for equation in jaxpr.eqns:
        for out in equation.outvars:
            if getattr(out.aval, "dtype", None) in NARROW:
                yield equation.primitive.name
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _narrow(inner)
