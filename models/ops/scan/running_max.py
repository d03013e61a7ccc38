"""The recurrence m_t = max(m_{t-1} + g_t, x_t): the largest exponent that a decaying sum has met.

Sums of exponentials under decay, as in RWKV-4 and xLSTM, are kept in units of e^{m_t}, so that none
of them overflows. What they mean does not depend on m, hence it has no gradient: see `carried`.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.ops.layout.compiled import op
from seqzoo.models.ops.layout.segments import Segments
from seqzoo.models.ops.layout.sequence_parallel import Recurrence, delayed

NEVER = -1e38  # an exponent below all others whose differences are finite


@op(rows="x")
def decayed_max(
    x: Float[Array, "B L ..."],
    log_decay: Float[Array, "..."],
    m0: Float[Array, "B ..."] | None = None,
    *,
    fresh: float = NEVER,
    layout: Segments,
) -> tuple[Float[Array, "B L ..."], Float[Array, "B L ..."]]:
    """All m_t = max(m_{t-1} + log_decay_t, x_t), and the m_{t-1} that each has seen.

    Args:
        x: exponents of what enters.
        log_decay: at most 0, broadcasts to x.
        m0: exponent before the first step, by default `fresh`.
        fresh: exponent before the first step of a segment.
        layout: padding carries m.

    Returns:
        Arrays like x without gradients; m[:, -1] is the exponent after the last real token.
    """
    x, g = lax.stop_gradient((x, jnp.broadcast_to(log_decay, x.shape).astype(x.dtype)))
    if not x.shape[1]:
        return x, x
    state = x.shape[:1] + x.shape[2:]
    m0 = jnp.full(state, fresh, x.dtype) if m0 is None else lax.stop_gradient(m0).astype(x.dtype)
    own, starts = x, None
    if layout.masked:
        axes = (...,) + (None,) * (x.ndim - 2)
        valid, starts = layout.valid[axes], layout.starts[axes]
        own = jnp.where(valid, jnp.where(starts, jnp.maximum(fresh + g, x), x), NEVER)
        g = jnp.where(valid, jnp.where(starts, 2 * NEVER, g), 0)
    m, _ = _ROWS((), (own, g), m0)
    before = delayed(m, m0)
    return m, before if starts is None else jnp.where(starts, fresh, before)


def carried(m0: Float[Array, "..."]) -> Float[Array, "..."]:
    """1, with the gradient of e^{m0}: turns a state in units of e^{m0} into one in fixed units.

    A sum S = e^{m0} s depends on m0 and s; with m0 taken as the fixed unit, s takes the gradient.
    """
    return jnp.exp(m0 - lax.stop_gradient(m0))


def _rows(_: tuple, inputs: tuple[Array, Array], m0: Array) -> tuple[Array, Array]:
    table = {"sequential": _sequential, "associative": _associative}
    m = forms.run("decayed_max", table, *inputs, m0)
    return m, m[:, -1]


def _summarize(_: tuple, inputs: tuple[Array, Array], nothing: Array) -> tuple[Array, Array]:
    return inputs[1].sum(1), _rows((), inputs, jnp.full_like(nothing, -jnp.inf))[1]


def _later(_: tuple, decay: Array, own: Array, before: Array) -> Array:
    return jnp.maximum(before + decay, own)


_ROWS = Recurrence(_rows, _summarize, _later)


def _sequential(x: Array, g: Array, m0: Array) -> Array:
    def step(t: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        m, out = carry
        g_t, x_t = (lax.dynamic_index_in_dim(a, t, 1, keepdims=False) for a in (g, out))
        m = jnp.maximum(m + g_t, x_t)
        return m, lax.dynamic_update_index_in_dim(out, m, t, 1)

    return lax.fori_loop(0, x.shape[1], step, (m0, x))[1]


def _associative(x: Array, g: Array, m0: Array) -> Array:
    x = x.at[:, 0].max(m0 + g[:, 0])
    return lax.associative_scan(_compose, (g, x), axis=1)[1]


def _compose(earlier: tuple[Array, Array], later: tuple[Array, Array]) -> tuple[Array, Array]:
    (g1, x1), (g2, x2) = earlier, later
    return g1 + g2, jnp.maximum(x1 + g2, x2)
