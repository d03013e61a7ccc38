"""Mixers on a sequence that is divided over devices, against one device; and the table of it.

python -m tests.models.parallel [NAMES]         rewrites docs/parallel.md
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from seqzoo.models.registry import build
from tests.flags import set_flags
from tests.helpers import relative_error
from tests.laws import perturbed
from tests.models.tiny import TINY

B, L, D = 4, 16, 8
PACKED = np.array(
    [
        [1] * 16,  # through all borders
        [0, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 1, 0, 0, 0, 3],
        [3, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 3, 3, 4, 4],  # a part of padding
        [1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5],
    ],
    np.int32,
)
MESHES = {f"data {8 // n}, seq {n}": {"data": 8 // n, "seq": n} for n in (2, 4, 8)}
HEAD = f"| mixer | {' | '.join(MESHES)} |"
PAGE = Path(__file__).parents[2] / "docs" / "parallel.md"


class Differences(NamedTuple):
    """Relative rms differences to one device, the largest over arrays."""

    outputs: float
    states: float
    gradients: float


class Case:
    """A mixer with perturbed parameters, its results on one device, and those on meshes."""

    def __init__(self, name: str, *, causal: bool | None = None):
        mixer = build(name.split("@")[0], D, causal=causal, rngs=nnx.Rngs(0), **TINY[name])
        graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
        self.streams = mixer.causal and mixer.state_growth == "constant"
        ids = PACKED if mixer.packing == "native" else (PACKED > 0).astype(np.int32)

        def results(params, x, ids, dy):
            def y_of(params, x):
                y = nnx.merge(graphdef, params, rest, copy=True)(x, ids)
                return jnp.where(ids[..., None] > 0, y, 0)

            y, pull = jax.vjp(y_of, params, x)
            state = ()
            if self.streams:
                same = nnx.merge(graphdef, params, rest, copy=True)
                state = same.extend(x, same.init_state(B), ids)[1]
            return y, state, pull(dy)

        self.results = results
        draw = np.random.default_rng(0)
        x, dy = draw.normal(size=(2, B, L, D)).astype(np.float32)
        self.args = perturbed(params), x, ids, dy

    @functools.cached_property
    def alone(self):
        return jax.device_get(jax.jit(self.results)(*self.args))

    def compiled(self, mesh: jax.sharding.Mesh):
        def call(*args):
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return self.results(*args)

        rows, whole = NamedSharding(mesh, P("data", "seq")), NamedSharding(mesh, P())
        given = (whole, rows, rows, rows)
        made = (rows, None, (whole, rows))
        return jax.jit(call, in_shardings=given, out_shardings=made).lower(*self.args).compile()

    def differences(self, axes: dict[str, int]) -> Differences:
        mesh = mesh_of(axes)
        together = jax.device_get(self.compiled(mesh)(*self.args))
        return Differences(*map(_largest, together, self.alone))


def mesh_of(axes: dict[str, int]) -> jax.sharding.Mesh:
    kinds = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=kinds)


def _largest(actual, desired) -> float:
    sizes = [float(np.max(np.abs(b), initial=0)) for b in jax.tree.leaves(desired)]
    rounding = 1e-6 * max(sizes, default=0.0)

    def error(a, b):
        if jnp.issubdtype(np.asarray(b).dtype, jnp.inexact):
            # Gradients that cancel to rounding have no relative error of their own.
            return relative_error(a, b) if np.max(np.abs(b), initial=0) > rounding else 0.0
        return float(np.any(np.asarray(a) != b))

    return max(map(error, jax.tree.leaves(actual), jax.tree.leaves(desired)), default=0.0)


def main(names: list[str]) -> None:
    """Adds or replaces the rows of `names`, all by default."""
    for name in names or TINY:
        case = Case(name)
        cells = []
        for axes in MESHES.values():
            d = case.differences(axes)
            state = f"{d.states:.0e}" if case.streams else "-"
            cells.append(f"{d.outputs:.0e} / {state} / {d.gradients:.0e}")
        write({name: f"| `{name}` | {' | '.join(cells)} |"})
        jax.clear_caches()


def write(new: dict[str, str]) -> None:
    """The page with these rows beside those that its table of mixers has."""
    text, _, table = PAGE.read_text().partition(f"{HEAD}\n")
    rows = {line.split("`")[1]: line for line in table.splitlines()[1:]} | new
    rule = "|---" * (len(MESHES) + 1) + "|"
    lines = [HEAD, rule, *(rows[name] for name in TINY if name in rows)]
    PAGE.write_text(text + "\n".join(lines) + "\n")
    print(*new.values(), sep="\n", flush=True)


if __name__ == "__main__":
    set_flags()
    main(sys.argv[1:])
