"""The laws that every mixer keeps, for tests of mixers of your own; installed as `seqzoo.testing`.

    from seqzoo.testing import check_mixer

    report = check_mixer(MyMixer)
    assert not report.broken, report

It needs no test runner. (Imports in here are relative, since the folder has two names.)
"""

from .cases import ONES, PACKED, B, C, D, L, normal, runs
from .check import LAWS, NUMBERS, USES, Law, Report, Result, check_mixer, laws_of
from .compare import assert_close, relative_error, rms
from .subject import Subject, perturbed

__all__ = [
    "LAWS",
    "NUMBERS",
    "ONES",
    "PACKED",
    "USES",
    "B",
    "C",
    "D",
    "L",
    "Law",
    "Report",
    "Result",
    "Subject",
    "assert_close",
    "check_mixer",
    "laws_of",
    "normal",
    "perturbed",
    "relative_error",
    "rms",
    "runs",
]
