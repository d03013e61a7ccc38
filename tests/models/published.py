"""Runs a mixer with the parameters of a published implementation and compares everything."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.mixer import Context
from seqzoo.models.ops.layout.segments import all_real
from tests.helpers import assert_close


def transposed(x):
    return x.T


def taps(x):
    """A depthwise torch kernel [D, 1, W] as [W, D]."""
    return x[:, 0].T


def same(x):
    return x


class Published:
    """`names`: our path -> (published name, what turns their array into ours)."""

    def __init__(self, mixer, names):
        self.names = names
        self.graphdef, self.params, self.rest = nnx.split(mixer, nnx.Param, ...)
        self.paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(self.params)]
        assert set(self.paths) == set(names), set(self.paths) ^ set(names)
        self.states = jax.jit(self._with_state)

    def load(self, arrays, prefix="param_"):
        """Their arrays as a dictionary by our paths, in the precision at hand."""
        out = {}
        for path in self.paths:
            theirs, turn = self.names[path]
            out[path] = jnp.asarray(turn(np.asarray(arrays[prefix + theirs])))
        return out

    def merge(self, params):
        leaves = [params[path] for path in self.paths]
        assert [a.shape for a in leaves] == [a.shape for a in jax.tree.leaves(self.params)]
        state = jax.tree.unflatten(jax.tree.structure(self.params), leaves)
        return nnx.merge(self.graphdef, state, self.rest, copy=True)

    def _with_state(self, params, x):
        mixer = self.merge(params)
        return mixer._mix(x, mixer._initial(len(x)), Context(all_real(x.shape[1])))

    def check(self, case, ratio):
        """Outputs and all gradients; returns the state."""
        params, x, dy = self.load(case), jnp.asarray(case["x"]), jnp.asarray(case["cotangent"])

        @jax.jit
        def run(params, x):
            y, pull = jax.vjp(lambda params, x: self.merge(params)(x), params, x)
            return y, *pull(dy)

        y, grads, dx = run(params, x)
        assert_close(y, case["y"], ratio=ratio, what="y")
        assert_close(dx, case["grad_x"], ratio=ratio, what="gradient of x")
        theirs = self.load(case, "grad_")
        for path in self.paths:
            assert_close(grads[path], theirs[path], ratio=ratio, what=f"gradient of {path}")
        y, state = self.states(params, x)
        assert_close(y, case["y"], ratio=ratio, what="y with a state")
        return state

    def check_steps(self, case, ratio):
        """One token at a time."""
        mixer, ys = self.merge(self.load(case)), []
        state = mixer.init_state(len(case["x"]))
        step = jax.jit(lambda state, x: mixer.extend(x, state))
        for t in range(case["x"].shape[1]):
            y, state = step(state, jnp.asarray(case["x"][:, t : t + 1]))
            ys.append(y)
        assert_close(jnp.concatenate(ys, 1), case["y_stepwise"], ratio=ratio)
