"""Fields of dataclasses with the comments on their lines, which flags show as their help."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize


def options(kind: type, *, flags: bool = False) -> list[list[str]]:
    """A row for each field: its name (as a flag), its default, what it is."""
    said = comments(kind)
    return [
        [
            f"`{field.name.replace('_', '-') if flags else field.name}`",
            _default(field),
            said.get(field.name, ""),
        ]
        for field in dataclasses.fields(kind)
    ]


def comments(kind: type) -> dict[str, str]:
    """Field -> the comment that stands on its lines, here or where it is inherited from."""
    said: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(owner) or "_fields" in vars(owner):
            said |= _comments(owner)
    return said


def _comments(owner: type) -> dict[str, str]:
    source = textwrap.dedent(inspect.getsource(owner))
    found = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    alone = {at for at in found if source.splitlines()[at - 1].lstrip().startswith("#")}
    (body,) = ast.parse(source).body
    said = {}
    for node in (node for node in body.body if isinstance(node, ast.AnnAssign)):
        own = [found[at] for at in range(node.lineno, node.end_lineno + 1) if at in found]
        above = node.lineno - 1
        while above in alone and (not own or above + 1 in alone):
            own.insert(0, found[above])
            above -= 1
        if own:
            said[node.target.id] = " ".join(own)
    return said


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    made = field.default_factory is not dataclasses.MISSING
    return f"`{getattr(field.default_factory, '__name__', '')}()`" if made else ""
