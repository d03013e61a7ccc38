import jax.numpy as jnp
import numpy as np

from seqzoo.models.ops.layout.segments import compact, segments
from tests.laws import PACKED, runs


def by_hand(ids, last_id=0, offset=0):
    """Position and run of every real token, token by token."""
    position, run = np.zeros(len(ids), int), np.zeros(len(ids), int)
    first, current, place, number = True, last_id, offset - 1, 0
    for t, i in enumerate(ids):
        if i and i != current:
            place, number, current = -1, number + (not first), i
        if i:
            first, place = False, place + 1
        position[t], run[t] = place, number
    return position, run


def test_positions_and_runs_of_rows():
    layout = segments(jnp.array(PACKED), jnp.array([1, 3, 2, 2]), jnp.array([4, 5, 6, 7]))
    for b, (last_id, offset) in enumerate([(1, 4), (3, 5), (2, 6), (2, 7)]):
        position, run = by_hand(PACKED[b], last_id, offset)
        real = PACKED[b] > 0
        np.testing.assert_array_equal(np.asarray(layout.position)[b][real], position[real])
        np.testing.assert_array_equal(np.asarray(layout.run)[b][real], run[real])
        assert len(runs(PACKED[b])) == np.asarray(layout.run)[b].max() + 1


def test_flipping_keeps_the_runs():
    layout, flipped = segments(jnp.array(PACKED)), segments(jnp.array(PACKED)).flip()
    for b in range(len(PACKED)):
        real = PACKED[b] > 0
        forward = np.asarray(layout.run)[b][real]
        backward = np.asarray(flipped.run)[b][::-1][real]
        np.testing.assert_array_equal(backward, forward.max() - forward)


def test_compaction_is_stable_and_can_be_undone():
    layout = segments(jnp.array(PACKED))
    moved = compact(layout)
    x = jnp.arange(PACKED.size).reshape(*PACKED.shape, 1)
    np.testing.assert_array_equal(moved.unpack(moved.pack(x)), x)
    for b in range(len(PACKED)):
        count = (PACKED[b] > 0).sum()
        kept = np.asarray(moved.pack(x))[b, :count, 0]
        np.testing.assert_array_equal(kept, np.asarray(x)[b, PACKED[b] > 0, 0])
        assert np.asarray(moved.segments.valid)[b].sum() == count
        assert (np.diff(np.asarray(moved.segments.run)[b]) >= 0).all()


def test_no_tokens_and_no_rows_have_a_layout():
    for shape in ((2, 0), (0, 3)):
        assert [x.shape for x in segments(jnp.zeros(shape, jnp.int32))] == [shape] * 3
