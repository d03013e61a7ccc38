"""help(LRU) is the page of LRU, and so for every mixer."""

import pydoc
import re

import jax.numpy as jnp
import pytest
from flax import nnx

import seqzoo.models
from seqzoo.models import LRU, MIXERS
from seqzoo.models.construct import parameters_of
from tests.scripts import script

PARTS = {
    "what it is": r"^\S.*\.$",
    "equation": r"^ {4}.* (=|<-) ",
    "source": r"\d{4}\.\d{4,5}|doi:|\((19|20)\d\d\)",
    "cost": r"[Cc]ost of L tokens|O\(L",
    "state": r"[Ss]tate:? |cannot stream|No state",
    "arguments": r"^Args:$",
    "width": r"^ {4}d_model: int  # width D of the rows \[B, L, D\]",
    "streams": r"^ {4}rngs: ",
    "example": r"^Example:$",
}


def missing(mixer):
    text = mixer.__doc__
    lacks = [part for part, shape in PARTS.items() if not re.search(shape, text, re.MULTILINE)]
    for name, given in parameters_of(mixer).items():
        if given.default is not given.empty and not name.endswith("dtype"):
            lacks += [name] * (f"    {name}: {given.annotation} = {given.default!r}" not in text)
    return lacks + ["a pointer elsewhere"] * ("module docstring" in text)


def test_nothing_is_missing_on_any_page():
    assert {name: missing(mixer) for name, mixer in MIXERS.items() if missing(mixer)} == {}


def test_help_shows_it():
    text = pydoc.plain(pydoc.render_doc(LRU))
    assert "h_t = λ ⊙ h_{t-1} + γ ⊙ (B x_t)" in text
    assert "d_state: int = 64" in text


@pytest.mark.parametrize("name", ["lru", "fnet"])
def test_the_example_of_a_page_runs(name):
    code = MIXERS[name].__doc__.split("Example:\n")[1].replace("    ", "")
    scope = {"jnp": jnp, "nnx": nnx, **vars(seqzoo.models)}
    exec(code, scope)
    assert scope["y"].shape[::2] == (2, 64)
    assert jnp.isfinite(scope["y"]).all()


def test_type_checkers_read_today_s_constructors():
    stubs = script("stubs")
    assert stubs["PLACE"].read_text() == stubs["text"](), "run: python docs/stubs.py"
    lru = next(line for line in stubs["text"]().splitlines() if "max_phase" in line)
    assert "rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: " in lru
