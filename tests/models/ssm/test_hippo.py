"""HiPPO matrices and the normal form of LegS against published values."""

from pathlib import Path

import numpy as np
import pytest

from seqzoo.models.ssm.hippo import hippo, hippo_dplr
from tests.helpers import assert_close

GOLDEN = Path(__file__).parents[2] / "golden" / "s4"


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "fourier"])
@pytest.mark.parametrize("n", [4, 8, 16])
def test_matrices_equal_the_published_ones(measure, n):
    golden = np.load(GOLDEN / "hippo_transitions.npz")
    A, B = hippo(measure, n)
    assert_close(A, golden[f"A_{measure}_{n}"], ratio=1e-14)
    assert_close(B, golden[f"B_{measure}_{n}"], ratio=1e-14)


@pytest.mark.parametrize("n", [8, 16])
def test_normal_form_equals_the_published_one_up_to_phases(n):
    golden = np.load(GOLDEN / "nplr.npz")
    lam, p, b, _ = hippo_dplr(n)
    assert_close(lam, golden[f"W_legs_{n}"], ratio=1e-12)
    assert_close(p * b.conj(), golden[f"PconjB_legs_{n}"][0], ratio=1e-12)
    assert_close(abs(b), golden[f"absB_legs_{n}"], ratio=1e-12)


@pytest.mark.parametrize("n", [2, 8, 64])
def test_normal_form_gives_the_matrix_back(n):
    A, B = hippo("legs", n)
    lam, p, b, v = (np.concatenate([z, z.conj()], -1) for z in hippo_dplr(n))
    assert_close(v @ (np.diag(lam) - np.outer(p, p.conj())) @ v.conj().T, A, ratio=1e-12)
    assert_close(v @ b, B, ratio=1e-12)


def test_errors_name_the_rule():
    with pytest.raises(ValueError, match="unknown measure 'lag'"):
        hippo("lag", 4)
    with pytest.raises(ValueError, match="even for fourier"):
        hippo("fourier", 5)
    with pytest.raises(ValueError, match="even, positive size; got 7: use 8"):
        hippo_dplr(7)
