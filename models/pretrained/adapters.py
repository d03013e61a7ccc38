"""Small trained changes of the projections of a model whose own weights stay as they are.

    LoRA   y = x W + s x A B + bias,   s = alpha / rank          (Hu et al. 2021, arXiv:2106.09685)
    DoRA   y = m / |W + s A B| x (W + s A B) + bias              (Liu et al. 2024, arXiv:2402.09353)

A [in, rank] is random and B [rank, out] zero at first, m is |W|, the norm of each output's column:
nothing changes until something is learned. DoRA's norm passes no gradient, as in its section 4.3.
The weights of an adapted model are of the type `Held`, which no optimiser sees.

    adapt(model, "lora:rank=8,alpha=16,on=(q|v)_proj", rngs=rngs)  # in place
    merge_adapters(model)  # into plain weights again
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from jaxtyping import Array, Float

from seqzoo.models.config import parsed, typed
from seqzoo.models.linear import Linear
from seqzoo.models.mixer import Constant
from seqzoo.models.ops.layout.cpu import with_rows_joined
from seqzoo.models.param_groups import retype
from seqzoo.models.partition import partition

A, B, MAGNITUDE = "lora_a", "lora_b", "magnitude"
OWN = re.compile(rf"(.*/)?({A}|{B}|{MAGNITUDE})")  # paths of what is learned


class Held(Constant):
    """A weight that stays as it is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """What is learned of a model. Its text is KIND:name=value,name=value."""

    kind: Literal["lora", "dora"] = "lora"
    rank: int = 8
    alpha: float = 16.0  # the change is multiplied by alpha / rank
    on: str = r"backbone/.*_proj$"  # which projections: an expression found in their paths
    whole: str = ""  # parameters that learn as they are: an expression found in their paths

    def __post_init__(self) -> None:
        """Raises ValueError for a rank, factor or expression that cannot be."""
        if self.kind not in ("lora", "dora"):
            raise ValueError(f"unknown adapter {self.kind!r} (known: lora, dora)")
        if self.rank < 1 or not 0 < self.alpha < float("inf"):
            raise ValueError(
                f"an adapter's rank is at least 1 and its alpha positive; got {self.rank=}, "
                f"{self.alpha=}"
            )
        for name in ("on", "whole"):
            try:
                re.compile(getattr(self, name))
            except re.error as error:
                raise ValueError(
                    f"adapter: {name} is no regular expression: {getattr(self, name)!r}: {error}"
                ) from None

    def __str__(self) -> str:
        own = [f for f in dataclasses.fields(self) if f.name != "kind"]
        said = [f"{f.name}={getattr(self, f.name)}" for f in own if getattr(self, f.name)]
        return f"{self.kind}:{','.join(said)}"


def adapter_of(given: str | Adapter) -> Adapter:
    """The value that a text stands for. Raises ValueError for what is none."""
    if isinstance(given, Adapter):
        return given
    kind, options = parsed("adapter", given)
    return Adapter(**{"kind": kind, **typed("adapter", Adapter, options)})


class Adapted(Linear):
    """A projection with a change of low rank, which alone is learned."""

    def __init__(self, linear: Linear, a: Array, b: Array, scale: float, dora: bool):
        """Takes over the weights of `linear`; a and b may have layers in front, as these have."""
        self._take(linear)
        self.scale = scale
        self.lora_a, self.lora_b = nnx.Param(a), nnx.Param(b)
        own = column_norms(linear.kernel[...]).astype(a.dtype) if dora else None
        self.magnitude = nnx.data(None if own is None else nnx.Param(own, group="no_decay"))

    def _take(self, linear: Linear) -> None:
        for name, value in vars(linear).items():
            if not name.startswith("_"):
                setattr(self, name, value)

    def matrix(self) -> Float[Array, "... D F"]:
        """The kernel with the change in it."""
        kernel = self.kernel[...]
        wide = jnp.promote_types(kernel.dtype, jnp.float32)
        a, b, kernel = (v.astype(wide) for v in (self.lora_a[...], self.lora_b[...], kernel))
        made = kernel + self.scale * (a @ b)
        if self.magnitude is not None:
            made = made * (self.magnitude[...].astype(wide) / column_norms(made))[..., None, :]
        return made.astype(self.kernel[...].dtype)

    def __call__(self, inputs: Float[Array, "... D"]) -> Float[Array, "... F"]:
        """[..., D] to [..., F]."""
        return with_rows_joined(self._changed, inputs)

    def _changed(self, x: Array) -> Array:
        y = nnx.Linear.__call__(self, x)
        a, b = self.lora_a[...].astype(y.dtype), self.lora_b[...].astype(y.dtype)
        more = self.scale * ((x.astype(y.dtype) @ a) @ b)
        if self.magnitude is None:
            return y + more
        gain = self._gain().astype(y.dtype)
        plain = y if self.bias is None else y - self.bias[...].astype(y.dtype)
        return y + (gain - 1) * plain + gain * more

    def _gain(self) -> Float[Array, "F"]:
        wide = jnp.promote_types(self.kernel[...].dtype, jnp.float32)
        a, b, kernel = (p[...].astype(wide) for p in (self.lora_a, self.lora_b, self.kernel))
        norm = column_norms(kernel + self.scale * (a @ b))
        return self.magnitude[...].astype(wide) / jax.lax.stop_gradient(norm)


def column_norms(kernel: Float[Array, "... D F"]) -> Float[Array, "... F"]:
    """The norm of each output's column."""
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    return jnp.linalg.norm(wide, axis=-2)


def adapt(model: nnx.Module, adapter: str | Adapter, *, rngs: nnx.Rngs) -> None:
    """Puts an adapter on a model's projections and holds all else, in place.

    Raises ValueError where the adapter's expressions are found nowhere, or the model has one.
    """
    adapter = adapter_of(adapter)
    if is_adapted(model):
        raise ValueError("the model has an adapter already; merge that first")
    there = projections(model)
    chosen = [path for path in there if re.search(adapter.on, path)]
    if not chosen:
        raise ValueError(
            f"adapter: on={adapter.on!r} is found in no projection's path; there are "
            f"{', '.join(sorted(there)[:8])}{' ...' if len(there) > 8 else ''}"
        )

    def factors(path: str) -> tuple[Array, Array]:
        *lead, rows, columns = there[path].kernel.shape
        dtype = there[path].param_dtype
        draw = jax.random.uniform(rngs.params(), (*lead, rows, adapter.rank), dtype, -1.0, 1.0)
        return draw * rows**-0.5, jnp.zeros((*lead, adapter.rank, columns), dtype)

    scale = adapter.alpha / adapter.rank
    put(model, {path: factors(path) for path in chosen}, scale, dora=adapter.kind == "dora")
    hold(model, adapter.whole)


def put(
    model: nnx.Module, factors: Mapping[str, tuple[Array, Array]], scale: float, *, dora: bool
) -> None:
    """Replaces projections, by path, by adapted ones with these A and B."""
    there = projections(model)
    for path, factor in factors.items():
        kernel = there[path].kernel[...]
        made = Adapted(there[path], *factor, scale, dora)
        for name in (A, B, MAGNITUDE):
            if (own := getattr(made, name)) is not None:
                own.set_value(_beside(kernel, f"{path}/{name}", own[...]))
        _replace(model, path, made)


def _beside(kernel: Array, path: str, value: Array) -> Array:
    """The value divided over the devices that a kernel lies on, where it lies somewhere."""
    where = None if isinstance(kernel, jax.core.Tracer) else getattr(kernel, "sharding", None)
    if not isinstance(where, NamedSharding):
        return value
    spec = partition(path, value.shape, where.mesh)[0]
    return jax.device_put(value, NamedSharding(where.mesh, spec))


def hold(model: nnx.Module, whole: str = "") -> None:
    """Makes `Held` of all parameters but adapters and those in whose path `whole` is found."""

    def kept(path: str) -> bool:
        return bool(OWN.fullmatch(path)) or bool(whole and re.search(whole, path))

    retype(model, nnx.Param, Held, lambda path: not kept(path))


def is_adapted(model: nnx.Module) -> bool:
    """Whether some projection has an adapter."""
    return any(isinstance(m, Adapted) for _, m in nnx.iter_modules(model))


def adapted(model: nnx.Module) -> dict[str, Adapted]:
    """The projections that have adapters, by path."""
    return {_name(path): m for path, m in nnx.iter_modules(model) if isinstance(m, Adapted)}


def projections(model: nnx.Module) -> dict[str, Linear]:
    """The projections that can have one, by path; those with gains of heads cannot."""
    return {_name(path): m for path, m in nnx.iter_modules(model) if type(m) is Linear}


def merge_adapters(model: nnx.Module) -> None:
    """Puts what adapters of `model` have learned into its weights, parameters again, in place."""
    for path, module in adapted(model).items():
        plain = Linear(1, 1, rngs=nnx.Rngs(0))
        for name, value in vars(module).items():
            if name not in (A, B, MAGNITUDE, "scale") and not name.startswith("_"):
                setattr(plain, name, value)
        plain.kernel = Held(module.matrix(), **module.kernel.get_metadata())
        _replace(model, path, plain)
    retype(model, Held, nnx.Param, lambda path: True)


def merged(model: nnx.Module) -> nnx.Module:
    """The model with its adapters merged: a copy, which shares what they leave alone."""
    if not is_adapted(model):
        return model
    copy = nnx.merge(*nnx.split(model))
    merge_adapters(copy)
    return copy


def magnitudes(kernels: Callable[[str], Array], paths: Iterable[str]) -> dict[str, Array]:
    """DoRA's first magnitudes of new kernels, by path, for those of `paths` that are one."""
    end = f"/{MAGNITUDE}"
    return {
        path: column_norms(kernels(path.removesuffix(end) + "/kernel"))
        for path in paths
        if path.endswith(end)
    }


def _replace(model: nnx.Module, path: str, new: Linear) -> None:
    *parents, last = path.split("/")
    for name in parents:
        model = model[int(name)] if isinstance(model, nnx.List) else getattr(model, name)
    if isinstance(model, nnx.List):
        model[int(last)] = new
    else:
        setattr(model, last, new)


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
