"""One compiled program for all tests of the loop."""

import jax
import pytest

from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run_program
from tests.train.tiny_run import experiment, make_model


@pytest.fixture(scope="session")
def program():
    return make_program(experiment(), make_model=make_model, devices=jax.devices()[:1])


@pytest.fixture(scope="session")
def finished(program, tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    run_program(program, folder)
    return folder
