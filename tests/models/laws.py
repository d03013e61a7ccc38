"""The laws that every mixer keeps, as functions of a `Subject`; tests run them over the registry.

Shapes are shared, so that a mixer costs a handful of compilations: rows of L tokens for the
parallel form, chunks of C with padding for streaming (padding is what makes a split ragged).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.mixer import Mixer
from seqzoo.models.registry import build
from tests.helpers import assert_close, rms

B, L, C, D = 3, 13, 5, 8
RATIO = 1e-5  # relative rms error, the same for every mixer


class Subject:
    """A mixer with perturbed parameters and its compiled forms."""

    def __init__(self, make: Callable[[], Mixer]):
        mixer = make()
        graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
        self.mixer = mixer
        packed = mixer.packing == "native"
        self.ids = PACKED if packed else (PACKED > 0).astype(np.int32)
        self.params = perturbed(params)

        def merge(params):
            return nnx.merge(graphdef, params, rest, copy=True)

        self.parallel = jax.jit(lambda params, x, ids: merge(params)(x, ids))
        self.extend = jax.jit(lambda params, x, state, ids: merge(params).extend(x, state, ids))

        def pullback(params, x, ids, dy):
            _, pull = jax.vjp(lambda params, x: merge(params)(x, ids), params, x)
            return pull(dy)

        self.pullback = jax.jit(pullback)

        def stream(params, x, ids):
            pad = -L % C  # the last chunk ends in padding
            x = jnp.pad(x, ((0, 0), (0, pad), (0, 0))).reshape(B, -1, C, D)
            ids = jnp.pad(ids, ((0, 0), (0, pad))).reshape(B, -1, C)

            def chunk(state, inputs):
                y, state = merge(params).extend(inputs[0], state, inputs[1])
                return state, y

            chunks = (jnp.moveaxis(x, 1, 0), jnp.moveaxis(ids, 1, 0))
            _, y = jax.lax.scan(chunk, merge(params).init_state(B), chunks)
            return jnp.moveaxis(y, 0, 1).reshape(B, -1, D)[:, :L]

        def stream_pullback(params, x, ids, dy):
            y, pull = jax.vjp(lambda params, x: stream(params, x, ids), params, x)
            return y, pull(dy)

        self.stream_pullback = jax.jit(stream_pullback)


def perturbed(params, scale: float = 0.1):
    """Every parameter moved away from its initialisation, where zero gates make laws vacuous."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(7), len(leaves))
    moved = [
        p + scale * jax.random.normal(k, p.shape, p.dtype)
        for p, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


@functools.lru_cache(maxsize=2)  # causal and both ways; more would fill the memory
def subject(name: str, causal: bool = True) -> Subject:
    from tests.models.tiny import TINY

    return Subject(
        lambda: build(name.split("@")[0], D, causal=causal, rngs=nnx.Rngs(0), **TINY[name])
    )


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


ONES = np.ones((B, L), np.int32)
# Padding on the left, in between and on the right; repeated ids; single tokens; one full row.
PACKED = np.array(
    [
        [0, 0, 1, 1, 0, 1, 2, 2, 2, 0, 1, 1, 0],
        [3, 3, 3, 3, 3, 0, 0, 4, 5, 5, 5, 5, 5],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ],
    np.int32,
)


def runs(ids: np.ndarray) -> list[np.ndarray]:
    """The positions of each segment of a row: maximal runs of one id with padding taken out."""
    found: list[list[int]] = []
    last = 0
    for t, i in enumerate(ids):
        if i == 0:
            continue
        if i != last:
            found.append([])
        found[-1].append(t)
        last = i
    return [np.array(run) for run in found]


def alone(s: Subject, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The outputs of every segment when it has a row to itself, put back where it came from."""
    segments = [(b, run) for b in range(len(x)) for run in runs(ids[b])]
    y = np.zeros_like(x)
    for start in range(0, len(segments), B):
        group = segments[start : start + B]
        rows, row_ids = np.zeros((B, L, D), np.float32), np.zeros((B, L), np.int32)
        for i, (b, run) in enumerate(group):
            rows[i, : len(run)], row_ids[i, : len(run)] = x[b, run], 1
        out = np.asarray(s.parallel(s.params, rows, row_ids))
        for i, (b, run) in enumerate(group):
            y[b, run] = out[i, : len(run)]
    return y


def law_shapes_and_numbers(s: Subject) -> None:
    """[B, L, D] float32 in and out, and the path without segment ids gives the same numbers."""
    x = normal(0, B, L, D)
    y = s.parallel(s.params, x, ONES)
    assert y.shape == (B, L, D)
    assert y.dtype == jnp.float32
    assert rms(y) > 1e-3
    assert_close(s.parallel(s.params, x, None), y, ratio=RATIO)


def law_packed_equals_separate(s: Subject) -> None:
    x = normal(1, B, L, D)
    packed = np.where(s.ids[..., None] > 0, s.parallel(s.params, x, s.ids), 0)
    assert_close(packed, alone(s, x, s.ids), ratio=RATIO)


def law_padding_is_invisible(s: Subject) -> None:
    """Garbage at padding changes no output, and gets no gradient."""
    x, dy = normal(2, B, L, D), normal(3, B, L, D) * (s.ids[..., None] > 0)
    garbage = np.where(s.ids[..., None] > 0, x, 1e4 * normal(4, B, L, D)).astype(np.float32)
    real = s.ids > 0
    y = np.asarray(s.parallel(s.params, x, s.ids))[real]
    assert_close(np.asarray(s.parallel(s.params, garbage, s.ids))[real], y, ratio=RATIO)
    _, dx = s.pullback(s.params, garbage, s.ids, dy)
    assert np.all(np.asarray(dx)[~real] == 0), "padding has a gradient"
    assert np.all(np.isfinite(dx))


def law_causal(s: Subject) -> None:
    """Neither a value nor a gradient comes from the future, and the past is felt."""
    t = 7
    x = normal(5, B, L, D)
    future = x.copy()
    future[:, t + 1 :] = 300.0 * normal(6, B, L - t - 1, D)
    before = np.asarray(s.parallel(s.params, x, ONES))[:, : t + 1]
    after = np.asarray(s.parallel(s.params, future, ONES))[:, : t + 1]
    assert_close(after, before, ratio=RATIO, what="outputs before the changed future")
    dx = _gradient_at(s, x, t)
    assert np.all(dx[:, t + 1 :] == 0), "a gradient from the future"
    assert rms(dx[:, t]) > 1e-4, "the current token is not felt"
    assert rms(dx[:, t - 1]) > 1e-6, "the token before is not felt"
    assert rms(dx[:, : t - 1]) > 1e-6, "the past is not felt"


def law_both_ways(s: Subject) -> None:
    t = 6
    dx = _gradient_at(s, normal(5, B, L, D), t)
    assert rms(dx[:, :t]) > 1e-6, "the past is not felt"
    assert rms(dx[:, t + 1 :]) > 1e-6, "the future is not felt"


def _gradient_at(s: Subject, x: np.ndarray, t: int) -> np.ndarray:
    dy = np.zeros((B, L, D), np.float32)
    dy[:, t] = normal(8, B, D)
    return np.asarray(s.pullback(s.params, x, ONES, dy)[1])


def law_rows_are_independent(s: Subject) -> None:
    x = normal(9, B, L, D)
    other = x.copy()
    other[1:] = 50 * normal(10, B - 1, L, D)
    first = np.asarray(s.parallel(s.params, x, s.ids))[0][s.ids[0] > 0]
    same = np.asarray(s.parallel(s.params, other, s.ids))[0][s.ids[0] > 0]
    assert_close(same, first, ratio=RATIO)


def law_extend_equals_parallel(s: Subject, seed: int) -> None:
    """Ragged chunks with borders inside, each row at its own pace, against the parallel form."""
    rng = np.random.default_rng(seed)
    x = normal(11, B, L, D)
    ids = PACKED if seed % 2 else np.where(PACKED > 0, 1, 0).astype(np.int32)
    expected = np.asarray(s.parallel(s.params, x, ids))
    real = [np.flatnonzero(ids[b]) for b in range(B)]
    done = [0] * B
    state, y = s.mixer.init_state(B), np.zeros_like(x)
    while any(done[b] < len(real[b]) for b in range(B)):
        chunk, chunk_ids = np.full((B, C, D), 77.0, np.float32), np.zeros((B, C), np.int32)
        places = []
        for b in range(B):
            count = min(rng.integers(0, C + 1), len(real[b]) - done[b])
            slots = np.sort(rng.choice(C, count, replace=False))
            taken = real[b][done[b] : done[b] + count]
            chunk[b, slots], chunk_ids[b, slots] = x[b, taken], ids[b, taken]
            places.append((slots, taken))
            done[b] += count
        out, state = s.extend(s.params, chunk, state, chunk_ids)
        for b, (slots, taken) in enumerate(places):
            y[b, taken] = np.asarray(out)[b, slots]
    assert_close(y, np.where(ids[..., None] > 0, expected, 0), ratio=RATIO)


def law_steps_equal_parallel(s: Subject) -> None:
    """One token at a time, without segment ids."""
    x = normal(12, B, L, D)
    state, ys = s.mixer.init_state(B), []
    for t in range(L):
        y, state = s.extend(s.params, x[:, t : t + 1], state, None)
        ys.append(y)
    assert_close(np.concatenate(ys, 1), s.parallel(s.params, x, None), ratio=RATIO)
    np.testing.assert_array_equal(state.position, L)


def law_padding_leaves_the_state(s: Subject) -> None:
    """A chunk of padding changes no bit of the state."""
    state = s.mixer.init_state(B)
    _, state = s.extend(s.params, normal(13, B, C, D), state, np.full((B, C), 2, np.int32))
    nothing = np.zeros((B, C), np.int32)
    _, after = s.extend(s.params, 1e4 * normal(14, B, C, D), state, nothing)
    jax.tree.map(np.testing.assert_array_equal, after, state)


def law_gradients_through_the_state(s: Subject) -> None:
    """Back-propagation through chunks and their states equals that of the parallel form."""
    x, dy = normal(15, B, L, D), normal(16, B, L, D) * (PACKED[..., None] > 0)
    y, (dparams, dx) = s.stream_pullback(s.params, x, PACKED, dy)
    whole = np.asarray(s.parallel(s.params, x, PACKED))
    real = PACKED > 0
    assert_close(np.asarray(y)[real], whole[real], ratio=RATIO)
    dparams_whole, dx_whole = s.pullback(s.params, x, PACKED, dy)
    assert_close(dx, dx_whole, ratio=RATIO, what="dx")
    flat, flat_whole = _flat(dparams), _flat(dparams_whole)
    assert_close(flat, flat_whole, ratio=RATIO, what="gradient of the parameters")
    for path, g in jax.tree_util.tree_leaves_with_path(dparams_whole):
        assert np.all(np.isfinite(g)), f"{jax.tree_util.keystr(path)}: gradient not finite"


def _flat(tree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def law_state_size(s: Subject) -> None:
    """The state has the declared size, floats of at least 32 bits, the batch axis first."""
    state = s.mixer.init_state(B)
    leaves = jax.tree.leaves(state.inner)
    assert all(leaf.shape[0] == B for leaf in leaves)
    assert sum(leaf.size for leaf in leaves) == B * s.mixer.state_size()
    assert all(leaf.dtype.itemsize >= 4 for leaf in leaves)
    _, after = s.extend(s.params, normal(17, B, C, D), state, np.ones((B, C), np.int32))
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
    assert all(jax.tree.leaves(same)), "the state changes its shape or dtype"


def law_every_parameter_matters(s: Subject) -> None:
    """No parameter has a gradient of exactly zero."""
    dparams, _ = s.pullback(s.params, normal(18, B, L, D), s.ids, normal(19, B, L, D))
    for path, g in jax.tree_util.tree_leaves_with_path(dparams):
        assert np.any(np.asarray(g) != 0), f"{jax.tree_util.keystr(path)} is not used"


CAUSAL_LAWS = {
    "shapes": law_shapes_and_numbers,
    "packed": law_packed_equals_separate,
    "padding": law_padding_is_invisible,
    "causal": law_causal,
    "rows": law_rows_are_independent,
    "ragged-0": functools.partial(law_extend_equals_parallel, seed=0),
    "ragged-1": functools.partial(law_extend_equals_parallel, seed=1),
    "steps": law_steps_equal_parallel,
    "idle": law_padding_leaves_the_state,
    "gradients": law_gradients_through_the_state,
    "state": law_state_size,
    "parameters": law_every_parameter_matters,
}

BOTH_WAYS_LAWS = {
    "shapes": law_shapes_and_numbers,
    "packed": law_packed_equals_separate,
    "padding": law_padding_is_invisible,
    "both-ways": law_both_ways,
    "rows": law_rows_are_independent,
    "parameters": law_every_parameter_matters,
}
