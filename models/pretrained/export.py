"""Models as programs that run without this package: StableHLO by `jax.export`, beside safetensors.

    export_model(model, "folder", length=128)

There are four, of which a model that looks both ways has `whole` alone: `whole` (rows at once),
`start` (the state before the first token), `prefill` (continues it by a chunk) and `step` (by one
token). Each is one file for CPU, CUDA and TPU, with the batch size and the length left open where
the model's arithmetic allows; about.json says what each takes. There is no ONNX, by design: its
operators have neither recurrences that carry a state nor these dtypes, and StableHLO is what runs.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from etils import epath
from jax import export
from jaxtyping import Array

from seqzoo.models.whole.sequence_model import SequenceModel

PLATFORMS = ("cpu", "cuda", "tpu")
LOADER = "load.py"
WEIGHTS, ABOUT, SUFFIX = "weights.safetensors", "about.json", ".exported"


class Program(NamedTuple):
    """A function of (weights, arrays...) and which of its sizes are open."""

    call: Callable
    inputs: Callable[[Any, Any], tuple]  # shapes of a batch size and a length
    takes: tuple[str, ...]


def export_model(
    model: SequenceModel,
    folder: str | epath.Path,
    *,
    length: int,
    batch: int = 1,
    platforms: Sequence[str] = PLATFORMS,
) -> dict[str, Any]:
    """Writes programs, weights and a loader; gives what about.json says.

    Args:
        model: any, on one device.
        folder: a new or empty folder.
        length: tokens of a row or chunk, of programs that cannot leave it open.
        batch: rows, of programs that cannot leave that open.
        platforms: of cpu, cuda, tpu and rocm.

    Raises:
        ValueError: the folder holds something, a number or platform cannot be, the library that
            writes the files is missing, the model is one of views, or JAX cannot export what it
            computes.
    """
    path = epath.Path(folder).expanduser()
    _check(path, length, batch, platforms)
    if model.head == "views":
        raise ValueError(
            "a model of views is trained for its encoder and answers nothing; fine-tune it with "
            "--init-from and export that"
        )
    leaves, structure = jax.tree_util.tree_flatten_with_path(model)
    names = [_name(key) for key, _ in leaves]
    weights = {name: leaf for name, (_, leaf) in zip(names, leaves, strict=True)}

    def merged(weights: Mapping[str, Array]) -> SequenceModel:
        return jax.tree.unflatten(structure, [weights[name] for name in names])

    most = model.encoder.max_length
    sizes = batch, length if most is None else min(length, most)
    files, about = {}, {}
    for name, program in _programs(model, merged).items():
        files[name], about[name] = _exported(name, program, weights, sizes, most, platforms)
    said = {"platforms": list(platforms), "jax": jax.__version__, "programs": about}
    _write(path, files, weights, said)
    return said


def _check(path: epath.Path, length: int, batch: int, platforms: Sequence[str]) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} is not empty; give a new folder")
    for name, value in (("length", length), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    known = (*PLATFORMS, "rocm")
    if not platforms or not {*platforms} <= {*known}:
        raise ValueError(f"platforms are some of {', '.join(known)}; got {', '.join(platforms)}")
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError("jax.export writes files by flatbuffers: pip install flatbuffers")


def _programs(model: SequenceModel, merged: Callable) -> dict[str, Program]:
    """What there is to run of a model, with states as lists of arrays."""
    real, pair = model.features, model.head == "two_tower"
    inner = (model.encoder.features,) if real else ()

    def rows(b: Any, n: Any) -> tuple:
        shape = (b, 2, n) if pair else (b, n)
        dtype = jnp.float32 if real else jnp.int32
        ids = jax.ShapeDtypeStruct(shape, jnp.int32)
        return jax.ShapeDtypeStruct((*shape, *inner), dtype), ids

    def whole(weights: Mapping[str, Array], inputs: Array, ids: Array) -> Array:
        return merged(weights)(inputs, ids)

    made = {"whole": Program(whole, rows, ("inputs", "segment_ids"))}
    if not (model.encoder.causal and model.head in ("lm", "regress")):
        return made
    form = jax.tree.structure(jax.eval_shape(lambda: model.init_state(1)))

    def start(weights: Mapping[str, Array], inputs: Array) -> list[Array]:
        return jax.tree.leaves(merged(weights).init_state(inputs.shape[0]))

    def prefill(weights: Mapping[str, Array], state: list[Array], inputs: Array, ids: Array):
        y, state = merged(weights).extend(inputs, jax.tree.unflatten(form, state), ids)
        return y, jax.tree.leaves(state)

    def step(weights: Mapping[str, Array], state: list[Array], inputs: Array):
        y, state = merged(weights).extend(inputs[:, None], jax.tree.unflatten(form, state))
        return y[:, 0], jax.tree.leaves(state)

    def one(b: Any) -> Any:
        return jax.ShapeDtypeStruct((b, *inner), rows(b, 1)[0].dtype)

    def before(b: Any) -> list:
        state = jax.eval_shape(lambda: jax.tree.leaves(model.init_state(1)))
        return [jax.ShapeDtypeStruct((b, *a.shape[1:]), a.dtype) for a in state]

    made["start"] = Program(start, lambda b, n: (one(b),), ("inputs",))
    chunk = ("state", "inputs", "segment_ids")
    made["prefill"] = Program(prefill, lambda b, n: (before(b), *rows(b, n)), chunk)
    made["step"] = Program(step, lambda b, n: (before(b), one(b)), ("state", "inputs"))
    return made


def _exported(
    name: str,
    program: Program,
    weights: Mapping[str, Array],
    sizes: tuple[int, int],
    most: int | None,
    platforms: Sequence[str],
) -> tuple[bytes, dict[str, Any]]:
    """A program's file, with as much left open as JAX can reason about."""
    limit = () if most is None else (f"length <= {most}",)
    given = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), dict(weights))
    made, fault = None, None
    for open_sizes in (("batch", "length"), ("batch",), ()):
        batch, length = sizes
        if open_sizes:
            scope = export.SymbolicScope(limit if "length" in open_sizes else ())
            found = export.symbolic_shape(",".join(open_sizes), scope=scope)
            batch, length = (*found, length)[:2]
        try:
            call = export.export(jax.jit(program.call), platforms=list(platforms))
            made = call(given, *program.inputs(batch, length))
            break
        except Exception as error:  # of any kind: what a size decides is asked in many places
            fault = error
    if made is None:
        text = str(fault).strip().split("\n")[0]
        raise ValueError(f"JAX cannot export {name} for {', '.join(platforms)}: {text}") from fault
    shapes = jax.tree.map(lambda a: [str(a.dtype), str(a.shape)], program.inputs(batch, length))
    about = dict(zip(program.takes, shapes, strict=True))
    return bytes(made.serialize()), about


def _write(
    path: epath.Path, files: Mapping[str, bytes], weights: Mapping[str, Array], said: dict[str, Any]
) -> None:
    from safetensors.flax import save

    path.mkdir(parents=True, exist_ok=True)
    (path / WEIGHTS).write_bytes(save(dict(weights)))
    for name, data in files.items():
        (path / f"{name}{SUFFIX}").write_bytes(data)
    (path / ABOUT).write_text(json.dumps(said, indent=1) + "\n")
    text = (Path(__file__).parent / "loader.txt").read_text()
    (path / LOADER).write_text(text)


def _name(path: tuple) -> str:
    """A leaf's place in the model, as the path of a parameter."""
    return jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
