"""What the README shows works, and it lists what there is."""

import pathlib
import re

import pytest

from seqzoo import tasks
from seqzoo.models import names, presets
from tests.helpers import assert_close

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


def test_every_mixer_preset_and_task_is_in_the_readme():
    for name in (*names(), *presets(), *tasks.names()):
        assert f"`{name}`" in README, f"README.md does not list {name}"


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_the_examples_run(code):
    scope = {}
    exec(code, scope)
    if "y2" in scope:
        import jax.numpy as jnp

        streamed = jnp.concatenate([scope["y1"], scope["y2"]], 1)
        real = scope["segments"] > 0
        assert_close(streamed[real], scope["y"][real], ratio=1e-5)


def test_the_commands_of_the_readme_parse():
    from seqzoo.train.cli import dispatch

    verbs = set(re.findall(r"^    seqzoo (\S+)", README, re.MULTILINE))
    assert verbs >= {"list", "train", "show", "evaluate", "compare", "report"}
    for verb in verbs:
        try:
            code = dispatch([verb, "--help"])
        except SystemExit as done:  # tyro prints and leaves
            code = done.code
        assert not code, verb
