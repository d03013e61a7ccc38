"""Rotary and sinusoidal encodings against published implementations."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.rope import xpos
from seqzoo.models.positions import rope, sinusoidal
from tests.helpers import assert_close, x64

GOLDEN = Path(__file__).parents[1] / "golden/positions"


@pytest.mark.parametrize("style", ["half_split", "interleaved"])
def test_rope_equals_published(style):
    golden = np.load(GOLDEN / "rope.npz", allow_pickle=False)
    with x64():
        for name in ("q", "k"):
            x = jnp.asarray(golden[name].swapaxes(1, 2))
            base = float(golden["theta"])
            y = rope(x, golden["position_ids"], base=base, interleaved=style == "interleaved")
            assert_close(y.swapaxes(1, 2), golden[f"{name}_{style}"], ratio=1e-13, what=name)


@pytest.mark.parametrize("interleaved", [False, True])
def test_scores_depend_on_the_difference_of_positions(interleaved):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 6, 2, 8))

    def scores(shift):
        turned = [rope(a, jnp.arange(6) + shift, interleaved=interleaved) for a in (q, k)]
        return jnp.einsum("blhk,bshk->bhls", *turned)

    with x64():
        assert_close(scores(1000), scores(0), ratio=1e-12)


def test_rope_positions_broadcast_and_bfloat16_angles_stay_exact():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 1, 4)), jnp.float32)
    positions = jnp.arange(5) + 1001  # odd numbers above 256 do not exist in bfloat16
    one, row, full = (rope(x, jnp.broadcast_to(positions, s)) for s in ((5,), (1, 5), (2, 5)))
    assert np.array_equal(one, row)
    assert np.array_equal(one, full)
    low = rope(jnp.asarray(x, jnp.bfloat16), positions)
    assert low.dtype == jnp.bfloat16
    assert_close(low.astype(jnp.float32), one, ratio=0.01)


@pytest.mark.parametrize("interleaved", [False, True])
def test_xpos_scores_are_those_of_rope_with_a_decay_by_distance(interleaved):
    q, k = np.random.default_rng(0).normal(size=(2, 1, 6, 2, 8))
    zeta = (np.arange(4) / 4 + 0.4) / 1.4  # the paper's gamma is 0.4
    zeta = np.repeat(zeta, 2) if interleaved else np.tile(zeta, 2)
    distance = np.arange(6)[:, None] - np.arange(6)
    with x64():
        at = jnp.arange(6) + 7
        ours = [xpos(a, at, keys=i == 1, interleaved=interleaved) for i, a in enumerate((q, k))]
        turned = [np.asarray(rope(a, at, interleaved=interleaved)) for a in (q, k)]
        scores = jnp.einsum("blhk,bshk->bhls", *ours)
    decay = zeta ** (distance[..., None] / 512)
    assert_close(scores, np.einsum("blhk,bshk,lsk->bhls", *turned, decay), ratio=1e-12)


@pytest.mark.parametrize("length_width", [(12, 8), (20, 6)], ids=str)
def test_sinusoidal_equals_published(length_width):
    golden = np.load(GOLDEN / "sinusoidal.npz", allow_pickle=False)
    length, width = length_width
    for layout, name in (("interleaved", "interleaved_lra"), ("halves", "concat_sin_cos")):
        got = sinusoidal(jnp.arange(length), width, layout=layout)
        assert_close(got, golden[f"{name}_{length}x{width}"], ratio=1e-6, what=name)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="K=3"):
        rope(jnp.zeros((1, 2, 1, 3)), jnp.arange(2))
    with pytest.raises(ValueError, match=r"L=2.*\(3,\)"):
        rope(jnp.zeros((1, 2, 1, 4)), jnp.arange(3))
    with pytest.raises(ValueError, match="must be even, got 5"):
        sinusoidal(jnp.arange(3), 5)
    with pytest.raises(ValueError, match="'sideways'"):
        sinusoidal(jnp.arange(3), 4, layout="sideways")
