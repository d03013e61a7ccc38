"""Mamba-3 (Lahoti et al. 2026, arXiv:2603.15569): a state that turns, by the trapezoid rule.

    [z | x | B | C | dt | a | l | ω] = W_in u,  dt = softplus(dt + b),  α = exp(-softplus(a) dt)
    θ_t = θ_{t-1} + π dt_t tanh(ω_t),   k, q = rot(rms(B) + b_B, θ), rot(rms(C) + b_C, θ)
    S_t = α_t S_{t-1} + (1 - λ_t) dt_t α_t k_{t-1} x_{t-1}ᵀ + λ_t dt_t k_t x_tᵀ,   λ = σ(l)
    y_t = S_tᵀ q_t + D x_t,   out = W_out (y ⊙ silu(z))                 per head, S in R^{N x P}

(sections 3.1 to 3.3). Queries and keys turned by a running sum of angles are a state with complex
decays whose phase depends on the token: with it one layer counts modulo any number, which positive
decays cannot. There is no short convolution.

With `rank` R > 1 ("MIMO") a token has R keys and queries, x and z are scaled to R rows a head and
the R outputs are weighed together: R times the arithmetic on a state of the same size.

What a token adds to the state, but its own last term, waits for the next one: that is one
`gated_linear_attention` of the keys and values before, α_t λ_{t-1} dt_{t-1} + (1 - λ_t) dt_t α_t of
each; R > 1 writes them one after the other. λ_t dt_t (q_t . k_t) x_t is added apart.

Where ours differs: pairs that turn are of halves. The norm before W_out, an option there, is left
out. α's rate is softplus as in the paper, where later code of the authors has another function.

With E = expand d_model, H = E / P heads, A = N rope_fraction / 2 angles: cost of L tokens in chunks
of T O(L E (d_model + R (T + N))); state E N + H (R N + A + 1) + E elements per sequence: S, the
angles, and the last token's k, x and λ dt.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from seqzoo.models.linear import Linear
from seqzoo.models.linear_attention.deltanet import first_of, repeated
from seqzoo.models.linear_attention.token_shift import token_before
from seqzoo.models.mixer import Context, Mixer
from seqzoo.models.ops.layout.states import stream_state
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ssm.mamba import dt_bias_init

SLOWEST = 1e-4  # least rate of decay, as published


@stream_state
class Mamba3State(NamedTuple):
    """The state of every head, the angles, and the last token."""

    s: Float[Array, "B H N P"]
    angle: Float[Array, "B H A"]
    before: Float[Array, "B 1 E"]  # k, x and the weight of every head


class Mamba3(Mixer):
    """A state space with data-dependent rotations, SISO or MIMO; see the module docstring."""

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 64,
        expand: int = 2,
        d_head: int | None = None,
        num_groups: int = 1,
        rank: int = 1,
        rope_fraction: float = 0.5,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        norm_eps: float = 1e-5,
        chunk_size: int | None = None,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        """`d_head`: channels of a head P, by default 64 or the inner width if that is smaller.

        `rope_fraction`: share of the N channels that turn; `rank`: R; `chunk_size` counts the
        writes, R per token.

        Raises ValueError for sizes below 1, heads that do not divide the inner width, groups that
        do not divide the heads, and a fraction that leaves no pair to turn.
        """
        inner = expand * d_model
        d_head = min(64, inner) if d_head is None else d_head
        sizes = {"d_state": d_state, "expand": expand, "d_head": d_head, "rank": rank}
        for name, size in {**sizes, "num_groups": num_groups}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1; got {name}={size}")
        if inner % d_head or (inner // d_head) % num_groups:
            raise ValueError(
                "d_head must divide expand * d_model, and num_groups the number of heads; got "
                f"{d_head=}, {num_groups=} for an inner width of {inner}"
            )
        self.angles = math.floor(d_state * rope_fraction / 2)
        if not (self.angles >= 1 and rope_fraction <= 1):
            raise ValueError(
                "rope_fraction is a share of d_state, at most 1, of two channels or more; got "
                f"{rope_fraction=}, {d_state=}"
            )
        self.d_inner, self.d_state, self.num_groups = inner, d_state, num_groups
        self.num_heads, self.d_head, self.rank = inner // d_head, d_head, rank
        self.norm_eps, self.chunk_size = norm_eps, chunk_size
        heads, states = self.num_heads, rank * num_groups * d_state
        widths = (inner, inner, states, states, heads, heads, heads, self.angles)
        self.borders = tuple(sum(widths[: i + 1]) for i in range(len(widths) - 1))
        options = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.in_proj = Linear(d_model, sum(widths), use_bias=False, **options)
        bias = dt_bias_init(rngs.params(), (heads,), dt_min, dt_max, param_dtype)
        self.dt_bias = nnx.Param(bias, group="dynamics")
        self.norm = nnx.RMSNorm(d_state, epsilon=norm_eps, **options)  # of B
        self.q_norm = nnx.RMSNorm(d_state, epsilon=norm_eps, **options)  # of C
        shape = (rank, heads, d_state)
        self.B_bias, self.C_bias = (
            nnx.Param(jnp.ones(shape, param_dtype), group="no_decay") for _ in range(2)
        )
        self.D = nnx.Param(jnp.ones(heads, param_dtype), group="dynamics")
        rows = jnp.ones((rank, heads, d_head), param_dtype)
        several = rank > 1
        self.B_rank = nnx.data(nnx.Param(rows / rank) if several else None)  # of x
        self.C_gate = nnx.data(nnx.Param(rows) if several else None)  # of z
        self.C_rank = nnx.data(nnx.Param(rows / rank) if several else None)  # of outputs
        self.out_proj = Linear(inner, d_model, use_bias=False, **options)

    def _initial(self, batch_size: int) -> Mamba3State:
        heads, n, p = self.num_heads, self.d_state, self.d_head
        last = heads * (self.rank * n + p + 1)
        shapes = ((heads, n, p), (heads, self.angles), (1, last))
        return Mamba3State(*(jnp.zeros((batch_size, *shape), self.wide) for shape in shapes))

    def state_size(self) -> int:
        """E N + H (R N + A + 1) + E."""
        last = self.num_heads * (self.rank * self.d_state + self.angles + 1)
        return self.d_inner * self.d_state + last + self.d_inner

    @jax.named_scope("mamba3")
    def _mix(self, x: Float[Array, "B L D"], inner: Mamba3State | None, ctx: Context):
        layout, wide = ctx.segments, self.wide
        s, angle, before = (None, None, None) if inner is None else inner
        z, v, B, C, dt, a, l, omega = jnp.split(self.in_proj(x), self.borders, axis=-1)
        z, v = (y.reshape(*y.shape[:2], self.num_heads, -1) for y in (z, v))
        dt = jax.nn.softplus(dt.astype(wide) + self.dt_bias[...].astype(wide))
        log_decay = -jnp.maximum(jax.nn.softplus(a.astype(wide)), SLOWEST) * dt
        now = jax.nn.sigmoid(l.astype(wide))
        step = jnp.pi * dt[..., None] * jnp.tanh(omega.astype(wide))[:, :, None]
        theta = linear_scan(jnp.ones(1, wide), step, angle, segment_ids=layout)
        k, q = (
            _turned(norm(self._by_rank(y)), bias[...], theta)
            for norm, y, bias in ((self.norm, B, self.B_bias), (self.q_norm, C, self.C_bias))
        )
        kept = (k, v.astype(wide), now * dt)
        (k_before, v_before, weight), before = self._last(kept, before, layout)
        weight = (weight + (1 - now) * dt) * jnp.exp(log_decay)
        values = weight[:, :, None, :, None] * self._ranked(v_before, self.B_rank)
        o, s = gated_linear_attention(
            *(_in_turn(y) for y in (q, k_before, values)),
            first_of(log_decay, self.rank)[..., None],
            s,
            chunk_size=self.chunk_size,
            segment_ids=repeated(layout, self.rank),
        )
        o = o.reshape(*values.shape)
        if self.rank > 1:  # rows of the token before that came after this one's turn
            later = jnp.triu(jnp.ones((self.rank, self.rank), wide), 1)[:, None]
            o = o + _among(q, k_before, values, later)
        own = self._ranked(v.astype(wide), self.B_rank)
        o = o + (now * dt)[:, :, None, :, None] * _among(q, k, own, 1)
        o = o + self.D[...].astype(wide)[:, None] * own
        o = o * jax.nn.silu(self._ranked(z.astype(wide), self.C_gate))
        o = (o if self.C_rank is None else o * self.C_rank[...].astype(wide)).sum(2)
        y = self.out_proj(o.reshape(*x.shape[:2], -1).astype(x.dtype))
        return y, Mamba3State(s, theta[:, -1] % (2 * jnp.pi), before)

    def _by_rank(self, y: Float[Array, "B L RGN"]) -> Float[Array, "B L R H N"]:
        y = y.reshape(*y.shape[:2], self.rank, self.num_groups, self.d_state).astype(self.wide)
        return jnp.repeat(y, self.num_heads // self.num_groups, axis=3)

    def _ranked(self, v: Float[Array, "B L H P"], rows: nnx.Param | None) -> Array:
        return v[:, :, None] if rows is None else v[:, :, None] * rows[...].astype(v.dtype)

    def _last(self, kept: tuple[Array, ...], window: Array | None, layout):
        """Each of `kept` at the real token before, and the window for the next call."""
        flat = [y.reshape(*y.shape[:2], -1) for y in kept]
        borders = [flat[0].shape[2], flat[0].shape[2] + flat[1].shape[2]]
        shifted, window = token_before(jnp.concatenate(flat, -1), window, layout)
        parts = jnp.split(shifted, borders, axis=-1)
        return tuple(p.reshape(y.shape) for p, y in zip(parts, kept, strict=True)), window


def _turned(
    x: Float[Array, "B L R H N"], bias: Float[Array, "R H N"], theta: Float[Array, "B L H A"]
) -> Array:
    """x + bias with the pairs (i, i + A) turned by theta_i."""
    x, count = x + bias.astype(x.dtype), theta.shape[-1]
    cos, sin = jnp.cos(theta)[:, :, None], jnp.sin(theta)[:, :, None]
    one, other, rest = jnp.split(x, [count, 2 * count], axis=-1)
    return jnp.concatenate([one * cos - other * sin, one * sin + other * cos, rest], axis=-1)


def _in_turn(x: Float[Array, "B L R H N"]) -> Float[Array, "B L*R H N"]:
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _among(q: Array, k: Array, v: Array, mask: Array | int) -> Float[Array, "B L R H P"]:
    """What the rows q of a token read of rows k and v of one token: Σ_s mask_rs (q_r . k_s) v_s."""
    scores = jnp.einsum("BLRHN,BLSHN->BLRHS", q, k) * mask
    return jnp.einsum("BLRHS,BLSHP->BLRHP", scores, v)
