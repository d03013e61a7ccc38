"""Feature maps against their kernels and the published numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqzoo.models.ops.matrix.feature_maps import (
    favor_features,
    quadratic,
    random_projection,
    reweighted,
    taylor,
)
from tests.golden import golden
from tests.helpers import assert_close, x64


def test_taylor_and_quadratic_features_have_the_kernels_of_their_papers():
    with x64():
        q, k = (jax.random.normal(jax.random.key(i), (7, 5)) for i in range(2))
        s = q @ k.T / 5**0.5
        assert_close(taylor(q) @ taylor(k).T, 1 + s + s**2 / 2, ratio=1e-12)
        assert_close(quadratic(q) @ quadratic(k).T, s**2, ratio=1e-12)
        assert taylor(q).shape[-1] == 1 + 5 + 15


def test_reweighting_is_the_cosine_of_the_distance_and_stays_positive():
    with x64():
        q, k = (jax.random.normal(jax.random.key(i), (1, 9, 1, 3)) for i in range(2))
        places = jnp.arange(9)[None]
        got = jnp.einsum("blhf,bshf->ls", reweighted(q, places, 6), reweighted(k, places, 6))
        at = np.minimum(np.arange(9), 6)
        cosine = np.cos(np.pi / 2 * (at[:, None] - at[None]) / 6)
        plain = np.einsum("blhf,bshf->ls", np.maximum(q, 0), np.maximum(k, 0))
        assert_close(got, plain * cosine, ratio=1e-12)
        assert float(got.min()) >= -1e-12


def test_random_features_equal_the_published_ones():
    with x64():
        g = golden("performer/feature_maps")
        q, k = (jnp.asarray(g[n]).swapaxes(1, 2) for n in "qk")
        w = jnp.asarray(g["projection"])
        wanted = {
            ("softmax_pos_q", "positive", "token"): q,
            ("softmax_pos_k", "positive", "global"): k,
            ("sincos_q", "trigonometric", "global"): q,
            ("sincos_k", "trigonometric", "global"): k,
            ("relu_q", "relu", "none"): q,
        }
        for (name, kind, stabilizer), x in wanted.items():
            got = favor_features(x, w, kind=kind, stabilizer=stabilizer).swapaxes(1, 2)
            assert_close(got, g[name], ratio=1e-12, what=name)
        identity = favor_features(k, jnp.eye(6), kind="relu").swapaxes(1, 2)
        assert_close(identity, g["relu_k_noproj"], ratio=1e-12)


@pytest.mark.parametrize("kind", ["orthogonal", "structured"])
@pytest.mark.parametrize(("rows", "width"), [(12, 6), (10, 7)])
def test_rows_are_orthogonal_within_a_block_with_gaussian_norms(kind, rows, width):
    with x64():
        draw = jax.vmap(
            lambda key: random_projection(key, rows, width, kind=kind, dtype=jnp.float64)
        )
        w = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
        for start in range(0, rows, width):
            block = w[:, start : start + width]
            gram = np.einsum("nik,njk->nij", block, block)
            norms = np.einsum("nii->ni", gram)
            assert (
                np.abs(gram - np.einsum("ni,ij->nij", norms, np.eye(gram.shape[1]))).max() < 1e-12
            )
        assert abs(np.mean(w**2) - 1) < 0.05  # E |w|² = K
        assert abs(np.mean(w**4) - 3) < 0.3  # each coordinate is a standard normal
        cross = np.mean(w[:, :1, :] * w[:, :1, ::-1], axis=0)[0, : width // 2]
        assert np.abs(cross).max() < 0.2  # no direction is preferred
    equal = random_projection(jax.random.key(1), rows, width, kind=kind, equal_norms=True)
    assert_close(jnp.linalg.norm(equal, axis=-1), np.full(rows, width**0.5), ratio=1e-6)


def test_published_projections_have_the_same_facts():
    g = golden("performer/orthogonal_matrix")
    first = g["W_scaling1_12x6"][:6]
    assert_close(first @ first.T, 6 * np.eye(6), ratio=1e-6)
    assert_close(g["rownorms_scaling1_12x6"], np.full(12, 6**0.5), ratio=1e-6)


def kernel_error(kind, projection, m, seeds):
    """Relative rms error of φ(q)·φ(k) against exp(q·k/√K) at q, k ~ 0.5 N(0, I), L 128, K 16."""

    def one(key):
        a, b, c = jax.random.split(key, 3)
        q, k = (0.5 * jax.random.normal(key, (1, 128, 1, 16)) for key in (a, b))
        w = random_projection(c, m, 16, kind=projection)
        phi = [favor_features(x, w, kind=kind, stabilizer="none", eps=0.0)[0, :, 0] for x in (q, k)]
        exact = jnp.exp(q[0, :, 0] @ k[0, :, 0].T / 4)
        return 0.5 * jnp.log(jnp.mean((phi[0] @ phi[1].T - exact) ** 2) / jnp.mean(exact**2))

    # The geometric mean: the error of a draw has a heavy tail.
    return float(jnp.exp(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), seeds)).mean()))


def test_the_error_falls_with_the_root_of_the_number_of_features():
    few, many = (kernel_error("positive", "iid", m, 10) for m in (32, 512))
    assert 2.8 < few / many < 5.6  # 4 by m^(-1/2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["positive", "trigonometric"])
@pytest.mark.parametrize("projection", ["iid", "orthogonal", "structured"])
def test_the_slope_of_the_error_is_minus_one_half(kind, projection):
    m = 2 ** np.arange(4, 13)
    errors = [kernel_error(kind, projection, int(n), 10) for n in m]
    slope = np.polyfit(np.log(m), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4, (slope, errors)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"kind": "cosine"}, "kind"), ({"stabilizer": "running"}, "stabilizer")],
)
def test_unknown_options_are_refused(options, match):
    x, w = jnp.zeros((1, 2, 1, 4)), jnp.zeros((3, 4))
    with pytest.raises(ValueError, match=match):
        favor_features(x, w, **options)
    with pytest.raises(ValueError, match="K=4"):
        favor_features(x, jnp.zeros((3, 5)))
    with pytest.raises(ValueError, match="known: orthogonal"):
        random_projection(jax.random.key(0), 3, 4, kind="hadamard")
