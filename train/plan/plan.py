"""Whether a configuration fits, and how fast it can be at best, before anything is rented.

Compiles the train step that `seqzoo train` would run, for a TPU topology that need not exist here
(libtpu compiles without a TPU), for GPUs that need not (XLA's and NVIDIA's compilers need no
driver), or for the devices of this machine.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from seqzoo.models.whole.build import build_model
from seqzoo.train.config import Experiment
from seqzoo.train.devices.chips import GIB, chip_of
from seqzoo.train.devices.sharding import replicated
from seqzoo.train.loop.program import Program, count_parameters, make_program, replica_keys
from seqzoo.train.loop.speed import forward_operations, training_shapes
from seqzoo.train.plan.apart import answered
from seqzoo.train.plan.compiled import (
    launches_of,
    memory_of,
    no_memory,
    refused,
    times_of,
)
from seqzoo.train.plan.hlo import Module
from seqzoo.train.plan.topology import Plan, devices_of

Row = dict[str, Any]
# On a GPU that is there XLA measures which of the two products is faster; here neither is.
NO_TRITON = {"xla_gpu_enable_triton_gemm": False}
NOT_KNOWN = (
    "not known without a GPU: tiles and the choice of cuDNN, cuBLAS or Triton, which are measured "
    "there; NCCL's buffers, the CUDA context and fragmentation, a GiB or two; memory shared with "
    "others"
)


def plan_of(experiment: Experiment, plan: Plan, devices: Sequence[jax.Device]) -> Row:
    """All that is known of one configuration after compiling its train step."""
    chip = chip_of(devices[0])
    program = _program(experiment, plan, devices)
    train, replicas = experiment.train, experiment.train.replicas
    length = plan.length or experiment.task.spec.length  # given, so that no examples share rows
    batch = training_shapes(program, experiment.task, train.batch_size, length)
    tokens = experiment.task.positions(batch)
    row: Row = {
        "task": experiment.task.name,
        "model": experiment.model,
        "topology": plan.topology if plan.slices == 1 else f"{plan.slices} x {plan.topology}",
        "chip": chip.name if chip else devices[0].device_kind,
        "devices": len(devices),
        "mesh": {name: n for name, n in program.mesh.shape.items() if n > 1},
        **{
            key: getattr(experiment.backbone, key) for key in ("depth", "d_model", "dtype", "remat")
        },
        "length": length,
        "batch_size": train.batch_size,
        **({"replicas": replicas} if replicas > 1 else {}),
        "parameters": count_parameters(program.like.params),
        "memory_limit": chip.memory if chip else None,
    }
    row |= _operations(program, length, tokens)
    started = time.perf_counter()
    keys = jax.eval_shape(lambda: replica_keys(experiment)[1])
    key = jax.ShapeDtypeStruct(keys.shape, keys.dtype, sharding=replicated(program.mesh))
    if replicas > 1:
        batch = {
            name: jax.ShapeDtypeStruct((replicas, *x.shape), x.dtype, sharding=program.rows)
            for name, x in batch.items()
        }
    lowered = program.step.lower(program.like, batch, key)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not no_memory(error):
            raise
        row |= refused(str(error))
        row["largest"] = row["largest"] or _largest_of_state(program)
    else:
        row |= memory_of(compiled, chip)
        row |= times_of(compiled, chip, row)
        if plan.gpu:
            row["without_triton"] = _without_triton(lowered)
    row["compile_seconds"] = time.perf_counter() - started
    row["would_help"] = _would_help(row, experiment) if row["fits"] is False else []
    return row


def describe(row: Row) -> Iterator[str]:
    """A plan for the reader."""
    mesh = ", ".join(f"{name} {n}" for name, n in row["mesh"].items()) or "one device"
    yield (
        f"{row['model']} on {row['task']}: {row['depth']} layers of width {row['d_model']}, "
        f"{row['dtype']}, remat {row['remat']}, {row['batch_size']} rows of {row['length']} tokens"
        + (f", {row['replicas']} runs in one program" if "replicas" in row else "")
    )
    yield f"{row['devices']} devices ({row['chip']}, {row['topology']}), mesh {mesh}"
    yield f"parameters       {row['parameters']:,}"
    yield (
        f"model FLOPs      {row['model_flops']:.3g} a step, {row['flops_per_token']:.3g} a token, "
        f"{row['product_flops'] / max(1, row['model_flops']):.0%} in products"
    )
    limit = f" of {row['memory_limit'] / GIB:.2f}" if row["memory_limit"] else ""
    if row.get("peak_bytes"):
        parts = ", ".join(
            f"{part} {row[part + '_bytes'] / GIB:.3f}"
            for part in ("argument", "output", "temporary")
            if part + "_bytes" in row
        )
        yield f"memory a device  {row['peak_bytes'] / GIB:.3f}{limit} GiB ({parts})"
    if "bound_seconds" in row:
        yield from _describe_speed(row)
    for size, label in row["largest"]:
        yield f"  {size / 2**20:10.1f} MiB  {label}"
    if "without_triton" in row:
        yield NOT_KNOWN
    verdict = {True: "fits", False: "does not fit", None: "limit of memory not known"}
    yield verdict[row["fits"]] + (
        f"; what would help: {'; '.join(row['would_help'])}" if row["would_help"] else ""
    )


def _describe_speed(row: Row) -> Iterator[str]:
    for kind, (count, sent) in row["collectives"].items():
        yield f"{kind:16} {count} a step, {sent / 2**20:.1f} MiB sent by a device"
    if "launches" in row:
        parts = ", ".join(f"{kind} {count:,.0f}" for kind, count in row["kernels"].items())
        yield f"launches a step  {row['launches']:,.0f} ({parts})"
    if other := row.get("without_triton"):
        yield (
            f"without Triton   {other['launches']:,.0f} launches, temporary "
            f"{other['temporary_bytes'] / GIB:.3f} GiB"
        )
    if row["bound_seconds"] is not None:
        parts = ", ".join(f"{name} {1e3 * t:.3g}" for name, t in row["bounds"].items())
        yield f"step, at least   {1e3 * row['bound_seconds']:.3g} ms (ms: {parts})"
        yield f"utilisation      {row['utilisation']:.1%} of the peak at that bound"
    for name in ("compiler_seconds", "cycles_seconds"):
        if row[name] is not None:
            source = "cost analysis" if name == "compiler_seconds" else "cycles of its operations"
            yield f"estimate         {1e3 * row[name]:.3g} ms, the compiler's ({source})"


def _program(experiment: Experiment, plan: Plan, devices: Sequence[jax.Device]) -> Program:
    spec = experiment.task.spec
    length = plan.length or spec.length

    def make_model(rngs: Any) -> Any:
        longer = dataclasses.replace(spec, length=length)
        return build_model(
            longer, experiment.model, experiment.backbone, experiment.mixer, rngs=rngs
        )

    return make_program(experiment, make_model=make_model, devices=devices, length=length)


def _operations(program: Program, length: int, tokens: int) -> Row:
    experiment = program.experiment
    once = forward_operations(program, experiment.task, experiment.train.batch_size, length)
    replicas = experiment.train.replicas
    return {
        "model_flops": 3 * replicas * once.total,
        "product_flops": 3 * replicas * once.products,
        "flops_per_token": 3 * once.total / tokens,
    }


def _without_triton(lowered: Any) -> Row | None:
    """Launches and memory where products are calls of a library; None where that cannot be."""
    try:
        compiled = lowered.compile(compiler_options=NO_TRITON)
    except jax.errors.JaxRuntimeError as error:
        if not no_memory(error):
            raise
        return None
    memory = memory_of(compiled, None)
    launches = launches_of(Module(compiled.as_text()))["launches"]
    return {"launches": launches, "temporary_bytes": memory["temporary_bytes"]}


def _largest_of_state(program: Program, count: int = 5) -> list[tuple[float, str]]:
    """What a device holds of the largest arrays of the train state."""
    leaves = jax.tree_util.tree_leaves_with_path(program.like)
    sizes = [
        (
            float(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize),
            jax.tree_util.keystr(path),
        )
        for path, leaf in leaves
    ]
    return sorted(sizes, reverse=True)[:count]


def _would_help(row: Row, experiment: Experiment) -> list[str]:
    mesh, out = row["mesh"], []
    if row["remat"] != "full":
        out.append("--backbone.remat full keeps only the blocks' inputs")
    if mesh.get("fsdp", 1) < row["devices"]:
        out.append(f"--mesh.fsdp {row['devices']} divides parameters and moments further")
    shards = math.prod(mesh.get(axis, 1) for axis in ("replica", "data", "fsdp"))
    if row["batch_size"] // experiment.train.accumulate > shards:
        out.append(f"--batch-size {shards}, or --accumulate, gives a device one row at a time")
    else:
        out.append("--mesh.seq or --mesh.tensor divide a row; more chips")
    return out


def answer(request: dict[str, Any]) -> Row:
    """`plan_of` for a request in plain data."""
    plan = Plan(**request["plan"])
    return plan_of(Experiment.from_dict(request["experiment"]), plan, devices_of(plan))


if __name__ == "__main__":
    answered(answer)
