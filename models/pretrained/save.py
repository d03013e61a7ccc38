"""`save_pretrained`: a model back into a folder of config.json and safetensors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.experimental import multihost_utils

from seqzoo.models.pretrained.adapters import is_adapted, merged
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.folder import CONFIG, INDEX, SINGLE
from seqzoo.models.pretrained.load import abstract, translate
from seqzoo.models.pretrained.peft import save_adapter
from seqzoo.models.pretrained.rules import COPIED, Bound, Transform, bind
from seqzoo.models.pretrained.slots import slots_of
from seqzoo.models.whole.sequence_model import SequenceModel

METADATA = {"format": "pt"}  # which the transformers library asks for


def save_pretrained(
    model: SequenceModel,
    folder: str | epath.Path,
    *,
    config: Mapping[str, Any] | None = None,
    max_shard_bytes: int = 5 * 2**30,
    merge: bool = False,
) -> None:
    """Writes config.json and the weights under their published names, for any reader of those.

    What `from_pretrained` read comes out bitwise, under the names of the table. Of a model with an
    adapter, that alone is written (see `peft`), unless `merge` asks for the whole. Several
    processes call this together; one writes.

    Args:
        model: one that `from_pretrained` made, or one like it with `config`.
        folder: a new or empty folder.
        config: the published form of the model's configuration; by default what it came with.
        max_shard_bytes: largest file; beyond it there are several and an index.
        merge: writes the whole model, what an adapter has learned put into its weights.

    Raises:
        ValueError: the folder holds something, the model has no published form, or the config
            describes another model.
    """
    if config is None and model.published is None:
        raise ValueError("the model did not come from published weights; give config=")
    config = json.loads(model.published) if config is None else dict(config)
    path = epath.Path(folder).expanduser()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty; give a new folder")
    translation = translate(config)
    if is_adapted(model) and not merge:
        return save_adapter(model, path, translation)
    model = merged(model)
    _check_describes(translation, model)
    bounds = bind(translation.rules, slots_of(model))
    params = {
        "/".join(map(str, path)): leaf.get_value()
        for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))
    }
    kept = {} if model.kept is None else {n: v.get_value() for n, v in model.kept.items()}
    more = {n: make() for n, make in translation.derived.items() if n not in kept}
    more |= dict(zip(kept, _whole(list(kept.values())), strict=True))
    shards = list(_shards(bounds, params, more, max_shard_bytes))
    if jax.process_index() == 0:
        path.mkdir(parents=True, exist_ok=True)
    where: dict[str, str] = {}
    saver = functools.cache(_saver)
    for i, shard in enumerate(shards):
        name = SINGLE if len(shards) == 1 else f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        arrays = {n: a for bound in shard for n, a in _tensors(bound, params, saver).items()}
        if i == 0:
            arrays |= more
        where |= dict.fromkeys(arrays, name)
        if jax.process_index() == 0:
            _write(path / name, arrays)
    if jax.process_index() == 0:
        if len(shards) > 1:
            size = {"total_size": int(sum(p.nbytes for p in params.values()))}
            index = {"metadata": size, "weight_map": dict(sorted(where.items()))}
            (path / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        (path / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _check_describes(translation: Translation, model: SequenceModel) -> None:
    """Raises ValueError where the config's parameters are not the model's."""
    theirs, ours = (slots_of(m) for m in (abstract(translation), model))
    for name in sorted(theirs.keys() | ours.keys()):
        want, have = theirs.get(name), ours.get(name)
        if want is None or have is None or want.shape != have.shape:
            shapes = [None if slot is None else list(slot.shape) for slot in (want, have)]
            raise ValueError(
                f"the config describes another model: {name} has the shape {shapes[0]} there and "
                f"{shapes[1]} in the model"
            )


def _shards(
    bounds: list[Bound],
    params: Mapping[str, jax.Array],
    more: Mapping[str, np.ndarray],
    most: int,
) -> Iterator[list[Bound]]:
    shard: list[Bound] = []
    total = sum(a.nbytes for a in more.values())
    for bound in bounds:
        size = sum(
            int(np.prod(slot.shape)) * params[slot.path].dtype.itemsize for slot in bound.slots
        )
        if shard and total + size > most:
            yield shard
            shard, total = [], 0
        shard.append(bound)
        total += size
    yield shard


def _tensors(
    bound: Bound, params: Mapping[str, jax.Array], saver: Callable
) -> dict[str, np.ndarray]:
    """The tensors of one line, whole on this host."""
    index = [np.asarray(slot.index, np.int32) for slot in bound.slots]
    own = [params[slot.path] for slot in bound.slots]
    if bound.transform is COPIED:
        _check_alike(bound, [array[tuple(i)] for array, i in zip(own, index, strict=True)])
    made = saver(bound.transform)(own, index)
    return dict(zip(bound.tensors, _whole(made), strict=True))


def _check_alike(bound: Bound, own: list[jax.Array]) -> None:
    """Raises ValueError where what published files have once has become several things."""
    if not all(bool(jnp.array_equal(own[0], array)) for array in own[1:]):
        raise ValueError(
            f"published files have one {bound.tensors[0]!r} for all layers, and training has made "
            f"them differ: {', '.join(dict.fromkeys(slot.path for slot in bound.slots))}. Hold it "
            "(--optim.trained, or --adapter) to write such files"
        )


def _whole(arrays: list[jax.Array]) -> list[np.ndarray]:
    if jax.process_count() > 1:
        arrays = multihost_utils.process_allgather(arrays, tiled=True)
    return [np.asarray(a, order="C") for a in arrays]


def _saver(transform: Transform) -> Callable:
    def save(params: list, index: list):
        return transform.save([p[tuple(i)] for p, i in zip(params, index, strict=True)])

    return jax.jit(save)


def _write(file: epath.Path, arrays: dict[str, np.ndarray]) -> None:
    """Under another name first, so that a file is whole or absent."""
    from safetensors import numpy as safetensors

    part = file.with_name(f".{file.name}.part")
    if "://" in str(file):
        part.write_bytes(safetensors.save(arrays, METADATA))
    else:
        safetensors.save_file(arrays, str(part), METADATA)
    part.replace(file)
