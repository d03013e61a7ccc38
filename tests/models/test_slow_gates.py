"""Linear recurrences at length: chunk sizes do not matter, and gates may be extreme."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import MIXERS, build, config_of
from seqzoo.models.linear_attention.mlstm import mlstm
from seqzoo.models.ops import dplr_delta_rule, gated_delta_rule, gated_linear_attention, linear_scan
from seqzoo.models.ops.scan.wkv_recurrence import wkv
from seqzoo.models.recurrent.hgrn import hgrn
from seqzoo.models.recurrent.min_rnn import min_gru, min_lstm
from seqzoo.models.recurrent.rg_lru import rg_lru
from seqzoo.models.recurrent.slstm import SLSTMState, slstm
from tests import laws
from tests.helpers import assert_close, x64
from tests.models.tiny import TINY

pytestmark = pytest.mark.slow

LENGTH = 101  # a multiple of no chunk but 1 and itself
CHUNKED = [
    name
    for name in TINY
    if "chunk_size" in {f.name for f in dataclasses.fields(config_of(MIXERS[name.split("@")[0]]))}
]


def packed_rows(seed):
    """Segments of random lengths, with padding between some of them."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((2, LENGTH), np.int32)
    for row in rows:
        at, one = 0, 1
        while at < LENGTH:
            count = rng.integers(1, 40)
            row[at : at + count] = one
            at, one = at + count + rng.integers(0, 3), one + 1
    return rows


@pytest.mark.parametrize("name", CHUNKED)
def test_the_chunk_size_does_not_matter(name):
    ids = packed_rows(len(name))
    x, dy = laws.normal(0, *ids.shape, laws.D), laws.normal(1, *ids.shape, laws.D)
    dy = dy * (ids > 0)[..., None]
    with x64():
        results = []
        for size in (1, 16, 64, LENGTH):
            options = {**TINY[name], "chunk_size": size}
            dtypes = {"dtype": jnp.float64, "param_dtype": jnp.float64}
            mixer = build(name.split("@")[0], laws.D, rngs=nnx.Rngs(0), **dtypes, **options)
            graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)

            @jax.jit
            def run(params, x, dy, graphdef=graphdef, rest=rest):
                def f(params, x):
                    return nnx.merge(graphdef, params, rest, copy=True)(x, ids)

                y, pull = jax.vjp(f, params, x)
                return jnp.where((ids > 0)[..., None], y, 0), pull(dy)

            results.append(run(laws.perturbed(params), *map(jnp.float64, (x, dy))))
    for other in results[1:]:
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(results[0]), strict=True):
            assert_close(a, b, ratio=1e-9)


LONG, HEADS, WIDTH = 8192, 2, 8
GATES = {"ones": (0.0, 0.0), "zeros": (-60.0, -60.0), "mixed": (-60.0, 0.0)}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def arrays(kind):
    """q, k, v, their unit-length forms, log decays and gate logits, rounded to bfloat16."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 1, LONG, HEADS, WIDTH))
    low, high = GATES[kind]
    log_decay = np.where(rng.uniform(size=q.shape) < 0.5, low, high)
    logits = np.where(rng.uniform(size=(4, *q.shape)) < 0.5, low + 30, high + 30)
    made = {"q": q, "k": k, "v": v, "uq": unit(q), "uk": unit(k), "g": log_decay, "z": logits}
    return {name: jnp.asarray(x, jnp.bfloat16) for name, x in made.items()}


def flat(x):
    return x.reshape(1, LONG, HEADS * WIDTH)


def recurrences(a):
    """Every recurrence of the family on the same arrays."""
    q, k, v, uq, uk, g, z = (a[n] for n in ("q", "k", "v", "uq", "uk", "g", "z"))
    beta, zero = jax.nn.sigmoid(z[0, ..., 0]), jnp.zeros((1, HEADS * WIDTH))
    gates = [jax.nn.sigmoid(flat(x)) for x in z[:2]]
    at = jnp.arange(LONG)[None]
    cell = jnp.stack([flat(x) for x in z], 2)
    kernel = jnp.zeros((HEADS, WIDTH, 4 * WIDTH))
    return {
        "channel": lambda: gated_linear_attention(uq, uk, v, g)[0],
        "head": lambda: gated_linear_attention(uq, uk, v, g[..., :1])[0],
        "delta": lambda: gated_delta_rule(uq, uk, v, beta, g)[0],
        "dplr": lambda: dplr_delta_rule(uq, uk, v, -uk, uk * beta[..., None], g)[0],
        "mlstm": lambda: mlstm(q, k, v, z[0, ..., 0], z[1, ..., 0])[0],
        "slstm": lambda: slstm(cell, kernel, SLSTMState(*[zero] * 4))[0].h,
        "wkv": lambda: wkv(flat(z[0]), flat(v), g[0, 0].ravel(), g[0, 1].ravel())[0],
        "scan": lambda: linear_scan(jnp.exp(flat(g)), flat(v)),
        "hgrn": lambda: hgrn(flat(z[0]), flat(v)),
        "min_gru": lambda: min_gru(flat(z[0]), flat(v)),
        "min_lstm": lambda: min_lstm(flat(z[0]), flat(z[1]), flat(v)),
        "rg_lru": lambda: rg_lru(flat(v), *gates, flat(z[2])[0, 0], at),
    }


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("op", list(recurrences(arrays("ones"))))
def test_extreme_gates_in_bfloat16_equal_float32(op, kind):
    low = arrays(kind)
    high = {name: x.astype(jnp.float32) for name, x in low.items()}

    @jax.jit
    def run(a):
        y, pull = jax.vjp(lambda a: recurrences(a)[op]().astype(jnp.float32), a)
        return y, pull(jnp.ones_like(y))[0]

    y, grads = run(low)
    expected, expected_grads = run(high)
    assert_close(y, expected, ratio=1e-2)
    for leaf in jax.tree.leaves((grads, expected_grads)):
        assert bool(jnp.isfinite(leaf).all())
