"""Linear attention with decay: S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ, o_t = S_tᵀ q_t.

Computed in chunks by matrix products (Yang et al. 2024, arXiv:2312.06635; Dao and Gu 2024,
arXiv:2405.21060). With G the running sum of log decays in a chunk of C steps that began with S,

    o_t = S ᵀ(q_t e^{G_t}) + Σ_{s≤t} (q_t · e^{G_t - G_s} k_s) v_s,
    S'  = e^{G_C} S + Σ_s (e^{G_C - G_s} k_s) v_sᵀ.

No exponent is ever positive: decays of 0 to -50 a step neither overflow nor lose the near past.
One decay a head makes e^{G_t - G_s} a C x C matrix. Decays per channel cannot be drawn out of the
product, so a chunk is halved: between the halves the pair of factors e^{G_t - R} and e^{R - G_s}
with R the sum at the border is safe, and each half is treated the same way down to a few steps,
where the sum over channels is written out.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments, as_segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, decayed
from seqzoo.models.ops.matrix.chunks import check_decays, decays, to_chunks, to_rows

FeatureMap = Callable[[Array, Array], tuple[Array, Array]]

# Within a chunk of C steps a token costs C (K + V) multiplications, across chunks 2 K V: the
# harmonic mean of K and V balances them. On CPU (B=4, L=2048, float32, one decay a head, forward
# and backward) against chunks of 64 those of 32 take 0.8 of the time for K=V=32 and 0.95 for K=32,
# V=64, those of 128 the same for K=V=128 and 1.15 for K=V=64; the compiler for a v5e expects 0.7
# for K=V=128. Several chunks in one step of the loop take as long as one after the other.
SMALLEST, LARGEST = 32, 128

# Per-channel decays are written out within this many steps. Against 8, 16 takes twice the time; 4
# takes 0.9 of it but 1.1 to 1.7 times as long to compile.
WRITTEN_OUT = 8

# A CPU's products take values by vectors of so many; a last column of its own, which is what a
# normaliser needs, would cost them a whole vector.
VECTOR = 16


@op(rows="q")
def gated_linear_attention(
    q: Float[Array, "B L G K"],
    k: Float[Array, "B L G K"],
    v: Float[Array, "B L H V"],
    log_decay: Float[Array, "..."] | None = None,
    s0: Float[Array, "B H K V"] | None = None,
    *,
    scale: float = 1.0,
    chunk_size: int | None = None,
    segment_ids: Int[Array, "B L"] | Segments | None = None,
    read_before: bool = False,
    bonus: Float[Array, "H K"] | None = None,
    feature_map: FeatureMap | None = None,
) -> tuple[Float[Array, "B L H V"], Float[Array, "B H K V"]]:
    """o_t = scale S_tᵀ q_t with S_t = diag(exp(log_decay_t)) S_{t-1} + k_t v_tᵀ.

    Args:
        q: queries, of H heads or of fewer, G, that divide H: head h of v then reads group
            h // (H / G), and scores without decays per channel are made once a group.
        k: keys, of q's shape.
        v: values; a column of ones appended to them makes o's last column the normaliser q · Σ k.
        log_decay: at most 0, broadcasts to [B, L, H, K]; a last axis of size 1 is one decay a head
            (much cheaper). None: no decay.
        s0: state before the first step, zero by default.
        scale: factor on the outputs.
        chunk_size: steps per chunk, any positive number; the results do not depend on it.
        segment_ids: layout of the rows. Padding leaves the state, a new segment forgets it.
        read_before: o_t reads S_{t-1} instead of S_t (RWKV-6, arXiv:2404.05892).
        bonus: with `read_before`, weight per key channel of the current step:
            o_t += scale (q_t · bonus k_t) v_t.
        feature_map: q and k of some steps, [B, H, C, ...], to what stands for them in the
            equations, [B, H, C, K]. It is applied chunk by chunk, and again in the backward pass,
            so that features wider than q and k are never kept. Without it q and k have one shape.

    Returns:
        o in the common dtype of q, k and v, and the state after the last real token in at least
        float32, in which everything inside is computed.

    Raises:
        ValueError: for shapes that do not fit, a chunk size below 1, a bonus without
            `read_before` or with a feature map.
    """
    _check_inputs(q, k, v, chunk_size, bonus, read_before, feature_map)
    batch, length, groups, _ = q.shape
    heads, keys = v.shape[2], _feature_width(q, k, feature_map)
    _check_state(q, v, keys, log_decay, s0)
    out_dtype = jnp.result_type(q, k, v)
    dtype = jnp.promote_types(out_dtype, jnp.float32)
    layout = as_segments(segment_ids, length)
    g = None if log_decay is None else decays(log_decay, length, heads, dtype)
    if layout.masked:
        valid = layout.valid[:, :, None, None]
        k, v = (k, jnp.where(valid, v, 0)) if feature_map else (jnp.where(valid, k, 0), v)
        g = None if g is None else jnp.where(valid, g, 0)
    shape = (batch, heads, keys, v.shape[-1])
    s0 = jnp.zeros(shape, dtype) if s0 is None else s0.astype(jnp.promote_types(s0.dtype, dtype))
    size = chunk_size or default_chunk(keys, v.shape[-1])
    o, s_last = _ROWS((size, read_before, feature_map), (q, k, v, g, layout), s0)
    if bonus is not None:
        q, k = (jnp.repeat(x, heads // groups, axis=2) for x in (q, k))
        o = o + jnp.sum(q.astype(dtype) * bonus * k, axis=-1, keepdims=True) * v
    return (scale * o).astype(out_dtype), s_last


def default_chunk(keys: int, values: int) -> int:
    """Steps per chunk for heads of K keys and V values, a power of two."""
    balanced = 2 * keys * values / (keys + values)
    return min(max(2 ** round(math.log2(balanced)), SMALLEST), LARGEST)


def _fail(message: str) -> None:
    raise ValueError(f"gated_linear_attention: {message}")


def _check_inputs(q, k, v, chunk_size, bonus, read_before, feature_map) -> None:
    same = k.shape[:3] == q.shape[:3] if feature_map else k.shape == q.shape
    if q.ndim != 4 or k.ndim != 4 or not same:
        _fail(f"q and k must have one shape [B, L, H, K]; got {q.shape} and {k.shape}")
    if v.ndim != 4 or v.shape[:2] != q.shape[:2] or v.shape[2] % q.shape[2]:
        _fail(
            f"v must be [B, L, H, V] with q's {q.shape[:2]} and H a multiple of its heads; got "
            f"{v.shape} for q {q.shape}"
        )
    if chunk_size is not None and chunk_size < 1:
        _fail(f"chunk_size must be at least 1; got {chunk_size}")
    if bonus is not None and not read_before:
        _fail("bonus weights the current step, which only read_before=True leaves out")
    if bonus is not None and feature_map:
        _fail("bonus weights channels of keys as they are; a feature map leaves none of them")


def _check_state(q, v, keys: int, log_decay, s0) -> None:
    heads = v.shape[2]
    check_decays("gated_linear_attention", log_decay, (*q.shape[:2], heads, keys))
    state = (q.shape[0], heads, keys, v.shape[3])
    if s0 is not None and s0.shape != state:
        _fail(f"s0 must be [B, H, K, V] = {state}; got {s0.shape}")


def _feature_width(q: Array, k: Array, feature_map: FeatureMap | None) -> int:
    if feature_map is None:
        return q.shape[-1]
    q, k = (jax.ShapeDtypeStruct((x.shape[0], x.shape[2], 1, x.shape[3]), x.dtype) for x in (q, k))
    widths = {x.shape[-1] for x in jax.eval_shape(feature_map, q, k)}
    if len(widths) > 1:
        _fail(f"a feature map must give q and k one width; got {sorted(widths)}")
    return widths.pop()


def _rows(shared: tuple, inputs: tuple, s0: Array) -> tuple[Array, Array]:
    """All chunks of rows of q, k, v, g, which may be None, and their layout."""
    values, g = inputs[2].shape[-1], inputs[3]
    together = functools.partial(_in_columns, *shared, (values,))
    if values < VECTOR or values % VECTOR != 1 or (g is not None and g.shape[-1] > 1):
        return together(inputs, s0)
    apart = functools.partial(_in_columns, *shared, (values - 1, 1))
    return forms.run("normaliser", {"together": together, "apart": apart}, inputs, s0)


def _summarize(shared: tuple, inputs: tuple, nothing: Array) -> tuple[Array, Array]:
    *_, g, layout = inputs
    own = _rows(shared, inputs, nothing)[1]
    kept = jnp.ones((len(nothing), 1, 1, 1), own.dtype)
    if g is not None:
        kept = jnp.exp(g.sum(1))[..., None].astype(own.dtype)
    if not layout.masked:
        return jnp.broadcast_to(kept, (len(nothing), *kept.shape[1:])), own
    return jnp.where((layout.run[:, -1] == 0)[:, None, None, None], kept, 0), own


_ROWS = Recurrence(_rows, _summarize, decayed)


def _in_columns(
    most: int,
    read_before: bool,
    feature_map: FeatureMap | None,
    widths: tuple[int, ...],
    inputs: tuple,
    s0: Array,
) -> tuple[Array, Array]:
    """`_rows`, with products apart for so many columns of v each."""
    length = inputs[0].shape[1]
    size = min(most, length)
    *inputs, layout = inputs
    run = layout.run[:, :, None, None] if layout.masked else None
    q, k, v, g, run = (None if x is None else to_chunks(x, size) for x in (*inputs, run))
    G_row = None
    if g is not None and g.shape[-1] == 1:
        # Sums as a column and as a row: where a fused loop reads both from one array, XLA's CPU
        # backend takes their differences one by one, in eight times as long.
        g = jnp.cumsum(g, axis=-2)
        G_row = jnp.swapaxes(g, -1, -2)
    inputs = (q, k, _columns(v, widths), g, G_row, run)
    last = None if run is None else jnp.zeros((run.shape[1], 1, 1, 1), run.dtype)
    # Inside a scan no barrier is needed to keep the recomputation.
    step = jax.checkpoint(functools.partial(_step, read_before, feature_map), prevent_cse=False)
    (s_last, _), o = lax.scan(step, (_columns(s0, widths), last), inputs)
    o = jnp.concatenate([to_rows(x, length) for x in o], -1)
    return o, jnp.concatenate(s_last, -1)


def _columns(x: Array, widths: tuple[int, ...]) -> tuple[Array, ...]:
    return tuple(jnp.split(x, list(itertools.accumulate(widths))[:-1], axis=-1))


def _for_heads(x: Float[Array, "B G C D"], heads: int) -> Float[Array, "B H C D"]:
    """What the heads of a group share, for each of them."""
    return x if x.shape[1] == heads else jnp.repeat(x, heads // x.shape[1], axis=1)


def _step(read_before: bool, feature_map: FeatureMap | None, carry, inputs):
    """One chunk: its outputs, and the state and run after it."""
    state, last = carry
    q, k, v, g, G_row, run = inputs
    q, k, *v = (x.astype(state[0].dtype) for x in (q, k, *v))
    q, k = feature_map(q, k) if feature_map else (q, k)
    per_channel = g is not None and G_row is None
    G = jnp.cumsum(g, axis=-2) if per_channel else g  # of one channel they are summed already
    scores = None if per_channel else _for_heads(q @ jnp.swapaxes(k, -1, -2), v[0].shape[1])
    q, k = (_for_heads(x, v[0].shape[1]) for x in (q, k))
    if G is None:
        G_read = None
        reads, writes, kept = q, k, state
    else:
        G_read = _shift(G) if read_before else G
        end = G[..., -1:, :]
        reads, writes = q * jnp.exp(G_read), k * jnp.exp(end - G)
        decay = jnp.swapaxes(jnp.exp(end), -1, -2)
        kept = tuple(decay * x for x in state)
    if run is not None:
        now = run[..., -1:, :]
        reads, writes = jnp.where(run == last, reads, 0), jnp.where(run == now, writes, 0)
        kept, last = tuple(jnp.where(now == last, x, 0) for x in kept), now
    if per_channel:
        within = (_within_per_channel(q, k, v[0], G_read, G, run, read_before),)
    else:
        weights = _weights_per_head(scores, v[0].shape[-2], G_read, G_row, run, read_before)
        within = tuple(weights @ x for x in v)
    o = tuple(reads @ x + near for x, near in zip(state, within, strict=True))
    writes = jnp.swapaxes(writes, -1, -2)
    return (tuple(x + writes @ y for x, y in zip(kept, v, strict=True)), last), o


def _shift(G: Array) -> Array:
    """The sum before each step."""
    return jnp.pad(G[..., :-1, :], ((0, 0),) * (G.ndim - 2) + ((1, 0), (0, 0)))


def _visible(size: int, run: Array | None, read_before: bool) -> Array:
    """Which steps s (columns) each step t (rows) of a chunk reads."""
    past = jnp.tril(jnp.ones((size, size), bool), -1 if read_before else 0)
    return past if run is None else past & (run == jnp.swapaxes(run, -1, -2))


def _weights_per_head(scores, size, G_read, G_row, run, read_before) -> Array:
    visible = _visible(size, run, read_before)
    if G_row is None:
        return jnp.where(visible, scores, 0)
    exponent = jnp.where(visible, G_read - G_row, -jnp.inf)
    return scores * jnp.exp(exponent)


def _within_per_channel(q, k, v, G_read, G, run, read_before) -> Array:
    """Splits the chunk into halves until `WRITTEN_OUT` steps are left."""
    parts = (q, k, v, G_read, G, run)
    whole = (None if x is None else x[..., None, :, :] for x in parts)
    return _in_parts(*whole, read_before)[..., 0, :, :]


def _in_parts(q, k, v, G_read, G, run, read_before) -> Array:
    """The parts of a chunk, [..., P, C, D], each on its own.

    They share one axis however many they are: XLA's CPU backend aborts at products of 8 axes.
    """
    size = q.shape[-2]
    if size <= WRITTEN_OUT:
        return _written_out(q, k, v, G_read, G, run, read_before)
    parts = (q, k, v, G_read, G, run)
    halves = [None if x is None else _halves(x) for x in parts]
    o = _in_parts(*halves, read_before)

    (_, q), (k, _), (v, _) = (_two(x) for x in halves[:3])
    (_, G_read), (G, _) = (_two(x) for x in halves[3:5])
    border = G[..., -1:, :]
    scores = (q * jnp.exp(G_read - border)) @ jnp.swapaxes(k * jnp.exp(border - G), -1, -2)
    if run is not None:
        left, right = _two(halves[5])
        scores = jnp.where(right == jnp.swapaxes(left, -1, -2), scores, 0)
    first, second = _two(o)
    return jnp.concatenate([first, second + scores @ v], axis=-2)[..., :size, :]


def _halves(x: Array) -> Array:
    """[..., P, C, D] to [..., 2P, C/2, D]; an odd C repeats its last step, unseen by the others."""
    if x.shape[-2] % 2:
        x = jnp.concatenate([x, x[..., -1:, :]], axis=-2)
    *lead, parts, size, width = x.shape
    return x.reshape(*lead, 2 * parts, size // 2, width)


def _two(x: Array) -> tuple[Array, Array]:
    """The first and the second of each two parts."""
    *lead, parts, size, width = x.shape
    x = x.reshape(*lead, parts // 2, 2, size, width)
    return x[..., 0, :, :], x[..., 1, :, :]


def _written_out(q, k, v, G_read, G, run, read_before) -> Array:
    visible = _visible(q.shape[-2], run, read_before)[..., None]
    difference = G_read[..., :, None, :] - G[..., None, :, :]
    weights = jnp.exp(jnp.where(visible, difference, -jnp.inf))
    return jnp.sum(q[..., :, None, :] * k[..., None, :, :] * weights, axis=-1) @ v
