"""SLiCE against its recurrence, one token and block at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import SLiCE
from seqzoo.models.ops import block_scan
from seqzoo.models.ops.layout.backends import forced
from tests.helpers import assert_close, assert_trees_close, x64
from tests.laws import PACKED, normal, perturbed, runs

D = 5
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


@pytest.mark.parametrize("block", [2, 3])
def test_equals_the_steps(block):
    """A new segment begins at the learned state, and so does its first token act on it."""
    states = 6
    with x64():
        mixer = SLiCE(D, d_state=states, block_size=block, **F64, rngs=nnx.Rngs(0))
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        flat = nnx.to_flat_state(nnx.state(mixer, nnx.Param))
        w = {"/".join(path): np.asarray(leaf[...]) for path, leaf in flat}
        x = normal(0, *PACKED.shape, D).astype(np.float64)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
    want = np.zeros_like(x)
    for row, run in ((b, run) for b, ids in enumerate(PACKED) for run in runs(ids)):
        h = w["initial"].reshape(-1, block)
        for t in run:
            A = (x[row, t] @ w["a_proj/kernel"] + w["a_proj/bias"]).reshape(-1, block, block)
            drive = (x[row, t] @ w["in_proj/kernel"]).reshape(-1, block)
            h = np.stack([h[i] + A[i] @ h[i] + drive[i] for i in range(len(h))])
            want[row, t] = h.ravel() @ w["out_proj/kernel"]
    real = PACKED > 0
    assert_close(y[real], want[real], ratio=1e-12)


def test_both_forms_and_their_derivatives_agree():
    """The backward pass written by hand with the loop is that of the parallel prefix."""
    A, b = 0.6 * normal(0, *PACKED.shape, 2, 3, 3), normal(1, *PACKED.shape, 2, 3)
    h0, g = normal(2, len(A), 2, 3), normal(3, *b.shape)

    def both(A, b, h0):
        y, pull = jax.vjp(lambda *args: block_scan(*args, segment_ids=PACKED), A, b, h0)
        return y, pull(jnp.asarray(g))

    def one(A, b, h0):
        """By JAX's own derivative of a loop."""

        def step(h, now):
            A, b, keep, real = now
            new = jnp.einsum("bhij,bhj->bhi", A, h * keep) + b
            h = jnp.where(real, new, h)
            return h, h

        before = np.pad(PACKED[:, :-1], ((0, 0), (1, 0)))
        for t in range(1, before.shape[1]):
            before[:, t] = np.where(before[:, t] == 0, before[:, t - 1], before[:, t])
        keep = (before == PACKED) | (before == 0)
        axes = (np.moveaxis(z, 1, 0) for z in (keep, PACKED > 0))
        masks = (z[:, :, None, None] for z in axes)
        xs = (jnp.moveaxis(A, 1, 0), jnp.moveaxis(b, 1, 0), *masks)
        return jnp.moveaxis(jax.lax.scan(step, h0, xs)[1], 0, 1)

    want = jax.jit(lambda *args: (lambda y, pull: (y, pull(jnp.asarray(g))))(*jax.vjp(one, *args)))
    for form in ("sequential", "associative"):
        with forced("block_scan", form):
            assert_trees_close(jax.jit(both)(A, b, h0), want(A, b, h0), ratio=1e-5)


@pytest.mark.parametrize(
    "options", [{"block_size": 4}, {"d_state": 0}, {"step": 0.0, "block_size": 1}]
)
def test_what_cannot_be_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SLiCE(D, **options, rngs=nnx.Rngs(0))
