"""What several processes wish to do after a step; found on the devices, so that no host waits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqzoo.train.devices.processes import process_count

VOTE = 4  # steps between two questions whether to stop; the answer is read as late


class Ballot:
    """What the processes wish to do after a step (stop, save), at a step that is the same for all.

    Every few steps a tiny program on the devices asks for the largest wish; the hosts read the
    answer when they ask again, so they never wait for it.
    """

    def __init__(self, mesh: Mesh):
        self._alone = process_count() == 1
        self._shape = (mesh.size,)
        self._votes = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._most = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: jax.Array | None = None
        self._wish = 0  # since the last question

    def asked(self, step: int, wish: int) -> int:
        """The largest wish, of which 0 is none; to be called after each step."""
        if self._alone:
            return wish
        # A wish that comes between two questions waits for the next one.
        self._wish = max(wish, self._wish)
        if step % VOTE:
            return 0
        before, vote, self._wish = self._asked, np.full(1, self._wish, np.int32), 0
        votes = jax.make_array_from_callback(self._shape, self._votes, lambda _: vote)
        self._asked = self._most(votes)
        return 0 if before is None else int(before)
