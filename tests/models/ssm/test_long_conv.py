"""Long convolutions against sums over pairs of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqzoo.models import LongConv
from tests.helpers import assert_close, x64
from tests.laws import PACKED, normal, perturbed, runs

D, LENGTH, WIDTH = 5, 20, 3
F64 = {"dtype": jnp.float64, "param_dtype": jnp.float64}


def drawn_out(part, factor):
    """Each new tap halfway between those of the part, the first and the last beyond its ends."""
    at = np.clip((np.arange(len(part) * factor) + 0.5) / factor - 0.5, 0, len(part) - 1)
    low = np.minimum(at.astype(int), max(len(part) - 2, 0))
    share = (at - low)[:, None]
    return (1 - share) * part[low] + share * part[np.minimum(low + 1, len(part) - 1)]


def taps(w, kind, norm):
    if kind == "free":
        return np.where(np.abs(w) > 0.2, w - 0.2 * np.sign(w), 0)
    parts = [drawn_out(part, 2 ** max(i - 1, 0)) * 0.5**i for i, part in enumerate(w)]
    return np.concatenate(parts)[:LENGTH] / norm


@pytest.mark.every_case
@pytest.mark.parametrize(("kind", "causal"), [("free", True), ("multiscale", False)])
def test_equals_the_sum_over_pairs(kind, causal):
    with x64():
        options = {"kind": kind, "squash": 0.2, "width": WIDTH, "causal": causal, "gate": False}
        mixer = LongConv(D, **options, max_length=LENGTH, **F64, rngs=nnx.Rngs(0))
        first = np.asarray(mixer.conv[...])
        nnx.update(mixer, perturbed(nnx.state(mixer, nnx.Param), 0.3))
        w, skip = np.asarray(mixer.conv[...]), np.asarray(mixer.D[...])
        x = normal(0, *PACKED.shape, D).astype(np.float64)
        y = np.asarray(jax.jit(mixer)(jnp.asarray(x), PACKED))
    norms = [1.0 if kind == "free" else np.linalg.norm(taps(k, kind, 1), axis=0) for k in first]
    ahead, *behind = (taps(k, kind, norm) for k, norm in zip(w, norms, strict=True))
    for b, run in ((b, run) for b, row in enumerate(PACKED) for run in runs(row)):
        for i, t in enumerate(run):
            expected = skip * x[b, t] + sum(
                ahead[i - j] * x[b, s] for j, s in enumerate(run[: i + 1])
            )
            for kernel in behind:
                later = enumerate(run[i + 1 :])
                expected = expected + sum(kernel[j] * x[b, s] for j, s in later)
            assert_close(y[b, t], expected, ratio=1e-12)


def test_parameters_of_scales_grow_with_the_logarithm_of_the_length():
    small, large = (
        LongConv(D, kind="multiscale", max_length=n, gate=False, rngs=nnx.Rngs(0)).conv.shape[1]
        for n in (2**10, 2**20)
    )
    assert (small, large) == (6, 16)


def test_free_taps_start_with_unit_energy():
    kernel = LongConv(256, max_length=64, rngs=nnx.Rngs(0)).conv[...]
    assert np.mean(np.sum(kernel**2, axis=1)) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("options", [{"kind": "more"}, {"squash": -1.0}, {"width": 0}])
def test_what_cannot_be_is_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        LongConv(D, **options, rngs=nnx.Rngs(0))
