"""Laws of the streaming form."""

from __future__ import annotations

import jax
import numpy as np

from .cases import PACKED, B, C, L, N, chunked, joined, normal, ragged
from .compare import expect
from .subject import GARBAGE, Chunks, Subject, flat


def ragged_one_segment(s: Subject) -> None:
    """Chunks of any lengths, each row at its own pace, continue one segment as the rows do."""
    _ragged(s, np.where(PACKED > 0, 1, 0).astype(np.int32), seeds=(0,))


def ragged_packed(s: Subject) -> None:
    """Chunks with borders of segments inside and between them give what packed rows give."""
    _ragged(s, PACKED, seeds=(1, 2, 3))


def _ragged(s: Subject, ids: np.ndarray, seeds: tuple[int, ...]) -> None:
    x = normal(11, B, L, s.d_model)
    expected = np.where(ids[..., None] > 0, s.rows(x, ids).y, 0)
    for seed in seeds:
        places = ragged(ids, seed)
        y = joined(_stream(s, x, ids, places).y, places, L)
        s.close(y, expected, what="outputs of the stream")


def _stream(s: Subject, x, ids, places, dy=None) -> Chunks:
    dy = None if dy is None else chunked(dy, places, 0)
    return s.chunks(chunked(x, places, GARBAGE), chunked(ids, places, 0), dy)


def steps_equal_parallel(s: Subject) -> None:
    """One token at a time, without segment ids, gives what the whole row gives."""
    plain = s.plain(normal(12, B, L, s.d_model))
    s.close(plain.steps, plain.y, what="outputs of the steps")
    position = plain.state.position
    expect(np.all(position == L), f"after {L} tokens the state counts {position}")


def padding_leaves_the_state(s: Subject) -> None:
    """A chunk of padding changes no bit of the state."""
    x = normal(13, N, B, C, s.d_model)
    x[1:] *= 1e4
    ids = np.zeros((N, B, C), np.int32)
    ids[0] = 2
    states = s.chunks(x, ids).states
    for path, leaf in jax.tree_util.tree_leaves_with_path(states):
        same = np.all((leaf[1:] == leaf[:1]) | (np.isnan(leaf[1:]) & np.isnan(leaf[:1])))
        expect(same, f"padding changes the state at {jax.tree_util.keystr(path)}")


def gradients_through_the_state(s: Subject) -> None:
    """Back-propagation through ragged chunks and their states equals that of the rows."""
    x, dy = normal(15, B, L, s.d_model), normal(16, B, L, s.d_model) * (PACKED[..., None] > 0)
    places = ragged(PACKED, seed=2)
    parts, whole = _stream(s, x, PACKED, places, dy), s.rows(x, PACKED, dy)
    s.close(joined(parts.dx, places, L), whole.dx, what="gradient of x")
    expect(np.all(parts.dx[places < 0] == 0), "padding of a chunk has a gradient")
    s.close(flat(parts.dparams), flat(whole.dparams), what="gradient of the parameters")
    for path, g in jax.tree_util.tree_leaves_with_path((parts.dparams, whole.dparams)):
        name = jax.tree_util.keystr(path)
        expect(np.all(np.isfinite(g)), f"the gradient of {name} is not finite")


def state_size(s: Subject) -> None:
    """The state has the declared size, numbers of at least 32 bits, the batch axis first."""
    start = s.mixer.init_state(B)
    for leaf in jax.tree.leaves(start.inner):
        expect(leaf.shape[:1] == (B,), f"a leaf of {leaf.shape} has not the batch axis first")
        expect(leaf.dtype.itemsize >= 4, f"a leaf of {leaf.dtype} is too narrow")
    size, declared = sum(leaf.size for leaf in jax.tree.leaves(start.inner)), s.mixer.state_size()
    expect(size == B * declared, f"{size / B} numbers for a row, state_size() says {declared}")
    ids = np.ones((N, B, C), np.int32)
    after = s.chunks(normal(17, N, B, C, s.d_model), ids).states
    for a, b in zip(jax.tree.leaves(start), jax.tree.leaves(after), strict=True):
        described = f"{a.dtype}{a.shape}, after a chunk {b.dtype}{b.shape[1:]}"
        expect((a.shape, a.dtype) == (b.shape[1:], b.dtype), f"the state begins as {described}")
