"""Log-linear attention against its tree of states in float64: chunks, segments, streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops import log_linear_attention, log_linear_delta_rule
from seqzoo.models.ops.layout.segments import all_real
from tests.helpers import assert_close, x64
from tests.references import log_linear as references

B, L, H, K, V = 3, 41, 2, 3, 2
OPS = {
    "linear": (log_linear_attention, references.log_linear_attention),
    "delta": (log_linear_delta_rule, references.log_linear_delta_rule),
}
IDS = np.array([[1] * L, [0] * 2 + [1] * 3 + [0] * 4 + [2] * 19 + [3] * 13, [4, 0] * 20 + [0]])


def draw(op, top):
    rng = np.random.default_rng(0)
    groups = 1 if op == "linear" else H
    q, k = (rng.normal(size=(B, L, groups, K)) for _ in range(2))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    v, levels = rng.normal(size=(B, L, H, V)), rng.uniform(size=(B, L, H, top + 1))
    decay = -rng.exponential(size=(B, L, H, 1)) / 8
    beta = (rng.uniform(0, 2, size=(B, L, H)),) if op == "delta" else ()
    return q, k, v, *beta, levels, decay


def run(f, args, s0=None, **options):
    return jax.jit(functools.partial(f, scale=0.7, **options))(*args, s0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize(
    ("size", "top", "ids"), [(16, 7, None), (4, 3, None), (64, 7, None), (8, 5, IDS)]
)
def test_rows_equal_the_tree(op, size, top, ids):
    f, reference = OPS[op]
    with x64():
        args = draw(op, top)
        o, s = run(f, args, chunk_size=size, segment_ids=ids)
        assert s is None
        want = reference(*args, scale=0.7, segment_ids=ids)[0]
        real = np.ones((B, L), bool) if ids is None else ids > 0
        assert_close(np.asarray(o)[real], want[real], ratio=1e-12)


@pytest.mark.parametrize("op", OPS)
def test_a_stream_in_any_parts_equals_the_row(op):
    """States too, which are those of the tree; chunks begin wherever the parts do."""
    f, reference = OPS[op]
    with x64():
        args = draw(op, 4)
        s = jnp.zeros((B, H, 4, K, V))
        outputs = []
        for begin, end in ((0, 13), (13, 14), (14, L)):
            part = [x[:, begin:end] for x in args]
            layout = all_real(end - begin, jnp.full(B, begin))
            o, s = run(f, part, s, chunk_size=8, segment_ids=layout)
            outputs.append(o)
        want, last = reference(*args, scale=0.7)
        assert_close(np.concatenate(outputs, 1), want, ratio=1e-12)
        assert_close(s, last, ratio=1e-12)


def test_shapes_that_do_not_fit_are_named():
    q, k, v, levels, decay = draw("linear", 4)
    with pytest.raises(ValueError, match="levels must be"):
        log_linear_attention(q, k, v, levels[:, 1:], decay)
    with pytest.raises(ValueError, match="s0 must be"):
        log_linear_attention(q, k, v, levels, decay, np.zeros((B, H, 5, K, V)))
    with pytest.raises(ValueError, match="beta must be"):
        log_linear_delta_rule(q, k, v, levels[..., 0], levels, decay)
