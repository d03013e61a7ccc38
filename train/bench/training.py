"""Speed, memory and compile time.

    seqzoo bench                  forward and backward of mixers, tokens per second
    seqzoo bench --what scaling   time and memory per token over lengths, at as many tokens a batch
    seqzoo bench --what latency   one streaming step, early and late in a stream
    seqzoo bench --what depth     compile time of a deep stack over that of a shallow one
    seqzoo bench --what host      what the host does for a step outside the compiled program
    seqzoo bench --what data      examples a second that tasks make and a small model trains on
    seqzoo bench --what checkpoint  how long a save holds up the loop, and how long it is written

Timings on a shared machine drift, so mixers take turns within a round, one baseline is measured in
every round, and ratios to it are medians over rounds. Each measurement is a line of JSON.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.registry import MIXERS
from seqzoo.tasks.data.generated import GeneratedTask
from seqzoo.tasks.synthetic.mqar import MQAR
from seqzoo.train.bench.checkpoint import checkpoint
from seqzoo.train.bench.data import data
from seqzoo.train.bench.mixers import latency, scaling, speed
from seqzoo.train.cli.errors import UsageError, unknown
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.loop.data import to_devices, train_batches
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run
from seqzoo.train.loop.state import seed_keys
from seqzoo.train.loop.trace import SKIP, host_time

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What to measure, and at which sizes."""

    what: Literal["speed", "scaling", "latency", "depth", "host", "data", "checkpoint"] = "speed"
    models: str = ""  # mixers, separated by commas; all by default
    tasks: str = ""  # whose data is made, separated by commas; all generated ones by default
    baseline: str = "lru"  # measured in every round beside the others
    lengths: tuple[int, ...] = (512, 2048, 8192)  # tokens of a row
    batch_size: int = 4  # rows
    d_model: int = 128
    dtype: str = "float32"  # of matrix products
    options: str = "{}"  # mixer options as JSON, {"lru": {"d_state": 64}}
    rounds: int = 5  # timings of each mixer, taken in turns
    positions: tuple[int, int] = (10, 100_000)  # at which a streaming step is timed
    depths: tuple[int, int] = (2, 24)  # of the stacks whose compilation is compared
    steps: int = 50  # that the host is watched for, or that run while a checkpoint is written
    mib: int = 1024  # of the train state that is saved
    out: Path | None = None  # JSON lines are appended here

    def __post_init__(self) -> None:
        for name in (*self.names, self.baseline):
            if name not in MIXERS:
                raise unknown("mixer", name, MIXERS)
        for name in self.task_names:
            if name not in tasks.TASKS:
                raise unknown("task", name, tasks.names())
        for name in ("batch_size", "d_model", "rounds", "steps", "mib"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in self.mixer_options:
            if name not in MIXERS:
                raise unknown("mixer in --options", name, MIXERS)

    @property
    def names(self) -> tuple[str, ...]:
        """The mixers to measure."""
        return tuple(n.strip() for n in self.models.split(",")) if self.models else tuple(MIXERS)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks whose data is made, by default all that only make theirs."""
        if self.tasks:
            return tuple(name.strip() for name in self.tasks.split(","))
        made = (GeneratedTask, MQAR)
        return tuple(name for name, task in tasks.TASKS.items() if issubclass(task, made))

    @property
    def mixer_options(self) -> dict[str, dict[str, Any]]:
        """Options of each mixer. Raises UsageError for what is no such JSON."""
        try:
            options = json.loads(self.options)
        except json.JSONDecodeError as error:
            raise UsageError(f"--options is no JSON ({error}); got {self.options!r}") from None
        if not isinstance(options, dict) or not all(isinstance(v, dict) for v in options.values()):
            raise UsageError(f'--options has the form {{"lru": {{}}}}; got {self.options!r}')
        return options


def main(argv: Sequence[str]) -> int:
    """`seqzoo bench`."""
    from seqzoo.train.cli.flags import parse

    bench = parse(Bench, argv, "seqzoo bench")
    console = Console()
    rows = []
    for row in MEASURES[bench.what](bench):
        rows.append({"what": bench.what, "device": jax.devices()[0].device_kind, **row})
        text = json.dumps(rows[-1])
        if bench.out is not None:
            bench.out.parent.mkdir(parents=True, exist_ok=True)
            with bench.out.open("a") as file:
                file.write(text + "\n")
        print(text, flush=True)
    console.print(table(rows))
    return 0


def table(rows: Sequence[Row]) -> Table:
    """Measurements for the terminal."""
    out = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    names = [n for n in rows[0] if n not in ("what", "device")] if rows else []
    for i, name in enumerate(names):
        layout = {"justify": "right"} if i else {"no_wrap": True}
        out.add_column(name.replace("_", " "), overflow="fold", **layout)
    for row in rows:
        out.add_row(*(_word(row[name]) for name in names))
    return out


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def depth(bench: Bench) -> Iterator[Row]:
    """Compile time of the train step of a deep stack over that of a shallow one."""
    for name in bench.names if bench.models else (bench.baseline,):
        seconds: dict[int, list[float]] = {n: [] for n in bench.depths}
        for _ in range(bench.rounds):
            for layers in bench.depths:
                seconds[layers].append(_compile_seconds(_experiment(bench, name, layers)))
        shallow, deep = (statistics.median(seconds[n]) for n in bench.depths)
        few, many = bench.depths
        yield {
            "model": name,
            f"seconds_{few}_layers": shallow,
            f"seconds_{many}_layers": deep,
            "ratio": deep / shallow,
        }


def _experiment(bench: Bench, name: str, layers: int) -> Experiment:
    task = tasks.build("mqar", length=bench.lengths[0], vocab_size=bench.lengths[0] + 2)
    backbone = BackboneConfig(d_model=bench.d_model, depth=layers, dtype=bench.dtype)
    # The batch is divided over all devices there are.
    size = bench.batch_size * jax.device_count()
    return Experiment(
        task=task,
        model=name,
        mixer=bench.mixer_options.get(name, {}),
        backbone=backbone,
        train=TrainConfig(steps=bench.steps, batch_size=size),
    )


def _compile_seconds(experiment: Experiment) -> float:
    """Tracing, lowering and compiling the train step, which no cache holds."""
    program = make_program(experiment)
    (batch,) = _batches(experiment, 1)
    _, key = seed_keys(0)
    started = time.perf_counter()
    program.step.lower(program.like, to_devices(batch, program.rows), key).compile()
    return time.perf_counter() - started


def _batches(experiment: Experiment, count: int) -> list[dict]:
    train = experiment.train
    source = experiment.task.source("train", train.seed)
    stream = train_batches(source, train.batch_size, seed=train.seed, threads=0)
    return [batch for _, batch in zip(range(count), stream, strict=False)]


def host(bench: Bench) -> Iterator[Row]:
    """Milliseconds that the loop's thread works for a step, read from a profile of the loop.

    What it waits for the compiled program or runs it does not count; `idle_ms` is the time of a
    step in which no program ran.
    """
    for name in bench.names if bench.models else (bench.baseline,):
        with tempfile.TemporaryDirectory() as folder:
            run(_watched(bench, name), Path(folder) / "run")
            time_ = host_time(Path(folder))
        yield {"model": name, "host_ms": time_.host, "idle_ms": time_.idle, "step_ms": time_.step}


def _watched(bench: Bench, name: str) -> Experiment:
    """An experiment whose loop does nothing but steps while it is traced."""
    experiment = _experiment(bench, name, 2)
    train = dataclasses.replace(
        experiment.train,
        steps=bench.steps + 2 * SKIP,
        profile=True,
        profile_steps=bench.steps,
        eval_every=0,
        save_every=0,
        keep_best=False,
    )
    task = dataclasses.replace(experiment.task, validation_size=train.batch_size)
    return dataclasses.replace(experiment, task=task, train=train)


MEASURES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "speed": speed,
    "scaling": scaling,
    "latency": latency,
    "depth": depth,
    "host": host,
    "data": data,
    "checkpoint": checkpoint,
}
