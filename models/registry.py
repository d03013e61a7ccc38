"""Mixers and presets by name or address: what there is, and how it is built.

A name is one of ours, one that an installed package brings (entry points `seqzoo.mixers`), or an
address, `package.module:Name` or `path/to/file.py:Name`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from seqzoo.models.config import MixerConfig, config_of
from seqzoo.models.errors import unknown
from seqzoo.models.foreign import address
from seqzoo.models.foreign.plain import as_mixer
from seqzoo.models.mixer import Mixer
from seqzoo.models.mixers import MIXERS
from seqzoo.models.presets import PRESETS, Preset


def names() -> tuple[str, ...]:
    """The names of all mixers."""
    return tuple(MIXERS)


def presets() -> tuple[str, ...]:
    """The names of all presets."""
    return tuple(PRESETS)


def foreign(name: str) -> str | None:
    """The address that a mixer's name stands for, None where it is one of ours or none at all."""
    if name in MIXERS:
        return None
    return name if address.is_address(name) else address.entry_points(address.MIXER_GROUP).get(name)


def mixer(name: str) -> type[Mixer]:
    """The class of a mixer. Raises ValueError for a name that does not exist."""
    if name in MIXERS:
        return MIXERS[name]
    where = foreign(name)
    if where is None:
        _refuse("mixer", name, MIXERS)
    made = as_mixer(address.load(where, name), name)
    try:
        config_of(made)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    return made


def _refuse(kind: str, name: str, valid: Iterable[str]) -> NoReturn:
    outside = address.entry_points(address.MIXER_GROUP)
    error, where = unknown(kind, name, (*valid, *outside)), name.rpartition(".")[0]
    if name.endswith(".py"):
        raise ValueError(f"{name} is a file; say which class of it, as in {name}:EMA")
    if where and where.replace(".", "").isidentifier():
        raise ValueError(f"{error}; a class is named by {where}:{name.rpartition('.')[2]}")
    raise error


def mixer_config(name: str, options: Mapping[str, Any] | None = None) -> MixerConfig:
    """The options of the mixer `name`, checked. Raises ValueError for what does not exist."""
    config = config_of(mixer(name))
    fields = [f.name for f in dataclasses.fields(config)]
    options = config.current_options(options or {})
    for option in options:
        if option not in fields:
            raise unknown(f"option of {name}", option, fields)
    return config(**options)


def build(
    name: str,
    d_model: int,
    *,
    rngs: nnx.Rngs,
    causal: bool | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    bidirectional: Mapping[str, Any] | None = None,
    layer: Any = None,
    **options: Any,
) -> Mixer:
    """The mixer `name` of width `d_model`.

    It is causal by default, unless it has no such form (`Mixer.causal_form`). With `causal=False`
    it looks both ways: natively where the mathematics has it, else as a forward and a backward
    copy; `bidirectional` then holds options of `Bidirectional`, and `shared=True`
    for one set of weights. `layer` = (index, depth) is for architectures that depend on it. Raises
    ValueError for a name, an option or a width that cannot be.
    """
    config = mixer_config(name, options)
    more = {"layer": layer} if mixer(name).depends_on_layer else {}
    more |= {"dtype": dtype, "param_dtype": param_dtype}
    return config.build(d_model, causal=causal, bidirectional=bidirectional, **more, rngs=rngs)


def resolve(model: str) -> Preset:
    """What `--model` means: a preset, a mixer, or a comma-separated pattern of mixers.

    Raises ValueError for a name that is neither.
    """
    if model in PRESETS:
        return PRESETS[model]
    pattern = tuple(part.strip() for part in model.split(","))
    for name in pattern:
        if name not in MIXERS and foreign(name) is None:
            _refuse("model", name, (*MIXERS, *PRESETS))
        mixer(name)
    return Preset(pattern, {}, {}, "")


def pattern_options(
    pattern: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """The options of each mixer of a pattern.

    A value that is a mapping belongs to the mixer of that name (of an address, the part after the
    colon will do); any other goes to every mixer of
    the pattern that has the option. Raises ValueError for an option that no mixer has.
    """
    fields = {n: [f.name for f in dataclasses.fields(config_of(mixer(n)))] for n in pattern}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in pattern}
    for option, value in options.items():
        named = isinstance(value, Mapping) and any(option in (n, address.short(n)) for n in chosen)
        if named:
            continue
        takers = [n for n in chosen if option in (*fields[n], *mixer(n).former_options)]
        if not takers:
            raise unknown(
                f"option of {', '.join(chosen)}", option, {f for n in fields.values() for f in n}
            )
        for name in takers:
            chosen[name][option] = value
    for name in chosen:
        own = options.get(name, options.get(address.short(name)))
        if isinstance(own, Mapping):
            chosen[name].update(own)
        chosen[name] = mixer(name).current_options(chosen[name])
        mixer_config(name, chosen[name])
    return tuple(chosen[name] for name in pattern)


def current_options(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A model's options as they are written today, of a configuration that may be older.

    Knows our own mixers alone, and so loads no code.
    """
    names = PRESETS[model].pattern if model in PRESETS else map(str.strip, model.split(","))
    kinds, now = set(names), dict(options)
    for name in kinds & MIXERS.keys():
        if isinstance(now.get(name), Mapping):
            now[name] = MIXERS[name].current_options(now[name])
        if len(kinds) == 1:
            now = MIXERS[name].current_options(now)
    return now


def with_room(pattern: tuple[str, ...], options: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The options of each mixer of a pattern, with a `max_length` of at least `length`."""
    each = dict(zip(pattern, pattern_options(pattern, options), strict=True))
    for name, own in each.items():
        config = config_of(mixer(name))(**own)
        if getattr(config, "max_length", length) < length:
            each[name] = {**own, **mixer(name).longer(config.options(), length)}
    return each
