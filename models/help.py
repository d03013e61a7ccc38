"""`help(LRU)` as the page of LRU: what its file says, its arguments, an example."""

from __future__ import annotations

import inspect
import sys

from seqzoo.models.construct import parameters_of

SHARED = {
    "d_model": "width D of the rows [B, L, D] that come in and go out",
    "causal": "False: it looks both ways, by nature or as a copy for each way",
    "dtype": "of the arithmetic inside; recurrences and states are at least float32",
    "param_dtype": "of the parameters",
    "layer": "(index, depth) in a stack, for what depends on it",
    "rngs": "a key, or nnx.Rngs with the stream `params`",
}


def page(module: type) -> str:
    """A mixer's docstring with that of its file, its arguments with defaults, and an example."""
    about = inspect.cleandoc(module.__doc__ or "")
    for pointer in ("; see the module docstring.", " See the module docstring."):
        about = about.replace(pointer, "." if pointer.startswith(";") else "")
    parts = [about.replace("\n\nSee the module docstring.", "").strip()]
    parts.append(inspect.cleandoc(sys.modules[module.__module__].__doc__ or ""))
    lines = [_line(name, given) for name, given in parameters_of(module).items() if name != "self"]
    if "causal" not in parameters_of(module) and module.causal_form:
        lines.insert(-1, f"    causal: bool = True  # {SHARED['causal']}")
    parts.append("Args:\n" + "\n".join(lines))
    own = inspect.getdoc(module.__init__) if "__init__" in vars(module) else None
    parts += [own] if own else []
    return "\n\n".join([*parts, _example(module)])


def _line(name: str, given: inspect.Parameter) -> str:
    kind = given.annotation if isinstance(given.annotation, str) else "Any"
    default = given.default
    if default is not inspect.Parameter.empty:
        shown = (
            default.__name__ if name.endswith("dtype") and default is not None else repr(default)
        )
        kind += f" = {shown}"
    says = SHARED.get(name)
    return f"    {name}: {kind}" + (f"  # {says}" if says else "")


def _example(module: type) -> str:
    built = f"{module.__name__}(64, rngs=nnx.Rngs(0))"
    if not module.causal_form:
        return f"Example:\n    mixer = {built}\n    y = mixer(jnp.ones((2, 100, 64)))"
    return f"""Example:
    mixer = {built}
    y = mixer(jnp.ones((2, 100, 64)))
    y, state = mixer.extend(jnp.ones((2, 1, 64)), mixer.init_state(2))"""
