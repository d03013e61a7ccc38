"""Random orthogonal matrices: what they are, and that no batch of them is decomposed at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.matrix.orthogonal import haar, orthogonal
from tests.helpers import assert_close


@pytest.mark.parametrize("shape", [(5, 5), (4, 7), (7, 4)])
def test_rows_or_columns_are_orthonormal_and_as_flax_has_them(shape):
    key = jax.random.key(0)
    m = orthogonal(key, shape, scale=0.5)
    short = m @ m.T if shape[0] <= shape[1] else m.T @ m
    assert_close(short, 0.25 * np.eye(min(shape)), ratio=1e-6)
    assert np.array_equal(m, jax.nn.initializers.orthogonal(0.5)(key, shape, jnp.float32))


@pytest.mark.parametrize(
    "draw", [lambda key: orthogonal(key, (4, 4)), lambda key: haar(key, 4, jnp.float32)]
)
def test_a_batch_is_drawn_one_by_one(draw):
    keys = jax.random.split(jax.random.key(1), 3)
    assert np.array_equal(jax.vmap(draw)(keys), jnp.stack([draw(key) for key in keys]))
    text = jax.jit(jax.vmap(draw)).lower(keys).as_text()
    calls = [line for line in text.splitlines() if "geqrf" in line]
    assert calls
    assert all("tensor<4x4xf32>" in call for call in calls)
    assert not any("3x4x4xf32" in call for call in calls)
