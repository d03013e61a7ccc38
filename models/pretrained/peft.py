"""Adapters in files, in the layout of the PEFT library: adapter_config.json beside safetensors.

Names are those of the published model's tensors, so its table of names is read here too. A tensor
that holds several projections has one A and one B there: ours, put together, are an equal pair of
a higher rank, which the config says by name (`rank_pattern`, `alpha_pattern`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array

from seqzoo.models.linear import Linear
from seqzoo.models.pretrained.adapters import (
    OWN,
    Adapted,
    Held,
    adapted,
    column_norms,
    hold,
    projections,
    put,
)
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.header import DTYPES, check_file, read_header, read_json
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import Bound, Slot, bind
from seqzoo.models.pretrained.slots import slots_of
from seqzoo.models.whole.sequence_model import SequenceModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, KERNEL = "base_model.model.", "/kernel"
LORA_A, LORA_B, DORA = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
# Fixed here, and what says nothing of the numbers.
FIXED = {"peft_type": "LORA", "bias": "none", "use_rslora": False, "lora_bias": False}
IGNORED = (
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "init_lora_weights",
    "lora_dropout", "task_type", "peft_version", "target_modules", "fan_in_fan_out",
    "megatron_core", "qalora_group_size",
)  # fmt: skip


class Change(NamedTuple):
    """What is added to a kernel [in, out], times alpha / rank."""

    a: Array  # [in, rank]
    b: Array  # [rank, out]
    magnitude: Array | None  # [out]


def save_adapter(model: SequenceModel, folder: epath.Path, translation: Translation) -> None:
    """Writes what the adapters of a model have learned.

    Raises ValueError where more than projections learned, or one has no tensors in such files.
    """
    params = ["/".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    if more := [p for p in params if not OWN.fullmatch(p)]:
        raise ValueError(
            f"{', '.join(more[:4])} learned too, and files of adapters have no place for it; merge "
            "the adapter and save the whole model"
        )
    own, bounds = adapted(model), _kernels(translation, model)
    covered = {_module(slot) for bound in bounds for slot in bound.slots}
    if left := sorted(own.keys() - covered):
        raise ValueError(f"adapters of {', '.join(left)} have no tensors in published files")
    dora = any(module.magnitude is not None for module in own.values())
    changes: dict[str, Change] = {}
    for bound in bounds:
        if any(_module(slot) in own for slot in bound.slots):
            changes |= _of_tensors(bound, projections(model) | own, dora)
    scale = next(iter(own.values())).scale
    config = _config(changes, scale, dora, any(map(_turned, bounds)))
    tensors = {f"{PREFIX}{n}.{p}": a for n, c in changes.items() for p, a in _as_saved(c)}
    if jax.process_index() == 0:
        from safetensors.numpy import save

        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        (folder / WEIGHTS).write_bytes(save(tensors, {"format": "pt"}))


def load_adapter(model: SequenceModel, folder: epath.Path, translation: Translation) -> None:
    """Puts the adapter in a folder on a model's projections and holds all else, in place.

    Raises ValueError for a config that is not handled, and tensors that do not fit the model.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise ValueError(f"{folder} is no adapter: it has no {name}")
        check_file(folder / name)
    where = str(folder / CONFIG)
    keys = Keys(read_json((folder / CONFIG).read_bytes(), folder / CONFIG), where)
    keys.fixed(**FIXED)
    keys.ignore(*IGNORED)
    rank, alpha, dora = keys.size("r"), keys.number("lora_alpha"), keys.flag("use_dora", False)
    ranks, alphas = (keys.raw(n, None) or {} for n in ("rank_pattern", "alpha_pattern"))
    keys.ignore(*(name for name, value in keys.config.items() if not value))  # not used
    keys.finish()
    tensors, scale = _read(folder / WEIGHTS), alpha / rank
    found: dict[str, list[tuple[tuple[int, ...], Change]]] = {}
    for bound in _kernels(translation, model):
        for n, tensor in enumerate(bound.tensors):
            name = tensor.removesuffix(".weight")
            part = [tensors.pop(f"{PREFIX}{name}.{p}", None) for p in (LORA_A, LORA_B, DORA)]
            if part[0] is None:
                continue
            own = _of(alphas, name, alpha) / _of(ranks, name, rank)
            for slot, change in _of_slots(bound, n, part, dora, str(folder / WEIGHTS)):
                change = change._replace(b=change.b * (own / scale))
                found.setdefault(_module(slot), []).append((slot.index, change))
    if tensors or not found:
        left = min(tensors, default="")
        raise ValueError(f"{folder / WEIGHTS}: no projection of the model takes {left!r}")
    there = projections(model)
    factors = {path: _joined(there[path].kernel.shape, parts) for path, parts in found.items()}
    put(model, factors, scale, dora=dora)
    for path, module in adapted(model).items():
        for index, change in found[path] if dora else ():
            value = module.magnitude[...].at[index].set(change.magnitude)
            module.magnitude.set_value(value)
    hold(model)


def _of(patterns: Mapping[str, Any], name: str, default: float) -> float:
    """What the first pattern says that fits the end of a name."""
    fits = (v for key, v in patterns.items() if re.fullmatch(rf"(?:.*\.)?(?:{key})", name))
    return float(next(fits, default))


def _kernels(translation: Translation, model: SequenceModel) -> list[Bound]:
    """The lines of the table whose parameters are kernels of projections alone."""
    ours = projections(model) | adapted(model)
    slots = slots_of(model, nnx.Any(nnx.Param, Held))
    slots = {name: slot for name, slot in slots.items() if not OWN.fullmatch(slot.path)}

    def is_kernel(slot: Slot) -> bool:
        return slot.path.endswith(KERNEL) and _module(slot) in ours and len(slot.shape) == 2

    return [b for b in bind(translation.rules, slots) if all(map(is_kernel, b.slots))]


def _module(slot: Slot) -> str:
    return slot.path.removesuffix(KERNEL)


def _turned(bound: Bound) -> bool:
    """Whether its tensors are [in, out] as our kernels are, not [out, in]."""
    rows = 1 + sum(n for slot in bound.slots for n in slot.shape)  # the size of nothing else
    forms = [jax.ShapeDtypeStruct((rows, slot.shape[1]), jnp.float32) for slot in bound.slots]
    return jax.eval_shape(bound.transform.save, forms)[0].shape[0] == rows


def _of_tensors(bound: Bound, ours: Mapping[str, Linear], dora: bool) -> dict[str, Change]:
    """The changes of a line's tensors, of all its projections' together."""

    def saved(rows: Sequence[Array]) -> list[Array]:
        made = bound.transform.save(rows)
        return made if _turned(bound) else [m.T for m in made]

    parts: list[list[Array]] = [[] for _ in bound.tensors]
    a = []
    for n, slot in enumerate(bound.slots):
        module = ours[_module(slot)]
        if isinstance(module, Adapted):
            a.append(module.lora_a[slot.index])
            rank = a[-1].shape[1]
            rows = [jnp.zeros((rank, s.shape[1]), a[-1].dtype) for s in bound.slots]
            rows[n] = module.lora_b[slot.index]
            for part, made in zip(parts, saved(rows), strict=True):
                part.append(made)
    magnitudes = [None] * len(bound.tensors)
    if dora:
        magnitudes = [m[0] for m in saved([_magnitude(s, ours)[None] for s in bound.slots])]
    whole = jnp.concatenate(a, axis=1)
    return {
        name.removesuffix(".weight"): Change(whole, jnp.concatenate(part), magnitude)
        for name, part, magnitude in zip(bound.tensors, parts, magnitudes, strict=True)
    }


def _magnitude(slot: Slot, ours: Mapping[str, Linear]) -> Array:
    """That of a projection; without an adapter, what DoRA begins with, which changes nothing."""
    module = ours[_module(slot)]
    if isinstance(module, Adapted):
        return module.magnitude[slot.index]
    return column_norms(module.kernel[slot.index])


def _as_saved(change: Change) -> Iterator[tuple[str, np.ndarray]]:
    yield LORA_A, np.asarray(change.a.T, order="C")
    yield LORA_B, np.asarray(change.b.T, order="C")
    if change.magnitude is not None:
        yield DORA, np.asarray(change.magnitude)


def _config(
    changes: Mapping[str, Change], scale: float, dora: bool, turned: bool
) -> dict[str, Any]:
    ranks = {name: change.a.shape[1] for name, change in changes.items()}
    rank = min(ranks.values())
    other = {name: r for name, r in ranks.items() if r != rank}
    return {
        **FIXED,
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "r": rank,
        "lora_alpha": rank * scale,
        "lora_dropout": 0.0,
        "rank_pattern": other,
        "alpha_pattern": {name: r * scale for name, r in other.items()},
        "use_dora": dora,
        "fan_in_fan_out": turned,
    }


def _of_slots(
    bound: Bound, n: int, part: Sequence[Array | None], dora: bool, where: str
) -> Iterator[tuple[Slot, Change]]:
    """What the n-th tensor's change is for each projection. Raises ValueError for odd shapes."""
    turned, expected = _turned(bound), bound.expected()
    outs = [shape[1] if turned else shape[0] for shape in expected]
    rows = expected[n][0] if turned else expected[n][1]
    name = bound.tensors[n]
    if part[1] is None or (part[2] is None) == dora:
        raise ValueError(f"{where}: {name} lacks a part of its adapter, or has one too many")
    rank = part[0].shape[0]
    shapes = [(rank, rows), (outs[n], rank), (outs[n],)]
    for array, shape in zip(part, shapes, strict=True):
        if array is not None and array.shape != shape:
            raise ValueError(
                f"{where}: the adapter of {name} has the shape {list(array.shape)}; the model asks "
                f"for {list(shape)}"
            )

    def loaded(own: Array) -> list[Array]:  # [rows, out] of this tensor
        every = [jnp.zeros((len(own), out), own.dtype) for out in outs]
        every[n] = own
        every = every if turned else [e.T for e in every]
        return bound.transform.load(every, [(len(own), s.shape[1]) for s in bound.slots])

    b = loaded(part[1].T)
    magnitude = loaded(part[2][None]) if dora else [None] * len(b)
    for slot, own, m in zip(bound.slots, b, magnitude, strict=True):
        yield slot, Change(part[0].T, own, None if m is None else m[0])


def _joined(
    shape: tuple[int, ...], parts: Sequence[tuple[tuple[int, ...], Change]]
) -> tuple[Array, Array]:
    """A and B of a projection with its layers in front, from those of each."""
    *lead, rows, columns = shape
    ends: dict[tuple[int, ...], int] = {}
    for index, change in parts:
        ends[index] = ends.get(index, 0) + change.a.shape[1]
    a = np.zeros((*lead, rows, max(ends.values())), np.float32)
    b = np.zeros((*lead, max(ends.values()), columns), np.float32)
    for index, change in reversed(parts):
        end, rank = ends[index], change.a.shape[1]
        a[(*index, slice(None), slice(end - rank, end))] = change.a
        b[(*index, slice(end - rank, end))] = change.b
        ends[index] = end - rank
    return jnp.asarray(a), jnp.asarray(b)


def _read(file: epath.Path) -> dict[str, Array]:
    from safetensors.numpy import load

    for name, tensor in read_header(file).items():
        if tensor.dtype not in DTYPES:
            raise ValueError(f"{file}: tensor {name!r} is of {tensor.dtype}")
    return {name: jnp.asarray(a, jnp.float32) for name, a in load(file.read_bytes()).items()}
