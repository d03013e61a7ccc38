"""`from_pretrained`: a folder of published weights as a model."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from seqzoo.models.config import config_of
from seqzoo.models.pretrained.families import FAMILIES
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.fill import fill, read_whole
from seqzoo.models.pretrained.folder import CONFIG, open_checkpoint
from seqzoo.models.pretrained.header import DTYPES, Tensor
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.peft import load_adapter
from seqzoo.models.pretrained.rules import SAME, Bound, Slot, bind
from seqzoo.models.pretrained.slots import slots_of
from seqzoo.models.registry import mixer, pattern_options
from seqzoo.models.whole.encoder_decoder import EncoderDecoder
from seqzoo.models.whole.sequence_model import SequenceModel

FLOATS = ("float32", "bfloat16", "float16", "float64")


def from_pretrained(
    folder: str | epath.Path,
    *,
    mesh: Mesh | None = None,
    dtype: DTypeLike | None = None,
    param_dtype: DTypeLike | None = None,
    max_length: int | None = None,
    adapter: str | epath.Path | None = None,
    scan: bool = True,
    **options: Any,
) -> SequenceModel | EncoderDecoder:
    """The language model in a folder of config.json and safetensors; see docs/pretrained.md.

    T5 is an `EncoderDecoder`, all others are a `SequenceModel`.

    Every tensor is read once, by the processes that hold a part of it, into arrays that are divided
    by the rules of models/partition.py. The model is returned whole or not at all.

    Args:
        folder: a folder, or OWNER/NAME of the hub where `huggingface_hub` is installed.
        mesh: over which parameters are divided; None for one device.
        dtype: of matrix products; by default that of the config, or float32.
        param_dtype: of all parameters; by default each has its tensor's.
        max_length: most tokens of a segment, which sizes the state of attention; by default what
            the config says.
        adapter: a folder of adapter_config.json and safetensors, put on the model's projections.
        scan: keeps equal layers in one array, compiled once for all of them. Without it programs
            of deep models take longer to compile; decoding on a CPU is two to three times as fast,
            which otherwise copies the weights of each layer before it uses them.
        options: of the mixers that have them, on top of what the config says: cache_dtype,
            chunk_size, Longformer's global_positions.

    Raises:
        ValueError: anything about the folder that is not as it must be, by name: a file, a tensor
            that no parameter takes, a parameter that no tensor fills, a shape, a key of the config
            that is not read, an architecture or option that is not handled.
    """
    checkpoint = open_checkpoint(folder)
    where = str(checkpoint.path / CONFIG)
    translation = translate(checkpoint.config, where)
    if translation.backbone.depth > len(checkpoint.tensors):
        raise ValueError(
            f"{where} says {translation.backbone.depth} layers, and there are "
            f"{len(checkpoint.tensors)} tensors"
        )
    translation = _with(translation, checkpoint.config, dtype, max_length, scan, options)
    try:
        model = abstract(translation)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    tensors = _ours(checkpoint.tensors, translation)
    bounds = match(translation, slots_of(model), tensors)
    kept = _check_rest(translation, tensors, bounds, str(checkpoint.path))
    dtypes = _dtypes(bounds, tensors, param_dtype) | _dtypes(kept, tensors, None)
    graphdef, params, _ = nnx.split(model, nnx.Param, ...)
    shapes = {_path(path): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(params)}
    shapes |= {slot.path: slot.shape for bound in kept for slot in bound.slots}
    arrays = fill([*bounds, *kept], tensors, shapes, dtypes, mesh)
    for path, leaf in nnx.to_flat_state(params):
        leaf.set_value(arrays[_path(path)])
    model = nnx.merge(graphdef, params, _rest(translation, mesh))
    model.published = json.dumps(checkpoint.config)  # what `save_pretrained` writes again
    if adapter is not None:
        load_adapter(model, epath.Path(adapter).expanduser(), translation)
    if kept:
        model.kept = nnx.Dict({b.tensors[0]: Kept(arrays[b.slots[0].path]) for b in kept})
    return model


class Kept(nnx.Variable):
    """A tensor of published weights that the model does not need, for `save_pretrained` alone."""


def translate(config: Mapping[str, Any], where: str = CONFIG) -> Translation:
    """A config in our terms. Raises ValueError for what is not handled."""
    keys = Keys(config, where)
    kind = keys.raw("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        near = difflib.get_close_matches(str(kind), FAMILIES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"{where}: model_type {kind!r} is not handled{hint} (known: {', '.join(FAMILIES)})"
        )
    architectures, family = FAMILIES[kind]
    said = keys.raw("architectures", None) or [architectures[0]]
    if not isinstance(said, list) or len(said) != 1 or said[0] not in architectures:
        raise ValueError(
            f"{where}: architectures {said!r} are not handled (known for {kind}: "
            f"{', '.join(architectures)})"
        )
    keys.fixed(pruned_heads={}, add_cross_attention=False, tie_encoder_decoder=False)
    keys.fixed(cross_attention_hidden_size=None)
    try:
        translation = family(keys)
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None
    if "is_encoder_decoder" not in keys.read:
        keys.fixed(is_encoder_decoder=False)
    keys.finish()
    return translation


def match(
    translation: Translation, slots: Mapping[str, Slot], tensors: Mapping[str, Tensor]
) -> list[Bound]:
    """The lines of the table for this model, their tensors found and of the right shapes.

    Raises ValueError for one that is missing or has another shape.
    """
    bounds = bind(translation.rules, slots, tensors.__contains__)
    for bound in bounds:
        filled = ", ".join(slot.path for slot in bound.slots)
        for name, shape in zip(bound.tensors, bound.expected(), strict=True):
            if name not in tensors:
                raise ValueError(f"the checkpoint has no tensor {name!r}, which fills {filled}")
            tensor = tensors[name]
            if tensor.shape != shape:
                raise ValueError(
                    f"{tensor.file}: tensor {name!r} has the shape {list(tensor.shape)}; the "
                    f"config asks for {list(shape)}, to fill {filled}"
                )
            if tensor.dtype not in DTYPES:
                raise ValueError(
                    f"{tensor.file}: tensor {name!r} is of {tensor.dtype}, no floating-point "
                    f"numbers; it should fill {filled}"
                )
    return bounds


def _ours(tensors: Mapping[str, Tensor], translation: Translation) -> dict[str, Tensor]:
    """Tensors under the names of the table."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new = name
        for pattern, by in translation.renamed:
            new = re.sub(pattern, by, new)
        if new in found:
            raise ValueError(f"two tensors stand for {new!r}, one of them {name!r}")
        found[new] = tensor
    return found


def _check_rest(
    translation: Translation, tensors: Mapping[str, Tensor], bounds: Sequence[Bound], where: str
) -> list[Bound]:
    """Every tensor has a meaning, and copies and derived tensors say what they must.

    Gives what to keep of tensors without a parameter.
    """
    read = {name for bound in bounds for name in bound.tensors}
    kept = []
    for name, tensor in tensors.items():
        if name in read:
            continue
        if any(re.fullmatch(p, name) for p in translation.unused):
            kept.append(name)
        elif name in translation.tied:
            first = translation.tied[name]
            if first not in tensors:
                raise ValueError(f"{where}: tensor {name!r} is a copy of {first!r}, not there")
            if not _equal(tensor, tensors[first]):
                raise ValueError(
                    f"{where}: the config ties {name!r} to {first!r}, and their numbers differ"
                )
        elif name in translation.derived:
            _check_derived(name, tensor, translation.derived[name]())
            kept.append(name)
        else:
            raise ValueError(f"{where}: no parameter takes the tensor {name!r}")
    return [
        Bound((name,), (Slot(f"kept/{name}", (), tensors[name].shape),), SAME)
        for name in kept
        if tensors[name].dtype in DTYPES  # not indices and masks
    ]


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(jnp.array_equal(read_whole(a), read_whole(b), equal_nan=True))


def _check_derived(name: str, tensor: Tensor, expected: np.ndarray) -> None:
    if tensor.shape != expected.shape or tensor.dtype not in DTYPES:
        raise ValueError(
            f"{tensor.file}: tensor {name!r} of {tensor.dtype} has the shape "
            f"{list(tensor.shape)}; the config asks for {list(expected.shape)}"
        )
    found = np.asarray(read_whole(tensor)).astype(np.float32)
    exact = 2e-2 if DTYPES[tensor.dtype].itemsize == 2 else 1e-5
    if not np.allclose(found, expected, rtol=exact, atol=exact):
        raise ValueError(
            f"{tensor.file}: tensor {name!r} follows from the config, and has other numbers"
        )


def _with(
    translation: Translation,
    config: Mapping[str, Any],
    dtype: DTypeLike | None,
    max_length: int | None,
    scan: bool,
    options: Mapping[str, Any],
) -> Translation:
    said = config.get("dtype", config.get("torch_dtype")) or "float32"
    name = str(said if dtype is None else jnp.dtype(dtype))
    if name not in FLOATS:
        raise ValueError(f"dtype must be one of {', '.join(FLOATS)}; got {name}")
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1; got {max_length}")
    backbone = dataclasses.replace(translation.backbone, dtype=name, scan=scan)
    decoder = translation.decoder
    if decoder is not None:
        decoder = dataclasses.replace(decoder, dtype=name, scan=scan)
    length = translation.length
    if max_length is not None and backbone.positions != "learned":  # whose table is as it is
        length = min(length, max_length)
    pattern = translation.pattern
    each = dict(zip(pattern, pattern_options(pattern, translation.options), strict=True))
    asked = dict(zip(pattern, pattern_options(pattern, options), strict=True))
    merged = {name: {**own, **asked[name]} for name, own in each.items()}
    if max_length is not None:
        for name, own in merged.items():
            if hasattr(config_of(mixer(name)), "max_length"):
                own.setdefault("max_length", length)
    made = {"backbone": backbone, "decoder": decoder, "length": length, "options": merged}
    return dataclasses.replace(translation, **made)


def abstract(translation: Translation) -> SequenceModel | EncoderDecoder:
    """The model of a config, with shapes in place of arrays."""
    return nnx.eval_shape(lambda: _made(translation))


def _made(translation: Translation) -> SequenceModel | EncoderDecoder:
    parts = translation.pattern, translation.backbone, translation.options
    if translation.decoder is not None:
        how = {"decoder": translation.decoder, **translation.writing}
        return EncoderDecoder(translation.spec(), *parts, **how, rngs=nnx.Rngs(0))
    return SequenceModel(translation.spec(), *parts, rngs=nnx.Rngs(0))


def _dtypes(
    bounds: Sequence[Bound], tensors: Mapping[str, Tensor], param_dtype: DTypeLike | None
) -> dict[str, Any]:
    """That of each parameter: wide enough for all tensors that come together in it."""
    found: dict[str, Any] = {}
    for bound in bounds:
        for slot in bound.slots:
            for name in bound.tensors:
                own = DTYPES[tensors[name].dtype]
                found[slot.path] = jnp.promote_types(found.get(slot.path, own), own)
    if param_dtype is not None:
        return dict.fromkeys(found, jnp.dtype(param_dtype))
    wide = [path for path, dtype in found.items() if dtype == np.float64]
    if wide and not jax.config.jax_enable_x64:
        raise ValueError(
            f"{wide[0]} and {len(wide) - 1} more parameters are float64 in the files; set "
            "jax_enable_x64, or param_dtype=float32"
        )
    return found


def _rest(translation: Translation, mesh: Mesh | None) -> nnx.State:
    """What is no parameter, as a new model has it."""
    where = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def make() -> nnx.State:
        return nnx.state(_made(translation), nnx.Not(nnx.Param))

    return jax.jit(make, out_shardings=where)()


def _path(path: tuple) -> str:
    return "/".join(map(str, path))
