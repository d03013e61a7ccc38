"""A folder in the layout of Hugging Face: config.json beside safetensors, one file or several.

What is wrong with it is found here, before anything is built: what is missing, pickles, an index
that does not fit its files, files that are not what they say (header.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from typing import Any, NamedTuple

from etils import epath

from seqzoo.models.pretrained.header import Tensor, check_file, is_regular, read_header, read_json

CONFIG = "config.json"
ENDS = 2**20  # bytes at both ends of a file that its digest reads
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".msgpack", ".h5", ".gguf")
WANTED = ("*.json", "*.safetensors", "*.model", "*.txt")  # of a repository on the hub


class Checkpoint(NamedTuple):
    """A folder that was checked."""

    path: epath.Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def open_checkpoint(folder: str | epath.Path) -> Checkpoint:
    """The folder, or the repository OWNER/NAME of the hub. Raises ValueError for what is wrong."""
    path = find(folder)
    if not (path / CONFIG).exists():
        raise ValueError(f"{path} has no {CONFIG}; give a folder with {CONFIG} and safetensors")
    config = read_json(_text(path / CONFIG), path / CONFIG)
    return Checkpoint(path, config, _tensors(path))


def find(folder: str | epath.Path) -> epath.Path:
    """The folder itself; for OWNER/NAME that is no folder what the hub holds under that name."""
    path = epath.Path(folder).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file; give the folder that holds it and {CONFIG}")
    name = str(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or ".." in name:
        raise ValueError(f"{path} does not exist")
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ValueError(
            f"{path} does not exist; to fetch {name} from the hub, pip install huggingface_hub"
        )
    import huggingface_hub

    try:
        return epath.Path(huggingface_hub.snapshot_download(name, allow_patterns=list(WANTED)))
    except Exception as error:
        text = str(error).strip().splitlines()
        reason = text[0] if text else type(error).__name__
        raise ValueError(f"{path} does not exist, and the hub has no {name}: {reason}") from error


def is_published(place: epath.PathLike, *, hub: bool = False) -> bool:
    """Whether a place holds published weights; with `hub` also what may be a name there."""
    place = epath.Path(place)
    config = place / CONFIG
    if not place.exists():
        return hub and len(place.parts) == 2 and not place.is_absolute()
    if not config.exists():
        return any(place.glob("*.safetensors"))
    try:
        if not is_regular(config):
            return False
        found = json.loads(config.read_text())
        return isinstance(found, dict) and "model_type" in found
    except (ValueError, OSError):  # whoever reads it says what is wrong
        return False


def digest(folder: str | epath.Path) -> str:
    """Of config and weights, by the sizes and both ends of the files."""
    _, config, tensors = open_checkpoint(folder)
    found = hashlib.sha256(repr(sorted(config.items())).encode())
    for path in sorted({tensor.file for tensor in tensors.values()}):
        size = path.stat().length
        found.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            found.update(file.read(ENDS))
            file.seek(max(size - ENDS, 0))
            found.update(file.read())
    return found.hexdigest()[:16]


def _tensors(path: epath.Path) -> dict[str, Tensor]:
    index = path / INDEX
    if index.exists():
        return _indexed(path, index)
    files = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    if not files:
        _refuse(path)
    if len(files) > 1 and (path / SINGLE) not in files:
        names = ", ".join(p.name for p in files)
        raise ValueError(
            f"{path} has several files and no {INDEX} that says which to read: {names}"
        )
    return read_header(path / SINGLE if len(files) > 1 else files[0])


def _refuse(path: epath.Path) -> None:
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in PICKLES)
    if pickled:
        raise ValueError(
            f"{path} holds its weights as {', '.join(pickled)}, which is not read: such a file can "
            "run any code. Save the model again as safetensors (in the library that wrote it, "
            "save_pretrained(..., safe_serialization=True))"
        )
    raise ValueError(f"{path} has no safetensors file")


def _indexed(path: epath.Path, index: epath.Path) -> dict[str, Tensor]:
    where = read_json(_text(index), index).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise ValueError(f"{index} has no weight_map from tensors to files")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(map(str, where.values()))):
        if name != epath.Path(name).name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {name!r}, which is no safetensors file of its folder")
        if not (path / name).exists():
            raise ValueError(f"{path} lacks {name}, which its index names")
        for tensor, entry in read_header(path / name).items():
            if where.get(tensor) != name:
                said = where.get(tensor, "no file")
                raise ValueError(f"{index} has tensor {tensor!r} in {said}, and {name} holds it")
            tensors[tensor] = entry
    for tensor, name in where.items():
        if tensor not in tensors:
            raise ValueError(f"{index} has tensor {tensor!r} in {name}, which does not hold it")
    return tensors


def _text(file: epath.Path) -> bytes:
    check_file(file)
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
