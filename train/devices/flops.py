"""How many operations a model asks for, counted on what JAX traces of its forward pass.

A product of matrices counts 2 m n k, an elementwise operation or a reduction one for each number; a
loop counts as often as it runs, or once where only the data decide that; of branches that give the
same (one for each platform) the least counts. A training step is three forward passes: what
rematerialisation repeats is no progress.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, Var, jaxpr_as_fun

_FREE = {
    *("reshape", "broadcast_in_dim", "transpose", "squeeze", "slice", "dynamic_slice", "pad"),
    *("dynamic_update_slice", "gather", "concatenate", "iota", "copy", "convert_element_type"),
    *("rev", "split", "stop_gradient", "sharding_constraint", "select_n", "device_put"),
    *("platform_index", "random_wrap", "random_unwrap", "bitcast_convert_type", "empty"),
}


class Operations(NamedTuple):
    """Floating-point operations, and those of them in products of matrices."""

    total: float
    products: float

    def __mul__(self, times: float) -> Operations:
        return Operations(self.total * times, self.products * times)


def operations(function: Any, *args: Any) -> Operations:
    """What `function(*args)` asks for; the arguments may be shapes."""
    return _of_jaxpr(jax.make_jaxpr(function)(*args).jaxpr)


def _of_jaxpr(jaxpr: Any) -> Operations:
    total = products = 0.0
    for equation in jaxpr.eqns:
        own = _of_equation(equation)
        total, products = total + own.total, products + own.products
    return Operations(total, products)


def _of_equation(equation: Any) -> Operations:
    name, inner = equation.primitive.name, [_of_jaxpr(j) for j in _inner(equation.params)]
    if name == "cond":
        return min(inner)
    if inner and not name.startswith("reduce"):
        times = equation.params["length"] if name == "scan" else 1
        times = _turns(equation) if name == "while" else times
        return Operations(*map(sum, zip(*inner, strict=True))) * times
    if name == "dot_general":
        return _of_product(equation)
    if name == "conv_general_dilated":
        return _of_convolution(equation)
    if name == "fft":
        n = equation.invars[0].aval.size
        return Operations(5 * n * math.log2(max(2, math.prod(equation.params["fft_lengths"]))), 0)
    if name in _FREE:
        return Operations(0, 0)
    reduces = name.startswith(("reduce", "arg", "cum"))
    sizes = (v.aval for v in (equation.invars if reduces else equation.outvars))
    return Operations(max((getattr(aval, "size", 0) for aval in sizes), default=0), 0)


def _turns(loop: Any) -> int:
    """How often a `while` runs: by running what decides it; 1 where that is more than constants."""
    names = ("cond_jaxpr", "body_jaxpr")
    condition, body = _inner({name: loop.params[name] for name in names})
    first = loop.params["cond_nconsts"], loop.params["body_nconsts"]
    given = loop.invars[sum(first) :]
    places: set[int] = set()  # of the carried values that decide: those that the condition reads,
    found = {p - first[0] for p in _slice(condition, condition.outvars)[1]}
    while not found <= places:  # and those that make them
        places |= found
        if not all(p >= 0 and isinstance(given[p], Literal) for p in places):
            return 1
        found = {p - first[1] for p in _slice(body, [body.outvars[p] for p in places])[1]}
    order = sorted(places)

    def part(jaxpr: Any, first: int, outputs: list) -> Any:
        inputs = [jaxpr.invars[first + p] for p in order]
        equations = _slice(jaxpr, outputs)[0]
        made = jaxpr.replace(invars=inputs, outvars=outputs, eqns=equations)
        return jaxpr_as_fun(ClosedJaxpr(made, ()))

    goes_on = part(condition, first[0], condition.outvars)
    turn = part(body, first[1], [body.outvars[p] for p in order])
    turns, *_ = jax.lax.while_loop(
        lambda state: goes_on(*state[1:])[0],
        lambda state: (state[0] + 1, *turn(*state[1:])),
        (0, *(given[p].val for p in order)),
    )
    return int(turns)


def _slice(jaxpr: Any, outputs: list) -> tuple[list, list[int]]:
    """The equations that make some outputs, and the places of the inputs that they read."""
    wanted, kept = {v for v in outputs if isinstance(v, Var)}, []
    for equation in reversed(jaxpr.eqns):
        if not wanted.isdisjoint(equation.outvars):
            kept.append(equation)
            wanted |= {v for v in equation.invars if isinstance(v, Var)}
    return kept[::-1], [i for i, v in enumerate(jaxpr.invars) if v in wanted]


def _of_product(equation: Any) -> Operations:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    n = 2.0 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracted)
    return Operations(n, n)


def _of_convolution(equation: Any) -> Operations:
    kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
    out_features = kernel.shape[numbers.rhs_spec[0]]
    n = 2.0 * equation.outvars[0].aval.size * kernel.size / out_features
    return Operations(n, n)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
