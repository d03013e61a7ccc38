"""The docstrings of the reference say what goes in.

That nothing public is without one is the linter's to say (D100 to D103). A parameter is said by a
shape in its annotation, by its name in the docstring (of the function, of its class, or of the
method that it overrides), by the comment beside a field, or it is one that means the same
everywhere (`seqzoo.models.help.SHARED`). What raises says so.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap

import jax
import pytest
from jaxtyping import Float

from seqzoo.models.help import SHARED
from tests.scripts import DOCS

SHAPED = re.compile(r"\b(Float|Int|Integer|Bool|Complex|Shaped|Num|PyTree)\[")


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(DOCS))
    from pages import fields, reference

    sys.path.remove(str(DOCS))
    return {
        f"{package}.{name}": (found, fields.comments(found) if inspect.isclass(found) else {})
        for package in reference.PACKAGES
        for name, found in reference.documented(package)
    }


def test_every_parameter_of_the_reference_is_said(reference):
    found = [
        f"{name}: {unsaid}"
        for name, (public, comments) in reference.items()
        for unsaid in unsaid_of(public, comments)
    ]
    assert found == []


def unsaid_of(public, comments):
    """What the docstrings of a function, or of a class and its methods, leave out."""
    if not inspect.isclass(public):
        yield from left_out(public, inspect.getdoc(public))
        return
    about = inspect.getdoc(public) or ""
    if dataclasses.is_dataclass(public):
        for field in dataclasses.fields(public):
            if field.name not in comments and not named(field.name, about):
                yield field.name
    elif inspect.isfunction(made := vars(public).get("__init__")):
        yield from left_out(made, f"{about}\n{inspect.getdoc(made)}")
    for name, method in vars(public).items():
        method = getattr(method, "__func__", getattr(method, "fget", method))
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        above = (inspect.getdoc(vars(c)[name]) for c in public.__mro__ if name in vars(c))
        for unsaid in left_out(method, "\n".join(map(str, above))):
            yield f"{name}: {unsaid}"


def left_out(function, says):
    """The parameters that `says` does not name, and whether it is silent about errors."""
    for name, given in inspect.signature(function).parameters.items():
        said = name in ("self", "cls", *SHARED) or SHAPED.search(str(given.annotation))
        if not said and not named(name, says):
            yield name
    body = ast.parse(textwrap.dedent(inspect.getsource(function)))
    if any(isinstance(node, ast.Raise) for node in ast.walk(body)) and "aise" not in says:
        yield "raises"


def named(name, text):
    """Whether a text has a word."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text or "") is not None


def test_what_is_left_out_is_found():
    class Silent:
        def __init__(self, width: int):
            """Made."""

        def doubled(self, x: Float[jax.Array, "B L"], factor: float):
            """Twice x."""
            raise ValueError

    assert list(unsaid_of(Silent, {})) == ["width", "doubled: factor", "doubled: raises"]
