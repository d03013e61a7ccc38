"""What type checkers and editors read of the mixers' constructors: models/mixers.pyi.

    python docs/stubs.py

The class of mixer classes takes `causal`, `bidirectional` and a bare key for all of them
(`models/construct.py`), which the signatures that checkers see do not say. Those of the stub do.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from seqzoo.models import MIXERS
from seqzoo.models.construct import parameters_of
from seqzoo.models.mixer import Mixer

PLACE = Path(__file__).parents[1] / "models" / "mixers.pyi"
HEAD = '''"""What type checkers read of `mixers.py`; written by `python docs/stubs.py`."""

# ruff: noqa: E501, I001
# fmt: off
'''
SHOWN = (int, float, bool, str, type(None), tuple)  # defaults that are shown
FOR_ALL = {
    "causal": "causal: bool | None = None",
    "bidirectional": "bidirectional: Mapping[str, Any] | None = None",
    "rngs": "rngs: nnx.Rngs | Array",
}
IMPORTS = {
    "Array": "from jax import Array",
    "Any": "from typing import Any",
    "Literal": "from typing import Literal",
    "Mapping": "from collections.abc import Mapping",
    "Mixer": "from seqzoo.models.mixer import Mixer",
    "nnx": "from flax import nnx",
    "DTypeLike": "from jax.typing import DTypeLike",
}


def text() -> str:
    """The stub."""
    classes = list(dict.fromkeys(MIXERS.values()))
    used = {name for mixer in classes for name in _names(mixer)} | {"Array", "Any", "Mapping"}
    imports = {IMPORTS.get(name) or _import(name, classes) for name in used | {"Mixer", "nnx"}}
    imports |= {f"import {mixer.__module__}" for mixer in classes}
    body = [line for mixer in classes for line in _class(mixer)]
    return "\n".join([HEAD, *sorted(imports), "", "MIXERS: dict[str, type[Mixer]]", "", *body])


def _class(mixer: type[Mixer]) -> Iterator[str]:
    own = {name: _argument(given) for name, given in parameters_of(mixer).items()}
    said = ", ".join({**own, **FOR_ALL}.values())
    yield f"class {mixer.__name__}({mixer.__module__}.{mixer.__name__}):"
    yield f"    def __init__({said}) -> None: ..."
    yield ""


def _argument(given: inspect.Parameter) -> str:
    if given.default is inspect.Parameter.empty:
        kind = f": {given.annotation}" if given.name != "self" else ""
        return given.name + kind + ", *" * (given.name == "d_model")
    return f"{given.name}: {given.annotation} = {_default(given.default)}"


def _default(value: object) -> str:
    return repr(value) if type(value) in SHOWN else "..."


def _names(mixer: type[Mixer]) -> Iterator[str]:
    """What its annotations are made of."""
    for given in parameters_of(mixer).values():
        if given.annotation is not inspect.Parameter.empty:
            tree = ast.parse(given.annotation, mode="eval")
            found = (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
            yield from (name for name in found if not hasattr(builtins, name))


def _import(name: str, classes: list[type[Mixer]]) -> str:
    """From a module that has the name, which means the same in all that have it."""
    modules = [sys.modules[c.__module__] for c in classes if name in _names(c)]
    (meaning,) = {id(vars(module)[name]): vars(module)[name] for module in modules}.values()
    where = getattr(meaning, "__module__", "")
    return f"from {where if where.startswith('seqzoo') else modules[0].__name__} import {name}"


if __name__ == "__main__":
    PLACE.write_text(text())
