"""HiPPO matrices and their normal forms against published values."""

import numpy as np
import pytest

from seqzoo.models.ssm.hippo import hippo, hippo_dplr, nplr, unread
from tests.golden import golden
from tests.helpers import assert_close

MATRICES = golden("s4/hippo_transitions")
FORMS = golden("s4/nplr")


def pair(case):
    if case == "tlagt_beta":
        return hippo("tlagt", 8, beta=float(MATRICES["tlagt_beta"]))
    if case == "glagt_ab":
        options = {k: float(MATRICES[f"glagt_{k}"]) for k in ("alpha", "beta")}
        return hippo("glagt", 8, **options)
    measure, n = case.rsplit("_", 1)
    return hippo(measure, int(n))


@pytest.mark.every_case
@pytest.mark.parametrize("case", [name[2:] for name in MATRICES if name.startswith("A_")])
def test_matrices_equal_the_published_ones(case):
    A, B = pair(case)
    assert_close(A, MATRICES[f"A_{case}"], ratio=1e-14)
    assert_close(B, MATRICES[f"B_{case}"], ratio=1e-14)


@pytest.mark.every_case
@pytest.mark.parametrize("case", [name[2:] for name in FORMS if name.startswith("W_")])
def test_normal_forms_equal_the_published_ones_up_to_phases(case):
    measure, n = case.rsplit("_", 1)
    form = nplr(measure, int(n))
    assert_close(form.lam, FORMS[f"W_{case}"], ratio=1e-12)
    assert np.abs(form.p * form.b.conj() - FORMS[f"PconjB_{case}"]).max() < 1e-12
    assert_close(abs(form.b), FORMS[f"absB_{case}"], ratio=1e-12)


@pytest.mark.every_case
@pytest.mark.parametrize("measure", ["legs", "legsd", "legt", "lagt", "fourier", "fourier2"])
@pytest.mark.parametrize("n", [2, 8, 64])
def test_normal_form_gives_the_matrix_back(measure, n):
    A, B = hippo(measure, n)
    lam, p, b, v = (np.concatenate([z, z.conj()], -1) for z in nplr(measure, n))
    assert_close(v @ (np.diag(lam) - p.T @ p.conj()) @ v.conj().T, A, ratio=1e-12)
    assert_close(v @ b, B, ratio=1e-12)


@pytest.mark.parametrize("measure", ["legs", "legsd", "legt", "lagt", "fourier", "fourier2"])
def test_unread_forms_have_the_shapes_of_others_and_are_not_kept(measure):
    before = nplr(measure, 8)
    with unread():
        shapes = [(z.shape, z.dtype) for z in nplr(measure, 8)]
        with pytest.raises(ValueError, match="even, positive size"):
            nplr(measure, 7)
    assert shapes == [(z.shape, z.dtype) for z in before]
    np.testing.assert_array_equal(nplr(measure, 8).v, before.v)


def test_the_form_of_legs_alone():
    for ours, form in zip(hippo_dplr(8), nplr("legs", 8), strict=True):
        np.testing.assert_array_equal(ours, form.reshape(ours.shape))


@pytest.mark.every_case
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hippo("lag", 4), "unknown measure 'lag'"),
        (lambda: hippo("fourier", 5), "even for fourier"),
        (lambda: hippo("legs", 4, beta=1.0), "beta to tlagt and glagt"),
        (lambda: hippo("glagt", 4, alpha=1.0), "alpha must be below 1"),
        (lambda: hippo_dplr(7), "even, positive size; got 7: use 8"),
        (lambda: nplr("lmu", 4), "no normal plus low-rank form of 'lmu'"),
    ],
)
def test_errors_name_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
