"""Whether a configuration fits, and how fast it can be at best, before anything is rented.

    seqzoo plan --task listops --model mamba --topology v5e:16x16
    seqzoo plan --task listops --model mamba --backbone.depth 24 --mesh.data 4 --mesh.fsdp -1 ...
    seqzoo plan --task listops --model mamba --topology v5p:4x4x4 --search
    seqzoo plan --task listops --all --topology v5e:16x16 --out DIR      a row for every mixer
    seqzoo plan --forms --topology v5e:1x1 --out DIR                     for every op's forms

Compiles the train step that `seqzoo train` would run, for a TPU topology that need not exist here
(libtpu compiles without a TPU) or for the devices of this machine. The last line is JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from seqzoo.models.heads import build_model
from seqzoo.models.registry import resolve
from seqzoo.train.cli.errors import UsageError
from seqzoo.train.config import Experiment, MeshConfig
from seqzoo.train.devices.chips import GIB, TPUS, Chip, chip_of
from seqzoo.train.devices.sharding import replicated
from seqzoo.train.loop.data import batch_shapes
from seqzoo.train.loop.program import Program, count_parameters, make_program
from seqzoo.train.loop.speed import forward_operations
from seqzoo.train.plan.hlo import Module, by_kind

LOCAL = "local"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What to compile for, apart from the experiment itself."""

    topology: str = LOCAL  # v5e:16x16, v6e:8x8, v5p:4x4x4, tpu7x:2x2x1, or local: what is here
    slices: int = 1  # of that topology, connected by the data centre's network
    length: int = 0  # tokens of a row; 0: the task's
    search: bool = False  # try meshes and rematerialisation policies, best first

    def __post_init__(self) -> None:
        kind = self.topology.partition(":")[0]
        if self.topology != LOCAL and not (
            kind in TPUS and re.fullmatch(r"\d+(x\d+){1,2}", self.topology.partition(":")[2])
        ):
            raise UsageError(
                f"a topology is {LOCAL} or one of {', '.join(TPUS)} with its shape, such as "
                f"v5e:16x16 or v5p:4x4x4; got {self.topology!r}"
            )
        if self.slices < 1 or self.length < 0:
            raise UsageError(f"slices is at least 1, length at least 0; got {self}")


def main(argv: Sequence[str]) -> int:
    """`seqzoo plan`."""
    if "--all" in argv:
        from seqzoo.train.plan.table import main as table

        return table(argv)
    if "--forms" in argv:
        from seqzoo.train.plan.forms import main as forms

        return forms(argv)
    from seqzoo.train.cli.command import _chosen
    from seqzoo.train.cli.flags import bare_field, experiment_fields, experiment_of, parse

    task, model = _chosen(argv)
    fields = [
        ("task", str, dataclasses.field(default=task)),
        ("model", str, dataclasses.field(default=model)),
        *experiment_fields(task, model),
        bare_field("plan", Plan()),
    ]
    parsed = parse(dataclasses.make_dataclass("Plan", fields, kw_only=True), argv, "seqzoo plan")
    plan, experiment = parsed.plan, experiment_of(parsed, model)
    devices = devices_of(plan)
    rows, candidates = [], [experiment]
    if plan.search:
        candidates = list(_candidates(experiment, plan, len(devices)))
    if not candidates:
        raise UsageError(
            f"no mesh of {len(devices)} devices divides {experiment.train.batch_size} rows; give "
            "another --batch-size or --length"
        )
    for candidate in candidates:
        rows.append(plan_of(candidate, plan, devices))
        print("\n".join(describe(rows[-1])), flush=True)
    rows.sort(key=lambda row: (row["fits"] is False, row.get("bound_seconds") or math.inf))
    if plan.search:
        print(*(_summary(row) for row in rows), sep="\n")
    print(json.dumps({**rows[0], "search": rows[1:]} if plan.search else rows[0]))
    return 0


def devices_of(plan: Plan) -> Sequence[jax.Device]:
    """The devices of a topology. Raises UsageError where it cannot be, or libtpu is missing."""
    if plan.topology == LOCAL:
        return jax.devices()
    if not _has_libtpu():
        raise UsageError(
            "compiling for a TPU needs libtpu, which `pip install 'seqzoo[tpu]'` installs on "
            "Linux; --topology local plans for this machine"
        )
    # Compiling needs no TPU, and one that is here belongs to whoever trains on it.
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # several plans at a time
    os.environ |= {"TPU_WORKER_ID": "0", "TPU_MIN_LOG_LEVEL": "4", "TPU_STDERR_LOG_LEVEL": "4"}
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": plan.slices} if plan.slices > 1 else {}
    if plan.topology.endswith(":1x1") or plan.topology.endswith(":1x1x1"):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(plan.topology, platform="tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).partition("=== Source")[0].strip()
        raise UsageError(f"no topology {plan.topology!r}: {reason}") from error
    return found.devices


def plan_of(experiment: Experiment, plan: Plan, devices: Sequence[jax.Device]) -> Row:
    """All that is known of one configuration after compiling its train step."""
    chip = chip_of(devices[0])
    program = _program(experiment, plan, devices)
    batch = batch_shapes(experiment.task, experiment.train.batch_size, program.rows, plan.length)
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
        "length": plan.length or experiment.task.spec.length,
        "batch_size": experiment.train.batch_size,
        "parameters": count_parameters(program.like.params),
        "memory_limit": chip.memory if chip else None,
    }
    row |= _operations(program, plan.length, tokens)
    started = time.perf_counter()
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=replicated(program.mesh))
    try:
        compiled = program.step.lower(program.like, batch, key).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "Ran out of memory" not in str(error):
            raise
        row |= _refused(str(error))
        row["largest"] = row["largest"] or _largest_of_state(program)
    else:
        row |= _memory(compiled, chip)
        row |= _times(Module(compiled.as_text()), compiled, chip, row)
    row["compile_seconds"] = time.perf_counter() - started
    row["would_help"] = _would_help(row, experiment) if row["fits"] is False else []
    return row


def describe(row: Row) -> Iterator[str]:
    """A plan for the reader."""
    mesh = ", ".join(f"{name} {n}" for name, n in row["mesh"].items()) or "one device"
    yield (
        f"{row['model']} on {row['task']}: {row['depth']} layers of width {row['d_model']}, "
        f"{row['dtype']}, remat {row['remat']}, {row['batch_size']} rows of {row['length']} tokens"
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
    verdict = {True: "fits", False: "does not fit", None: "limit of memory not known"}
    yield verdict[row["fits"]] + (
        f"; what would help: {'; '.join(row['would_help'])}" if row["would_help"] else ""
    )


def _describe_speed(row: Row) -> Iterator[str]:
    for kind, (count, sent) in row["collectives"].items():
        yield f"{kind:16} {count} a step, {sent / 2**20:.1f} MiB sent by a device"
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
    preset = resolve(experiment.model)
    options = dict(experiment.mixer)
    if len(set(preset.pattern)) == 1 and options.get("max_length"):
        options["max_length"] = max(length, options["max_length"])

    def make_model(rngs: Any) -> Any:
        longer = dataclasses.replace(spec, length=length)
        return build_model(longer, experiment.model, experiment.backbone, options, rngs=rngs)

    return make_program(experiment, make_model=make_model, devices=devices, length=length)


def _operations(program: Program, length: int, tokens: int) -> Row:
    experiment = program.experiment
    once = forward_operations(program, experiment.task, experiment.train.batch_size, length)
    return {
        "model_flops": 3 * once.total,
        "product_flops": 3 * once.products,
        "flops_per_token": 3 * once.total / tokens,
    }


def _memory(compiled: Any, chip: Chip | None) -> Row:
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    held += memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    held -= memory.alias_size_in_bytes
    peak = max(held, getattr(memory, "peak_memory_in_bytes", 0) or 0)
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "peak_bytes": peak,
        "fits": None if chip is None else peak <= chip.memory,
    }


def _times(module: Module, compiled: Any, chip: Chip | None, row: Row) -> Row:
    cost = compiled.cost_analysis() or {}
    collectives = {kind: (count, sent) for kind, count, sent in by_kind(module.collectives())}
    traffic, cycles = module.traffic(), module.cycles()
    optimal = cost.get("optimal_seconds", -1)
    out: Row = {
        "compiler_flops": cost.get("flops"),  # of a device, bodies of loops once
        "collectives": collectives,
        "traffic_bytes": traffic,
        "largest": module.largest(),
        # The compiler marks what it cannot estimate by negative numbers.
        "compiler_seconds": optimal if optimal > 0 else None,
        "cycles_seconds": cycles / chip.clock if chip and chip.clock and cycles else None,
        "bound_seconds": None,
    }
    if chip is None:
        return out
    bounds = {
        "products": row["product_flops"] / row["devices"] / chip.flops,
        "memory": traffic / chip.bandwidth,
        "links": sum(sent for _, sent in collectives.values()) / chip.link,
    }
    bound = max(bounds.values())
    used = row["model_flops"] / row["devices"] / chip.flops / bound
    return {**out, "bounds": bounds, "bound_seconds": bound, "utilisation": used}


def _refused(message: str) -> Row:
    """What the compiler says of a program that does not fit."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}

    def number(found: re.Match | None) -> float | None:
        return float(found[1]) * units[found[2]] if found else None

    largest = []
    for block in re.split(r"\n\s+\d+\. (?=Size:)", message)[1:6]:
        size = number(re.match(r"Size: ([\d.]+)([KMGT]?)", block))
        label = re.search(r'op_name="([^"]*)"', block) or re.search(r"Shape: (\S+)", block)
        largest.append((size or 0.0, label[1] if label else ""))
    return {
        "fits": False,
        "peak_bytes": number(re.search(r"(?:Used |temporaries \()([\d.]+)([KMGT]?)", message)),
        "largest": largest,
        "refusal": message.partition("\n")[0][:300],
    }


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


def _candidates(experiment: Experiment, plan: Plan, count: int) -> Iterator[Experiment]:
    """Meshes and rematerialisation policies worth a try."""
    rows = experiment.train.batch_size // experiment.train.accumulate
    length = plan.length or experiment.task.spec.length
    sizes = [{"data": 1, "fsdp": count}, {"data": count}]
    for n in (4, 8):
        sizes.append({"data": 1, "fsdp": count // n, "tensor": n})
    if count > 16:
        sizes.append({"data": count // 16, "fsdp": 16})
    # The last is the smallest with which there are rows for all.
    for n in sorted({2, 4, 8, count // math.gcd(count, rows)}):
        sizes.append({"data": 1, "fsdp": count // n, "seq": n})
    for mesh, remat in itertools.product(sizes, ("none", "dots", "full")):
        if _possible(mesh, count, rows, length, plan.slices):
            backbone = dataclasses.replace(experiment.backbone, remat=remat)
            yield dataclasses.replace(experiment, mesh=MeshConfig(**mesh), backbone=backbone)


def _possible(mesh: dict[str, int], count: int, rows: int, length: int, slices: int) -> bool:
    """Whether a mesh has all devices, and divides rows and their length; seq 1 counts for none."""
    shards, seq = mesh["data"] * mesh.get("fsdp", 1), mesh.get("seq", 0)
    return (
        math.prod(mesh.values()) == count
        and rows % shards == 0
        and (seq == 0 or (seq > 1 and length % seq == 0))
        and (slices == 1 or any(mesh.get(axis, 1) % slices == 0 for axis in ("data", "fsdp")))
    )


def _summary(row: Row) -> str:
    mesh = ",".join(f"{name}={n}" for name, n in row["mesh"].items()) or "1"
    peak = f"{row['peak_bytes'] / GIB:.2f} GiB" if row.get("peak_bytes") else "?"
    bound = f"{1e3 * row['bound_seconds']:.3g} ms" if row.get("bound_seconds") else "-"
    fits = {True: "fits", False: "does not fit", None: "?"}[row["fits"]]
    return f"{mesh:32} remat {row['remat']:5} {peak:>12} {bound:>10}  {fits}"


def _has_libtpu() -> bool:
    import importlib.util

    return importlib.util.find_spec("libtpu") is not None
