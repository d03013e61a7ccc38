"""What a stream of blocks remembers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.softmax.local_blocks import forget


@pytest.mark.parametrize("slots", [0, 1, 2, 5])
def test_recent_holds_the_latest_of_what_is_kept(slots):
    items, kept = jnp.arange(1.0, 9).reshape(2, 4), np.array([[1, 0, 1, 1], [0, 0, 0, 1]], bool)
    recent = forget(jax.ShapeDtypeStruct((), jnp.float32), 2, slots)
    kept = jnp.concatenate([recent.valid, kept], axis=1)
    after = recent.after(items, kept)
    for row, tokens in enumerate(([1, 3, 4], [8])):
        latest = tokens[max(0, len(tokens) - slots) :]
        assert after.items[row].tolist() == [0] * (slots - len(latest)) + latest
        assert after.count[row] == len(latest)
