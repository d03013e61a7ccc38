"""What every mixer's constructor accepts, whatever its own options are.

LRU(16, rngs=jax.random.key(0))                         # a bare key serves all random streams
LRU(16, causal=False, bidirectional={"shared": True}, rngs=rngs)    # as with `build`
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from seqzoo.models.door import as_rngs

# What the stack says to all its layers alike: no options of one mixer.
WHOLE = ("int", "int | None", int, int | None)  # annotations of options that count
COMMON = ("self", "d_model", "rngs", "causal", "dtype", "param_dtype", "layer")


@functools.cache
def parameters_of(module: type) -> Mapping[str, inspect.Parameter]:
    """The parameters of a constructor by name, `self` included."""
    return inspect.signature(module.__init__).parameters


class Construction(type(nnx.Module)):
    """The class of mixer classes: reads `d_model`, `rngs`, `causal` and `bidirectional` once."""

    both_ways: Callable[..., Any]  # how causal=False is wrapped: `Bidirectional` says
    option_help: Mapping[str, str] = {}  # what flags say of options
    former_options: tuple[str, ...] = ()  # names that options once had

    def current_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options, of former names and forms too, as they are written today in plain data."""
        return dict(options)

    def __call__(cls, *args, causal: bool | None = None, bidirectional=None, **options):
        """A mixer; looking both ways, where that is no nature of it, as `Bidirectional`."""
        takes, options = parameters_of(cls), cls.current_options(options)
        if "d_model" in takes:
            _check_width(cls.__name__, _given(takes, "d_model", args, options))
        if "rngs" in takes and "rngs" in options:
            options["rngs"] = _streams(options["rngs"], cls.__name__)
        kinds = {name: given.annotation for name, given in takes.items()}
        _check_numbers(cls.__name__, kinds, options)
        if causal and not cls.causal_form:
            raise ValueError(
                f"{cls.__name__} mixes whole rows: it has no causal form, so it cannot stream or "
                "predict what comes next; set causal=False"
            )
        if causal is not None and "causal" in takes:
            options["causal"] = causal
        elif causal is False and not cls.looks_both_ways:
            return Construction.both_ways(cls, args, options, dict(bidirectional or {}))
        made = super().__call__(*args, **options)
        for name in ("d_model", "dtype"):
            if name in takes and name not in vars(made):
                setattr(made, name, _given(takes, name, args, options))
        return made


def _given(takes: Mapping[str, inspect.Parameter], name: str, args: tuple, options: dict) -> Any:
    """An argument's value, or its default."""
    place = list(takes).index(name) - 1  # without self
    return args[place] if place < len(args) else options.get(name, takes[name].default)


def _check_width(who: str, d_model: Any) -> None:
    if d_model is not inspect.Parameter.empty and (not isinstance(d_model, int) or d_model < 1):
        raise ValueError(f"{who}: d_model must be a positive integer; got {d_model!r}")


def _check_numbers(who: str, takes: Mapping[str, Any], options: dict[str, Any]) -> None:
    """What no mixer can mean, whatever the option is."""
    for name, value in options.items():
        if isinstance(value, float) and takes.get(name) in WHOLE:
            raise ValueError(f"{who}: {name} is a whole number; got {value}")
        if name == "max_length" and value is not None and value < 1:
            raise ValueError(f"{who}: max_length counts tokens and is at least 1; got {value}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{who}: {name} must be a finite number; got {value}")
        if name.endswith("eps") and isinstance(value, int | float) and value < 0:
            raise ValueError(f"{who}: {name} keeps a divisor from 0 and is at least 0; got {value}")


def _streams(rngs: Any, who: str) -> nnx.Rngs:
    made = as_rngs(rngs, who)
    if made is None or not ({"params", "default"} & set(made)):
        have = "None" if made is None else ", ".join(made) or "none"
        raise ValueError(
            f"{who}: parameters are drawn from the random stream 'params'; rngs has: {have}. "
            "Write rngs=nnx.Rngs(0), or a key"
        )
    return made
