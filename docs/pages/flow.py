"""What feeds what in a mixer, read from its traced program.

Projections, norms and convolutions (the modules that hold no others) and the primitives of
`models/ops` are boxes. While a call is traced each box marks its inputs and outputs; one walk over
the program then finds which outputs and parameters reach which input. Nothing is computed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

INPUT, OUTPUT = "x", "y"
SHAPE = (1, 16)  # of the rows that are traced
OPS = "seqzoo.models.ops."


@dataclasses.dataclass
class Box:
    """A module or a primitive: what it is called and what comes in, by the name of the argument."""

    name: str
    says: str = ""  # a module's class and widths
    primitive: bool = False
    ports: dict[str, set[str | int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Flow:
    """The boxes of a mixer in the order of their calls; a source is a box, a parameter or x."""

    boxes: list[Box]
    output: set[str | int]


def flow(mixer: type, d_model: int = 64, **options: Any) -> Flow:
    """That of a mixer of default options."""

    def built(key: jax.Array) -> nnx.Module:
        return mixer(d_model, rngs=nnx.Rngs(key), **options)

    module = nnx.eval_shape(built, jax.random.key(0))
    for path, part in nnx.iter_graph(module):
        if isinstance(part, nnx.Module):
            part.called = ".".join(map(str, path))  # static, so that it is there in a trace
    graph, variables = nnx.split(module)
    with recording(module) as boxes:
        program = jax.make_jaxpr(lambda variables, x: nnx.merge(graph, variables)(x))(
            variables, jax.ShapeDtypeStruct((*SHAPE, d_model), jnp.float32)
        )
    names = [_parameter(path) for path, _ in jax.tree_util.tree_leaves_with_path(variables)]
    (output,) = _walk(program.jaxpr, [{f".{name}"} for name in names] + [{INPUT}], boxes)
    return Flow([box for box in boxes if box.ports], output)


def _parameter(path: tuple[Any, ...]) -> str:
    keys = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
    return ".".join(key for key in keys if key != "value")


@contextlib.contextmanager
def recording(module: nnx.Module) -> Iterator[list[Box]]:
    """Marks what boxes are given and give, while it is open."""
    boxes: list[Box] = []
    inside: list[None] = []

    def boxed(make: Callable[[tuple], Box], called: Callable) -> Callable:
        @functools.wraps(called)
        def marked(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return called(*args, **kwargs)
            number, box = len(boxes), make(args)
            boxes.append(box)
            bound = inspect.signature(called).bind(*args, **kwargs)
            for name, value in bound.arguments.items():
                if name != "self":
                    bound.arguments[name] = _marked(value, f"in {number} {name}")
            inside.append(None)
            try:
                result = called(*bound.args, **bound.kwargs)
            finally:
                inside.pop()
            return _marked(result, f"out {number}")

        return marked

    with contextlib.ExitStack() as stack:
        leaves = [part for _, part in nnx.iter_graph(module) if _is_leaf(part)]
        for kind in {type(part) for part in leaves if part is not module}:
            call = boxed(lambda args: _module_box(args[0]), kind.__call__)
            stack.enter_context(mock.patch.object(kind, "__call__", call))
        for place, name, op in list(_primitives()):
            box = functools.partial(lambda name, _: Box(name, primitive=True), op.__name__)
            stack.enter_context(mock.patch.object(place, name, boxed(box, op)))
        yield boxes


def _is_leaf(part: Any) -> bool:
    if not isinstance(part, nnx.Module):
        return False
    return sum(isinstance(below, nnx.Module) for _, below in nnx.iter_graph(part)) == 1


def _module_box(part: nnx.Module) -> Box:
    kernel = getattr(part, "kernel", None)
    widths = "" if kernel is None else " " + " → ".join(map(str, kernel.shape))
    return Box(getattr(part, "called", ""), type(part).__name__ + widths)


def _primitives() -> Iterator[tuple[Any, str, FunctionType]]:
    """Where mixers know a primitive by which name."""
    for place, module in list(sys.modules.items()):
        if not place.startswith("seqzoo.models.") or place.startswith(OPS):
            continue
        for name, value in list(vars(module).items()):
            home = getattr(value, "__module__", "") or ""
            if inspect.isfunction(value) and home.startswith(OPS) and ".layout." not in home:
                yield module, name, value


def _marked(tree: Any, name: str) -> Any:
    def mark(leaf: Any) -> Any:
        return checkpoint_name(leaf, name) if isinstance(leaf, jax.core.Tracer) else leaf

    return jax.tree.map(mark, tree)


def _walk(program: Any, given: list[set], boxes: list[Box]) -> list[set]:
    """The sources of a program's results; fills the ports of boxes on the way."""
    found = dict(zip(program.invars, given, strict=True))

    def sources(value: Any) -> set:
        return found.get(value, set()) if not hasattr(value, "val") else set()

    for step in program.eqns:
        values = [sources(value) for value in step.invars]
        together = set().union(*values)
        inner = _inner(step)
        if step.primitive.name == "name":
            together = _met(step.params["name"].split(), together, boxes)
        if inner is not None and len(inner.invars) == len(values):
            results = _walk(inner, values, boxes)
        else:
            results = [together] * len(step.outvars)
        found.update(zip(step.outvars, results, strict=True))
    return [sources(value) for value in program.outvars]


def _met(mark: list[str], sources: set, boxes: list[Box]) -> set:
    if mark[0] == "out":
        return {int(mark[1])}
    if mark[0] == "in":
        boxes[int(mark[1])].ports.setdefault(mark[2], set()).update(sources)
    return sources


def _inner(step: Any) -> Any:
    """The program that a call calls once; loops and branches have none, and mix what they get."""
    if step.primitive.name in ("scan", "while", "cond"):
        return None
    inner = step.params.get("jaxpr", step.params.get("call_jaxpr"))
    return getattr(inner, "jaxpr", inner)
