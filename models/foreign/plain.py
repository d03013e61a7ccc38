"""Any module [B, L, D] -> [B, L, D] as a mixer: NNX, Linen or Equinox.

    class EMA(nnx.Module):
        causal = True                                   # the claim; checked before training

        def __init__(self, d_model, *, rate: float = 0.9, rngs): ...
        def __call__(self, x): ...                      # [B, L, D] -> [B, L, D]

A Linen module is made as `Name(d_model=D, **options)`, an Equinox one as `Name(d_model, key=key,
**options)` and called on one row [L, D], as these libraries do. Options are the keywords of the
constructor, or the fields of the one dataclass that it takes. A constructor that has `causal`,
`dtype` or `param_dtype` is told; a call that has `rngs` gets streams in training mode, one that has
`mask` [B, L] is told which tokens are real, as one that looks both ways must be.

What the adapter does: real tokens are moved to the front of a row and padding, set to 0, behind
them, so that a causal module never meets it; what comes back is checked for shape and dtype. It
does not stream, its state is "undeclared", and packed rows are refused (`packing = "none"`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from seqzoo.models.construct import COMMON
from seqzoo.models.errors import unknown
from seqzoo.models.mixer import Context, Mixer, real_only

SIMPLE = (bool, int, float, str)  # types that an option's default tells
WRITES = ("_initial", "_mix", "state_size")  # what a mixer must


class PlainMixer(Mixer):
    """Adapter around `source`, which a subclass sets. State: not declared; it cannot stream."""

    packing = "none"
    state_growth = "undeclared"
    source: type

    def _initial(self, batch_size: int) -> tuple[()]:
        raise ValueError(
            f"{type(self).__name__} is a plain module and has no state that could be carried, so "
            "it cannot stream; write it as a seqzoo.models.Mixer, with _initial and _mix"
        )

    def state_size(self) -> int:
        """0: it declares none."""
        return 0

    def _mix(self, x: Float[Array, "B L D"], inner: Any, ctx: Context) -> tuple[Array, Any]:
        if inner is not None:
            self._initial(x.shape[0])
        valid = ctx.segments.valid
        if valid is None:
            return self._called(x, ctx), None
        order = jnp.argsort(~valid, axis=1, stable=True)[..., None]  # real tokens first
        front = jnp.take_along_axis(real_only(x, valid), order, axis=1)
        y = self._called(front, ctx, jnp.take_along_axis(valid, order[..., 0], axis=1))
        return jnp.take_along_axis(y, jnp.argsort(order, axis=1), axis=1), None

    def _called(self, x: Float[Array, "B L D"], ctx: Context, mask: Array | None = None) -> Array:
        y, who = self._call(x, ctx, mask), type(self).__name__
        if not hasattr(y, "shape") or y.shape != x.shape:
            got = getattr(y, "shape", type(y).__name__)
            raise ValueError(
                f"{who} gave {got} for rows of {x.shape}; a mixer keeps [batch, length, d_model]"
            )
        wide = jnp.issubdtype(y.dtype, jnp.floating) and y.dtype.itemsize >= x.dtype.itemsize
        if not wide:
            raise ValueError(
                f"{who} gave {y.dtype} for rows of {x.dtype}; a mixer gives back what it was "
                "given, as in y.astype(x.dtype) (of complex numbers the real part)"
            )
        return y

    def _call(self, x: Array, ctx: Context, mask: Array | None) -> Array:
        raise NotImplementedError


class _Nnx(PlainMixer):
    def _make(self, d_model: int, options: Mapping[str, Any], rngs: nnx.Rngs) -> None:
        self.module = self.source(d_model, **options, rngs=rngs)

    def _call(self, x: Array, ctx: Context, mask: Array | None) -> Array:
        takes = inspect.signature(self.source.__call__).parameters
        more = {"rngs": ctx.rngs} if "rngs" in takes else {}
        if "mask" in takes:
            more["mask"] = jnp.ones(x.shape[:2], bool) if mask is None else mask
        modes = {"deterministic": not ctx.training, "use_running_average": not ctx.training}
        self.module.set_attributes(**modes, raise_if_not_found=False)
        return self.module(x, **more)


class _Linen(PlainMixer):
    def _make(self, d_model: int, options: Mapping[str, Any], rngs: nnx.Rngs) -> None:
        made = self.source(d_model=d_model, **options)
        bridge = nnx.bridge.ToNNX(made, rngs=rngs)
        self.module = bridge.lazy_init(jnp.zeros((1, 2, d_model)))

    def _call(self, x: Array, ctx: Context, mask: Array | None) -> Array:
        return self.module(x, **({"rngs": ctx.rngs} if ctx.training else {}))


class _Equinox(PlainMixer):
    def _make(self, d_model: int, options: Mapping[str, Any], rngs: nnx.Rngs) -> None:
        import equinox as eqx

        made = self.source(d_model, key=rngs.params(), **options)
        arrays, rest = eqx.partition(made, eqx.is_array)
        leaves, self.structure = jax.tree.flatten(arrays)
        paths = [jax.tree_util.keystr(p, simple=True, separator="_")
                 for p, _ in jax.tree_util.tree_leaves_with_path(arrays)]  # fmt: skip
        kinds = [nnx.Param if eqx.is_inexact_array(leaf) else nnx.Variable for leaf in leaves]
        named = zip(paths, kinds, leaves, strict=True)
        self.leaves = nnx.Dict({path: kind(leaf) for path, kind, leaf in named})
        self.paths, self.static = tuple(paths), nnx.static(rest)

    def _call(self, x: Array, ctx: Context, mask: Array | None) -> Array:
        import equinox as eqx

        leaves = [self.leaves[path][...] for path in self.paths]
        module = eqx.combine(jax.tree.unflatten(self.structure, leaves), self.static)
        return jax.vmap(module)(x)


def as_mixer(value: Any, address: str) -> type[Mixer]:
    """The mixer class of `value`, which `address` names: a mixer, or a plain module adapted.

    Raises ValueError for anything else, and for constructors that cannot be called with a width.
    """
    if not isinstance(value, type):
        raise ValueError(f"{address} is {_what(value)}; name a class, as in mine.py:EMA")
    return _as_mixer(value, address)


@functools.cache
def _as_mixer(value: type, address: str) -> type[Mixer]:
    if issubclass(value, Mixer):
        lacks = [name for name in WRITES if getattr(value, name) is getattr(Mixer, name)]
        if lacks:
            raise ValueError(
                f"{address} is a Mixer without {', '.join(lacks)}; a plain nnx.Module with "
                "__call__(x) needs none of them"
            )
        return value
    kind = _kind(value)
    if kind is None:
        raise ValueError(
            f"{address} is {_what(value)}; a mixer is a flax.nnx.Module (or a Linen or Equinox "
            "module) with __call__(x), from [batch, length, d_model] to the same"
        )
    if "__call__" not in {name for base in value.__mro__ for name in vars(base)}:
        raise ValueError(f"{address} has no __call__(self, x)")
    return _adapted(value, kind, address)


def _kind(value: type) -> type[PlainMixer] | None:
    linen, equinox = sys.modules.get("flax.linen"), sys.modules.get("equinox")
    if issubclass(value, nnx.Module):
        return _Nnx
    if linen is not None and issubclass(value, linen.Module):
        return _Linen
    if equinox is not None and issubclass(value, equinox.Module):
        return _Equinox
    return None


def _adapted(value: type, kind: type[PlainMixer], address: str) -> type[Mixer]:
    takes = _arguments(value, kind, address)
    told = {name for name in ("causal", "dtype", "param_dtype") if name in takes}
    options, gather = _options(takes, address)
    claim = bool(getattr(value, "causal", True))

    def __init__(self, d_model, *, rngs, dtype=jnp.float32, param_dtype=jnp.float32, **given):
        causal = given.pop("causal", claim)
        more = {"causal": causal, "dtype": dtype, "param_dtype": param_dtype}
        self.causal = causal
        self._make(d_model, gather(given) | {name: more[name] for name in told}, rngs)
        if "param_dtype" not in told:
            _recast(self, param_dtype)

    own = {"d_model": inspect.Parameter.empty, "rngs": inspect.Parameter.empty}
    own |= {"dtype": jnp.float32, "param_dtype": jnp.float32}
    own |= {"causal": claim} if "causal" in told else {}
    key, positional = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter("self", positional)]
    parameters += [inspect.Parameter("d_model", positional)]
    parameters += [
        inspect.Parameter(name, key, default=default)
        for name, default in own.items()
        if name != "d_model"
    ]
    parameters += [
        inspect.Parameter(n, key, default=default) for n, (_, default) in options.items()
    ]
    __init__.__signature__ = inspect.Signature(parameters)
    __init__.__annotations__ = {name: hint for name, (hint, _) in options.items()}
    about = {
        "__init__": __init__,
        "__doc__": value.__doc__ or f"{address}, a plain module.",
        "__module__": value.__module__,
        "source": value,
        "causal": claim,
        "causal_form": claim or "causal" in told,
        "looks_both_ways": not claim or "causal" in told,
    }
    return type(Mixer)(value.__name__, (kind,), about)


def _recast(module: nnx.Module, dtype: Any) -> None:
    """Has every floating parameter in a dtype."""

    def cast(x: Array) -> Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    nnx.update(module, jax.tree.map(cast, nnx.state(module, nnx.Param)))


def _arguments(value: type, kind: type, address: str) -> dict[str, inspect.Parameter]:
    """The constructor's arguments apart from width and randomness, annotations resolved."""
    found = dict(list(inspect.signature(value.__init__).parameters.items())[1:])  # without self
    try:
        hints = typing.get_type_hints(value if kind is _Linen else value.__init__)
    except NameError:
        hints = {}
    width = found.pop("d_model", None)
    if width is None:
        raise ValueError(
            f"{address}: its constructor takes {', '.join(found) or 'nothing'}; a mixer's takes "
            "d_model first, as in __init__(self, d_model, *, rate=0.9, rngs)"
        )
    randomness = {_Nnx: "rngs", _Equinox: "key"}.get(kind)
    if randomness and found.pop(randomness, None) is None:
        raise ValueError(f"{address}: its constructor has no keyword {randomness!r}")
    for name in ("parent", "name") if kind is _Linen else ():
        found.pop(name, None)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: argument.replace(annotation=hints.get(name, argument.annotation))
        for name, argument in found.items()
        if argument.kind not in variable
    }


Options = dict[str, tuple[Any, Any]]  # name -> type and default


def _options(
    takes: Mapping[str, inspect.Parameter], address: str
) -> tuple[Options, Callable[[dict[str, Any]], dict[str, Any]]]:
    """What can be chosen, and what makes the constructor's arguments of it."""
    empty = inspect.Parameter.empty
    own = {name: a for name, a in takes.items() if name not in COMMON}
    configs = [name for name, a in own.items() if dataclasses.is_dataclass(a.annotation)]
    if len(own) == 1 and configs:
        (name,), config = configs, own[configs[0]].annotation
        hints = typing.get_type_hints(config)
        base = own[name].default
        found = {
            f.name: (hints[f.name], _default(f, base)) for f in dataclasses.fields(config) if f.init
        }
        _check_defaults(found, address)
        return found, lambda given: {name: config(**given)}
    found = {}
    for name, argument in own.items():
        hint = argument.annotation
        if hint is empty and type(argument.default) in SIMPLE:
            hint = type(argument.default)
        if hint is empty and argument.default is not empty:
            raise ValueError(
                f"{address}: option {name!r} needs an annotation, such as {name}: float = 0.1"
            )
        found[name] = (hint, argument.default)
    _check_defaults(found, address)
    return found, lambda given: given


def _default(field: dataclasses.Field, base: Any) -> Any:
    if dataclasses.is_dataclass(base):
        return getattr(base, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    missing = field.default is dataclasses.MISSING
    return inspect.Parameter.empty if missing else field.default


def _check_defaults(found: Options, address: str) -> None:
    for name, (_, default) in found.items():
        if default is inspect.Parameter.empty:
            hint = ""
            if name in ("dim", "d", "width", "features", "hidden_size"):
                hint = f"; or is it the width? {unknown('argument', name, ['d_model'])}"
            raise ValueError(f"{address}: option {name!r} needs a default{hint}")


def _what(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
