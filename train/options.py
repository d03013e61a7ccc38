"""What a run is told: how it learns, how long, and on which devices; each field a flag."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from seqzoo.models.pretrained.adapters import adapter_of

MOST_SEEDS = 10_000  # of one model
MOST_THREADS, MOST_AHEAD = 1000, 10_000  # that read, batches that wait: more only take memory

# Fields that change where and how a run is computed but not what: they may differ on resume.
RUNTIME = {"runtime": True}


def _runtime(default: Any) -> Any:
    return dataclasses.field(default=default, metadata=RUNTIME)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimiser (AdamW unless another is named), its learning rate and weight decay.

    The group `dynamics` (A, dt, decays) learns at `min(peak_lr, dynamics_lr)` without weight decay,
    `no_decay` (biases, norm scales) without weight decay.
    """

    name: str = "adamw"  # adam, sgd, lion, adafactor, muon, schedule_free, or an address
    peak_lr: float = 1e-3  # after warm-up; positive
    # how the learning rate falls after warm-up; auto: cosine, or constant for schedule_free
    schedule: Literal["auto", "cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "auto"
    decay: float = 0.2  # share of all steps in which wsd comes down
    warmup: float = 0.1  # optimiser steps if 1 or more, else a fraction of all steps
    final_lr: float = 0.0  # at the last step, as a fraction of the peak, in [0, 1]
    dynamics_lr: float = 1e-3  # peak for recurrences; at most peak_lr counts
    weight_decay: float = 0.05  # decoupled, times the learning rate
    clip_norm: float = 1.0  # largest global norm of the gradient; 0: no clipping
    b1: float = 0.9  # decay of the first moment, of sgd the momentum, in [0, 1)
    b2: float = 0.999  # decay of the second moment, in [0, 1)
    eps: float = 1e-8  # added to the root of the second moment
    momentum: float = 0.95  # of muon's matrices, in [0, 1)
    ema: float = 0.0  # decay of the averaged weights that are evaluated, in [0, 1); 0: none
    trained: str = ""  # what learns: an expression found in paths of parameters; empty: all

    def __post_init__(self) -> None:
        for name in ("peak_lr", "dynamics_lr", "eps"):
            _check(getattr(self, name) > 0, self, name, "must be positive")
        for name in ("warmup", "weight_decay", "clip_norm"):
            _check(getattr(self, name) >= 0, self, name, "must not be negative")
        for name in ("b1", "b2", "momentum", "ema"):
            _check(0 <= getattr(self, name) < 1, self, name, "must be in [0, 1)")
        _check(0 <= self.final_lr <= 1, self, "final_lr", "is a fraction of peak_lr in [0, 1]")
        _check(0 < self.decay <= 1, self, "decay", "is a share of all steps in (0, 1]")
        if self.name == "schedule_free":
            _check(self.ema == 0, self, "ema", "must be 0: schedule_free averages by itself")
            _check(self.b1 > 0, self, "b1", "must be positive for schedule_free")

    def warmup_steps(self, steps: int) -> int:
        """Warm-up in optimiser steps, for a run of `steps`."""
        return round(self.warmup if self.warmup >= 1 else self.warmup * steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each mesh axis; -1 takes what is left."""

    replica: int = 1  # data parallel over slices
    data: int = -1  # data parallel, parameters replicated
    fsdp: int = 1  # data parallel, parameters divided
    seq: int = 1  # along the sequence
    tensor: int = 1  # within a layer
    expert: int = 1  # experts of a mixture
    seeds: int = 1  # --replicas, or the seeds of a comparison: each has its part of them

    def __post_init__(self) -> None:
        sizes = dataclasses.astuple(self)
        if any(n == 0 or n < -1 for n in sizes) or sizes.count(-1) > 1:
            raise ValueError(
                f"mesh sizes are positive, and one at most is -1 (the rest); got {self}"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop: how long, how much at once, how often to look and to save."""

    steps: int = 1000  # optimiser steps
    batch_size: int = 32  # examples a step, over all devices
    accumulate: int = 1  # microbatches a step; divides batch_size
    seed: int = 0  # of initialisation, data order and dropout
    replicas: int = 1  # trained side by side in one program, of the seeds seed, seed + 1, ...
    init_from: str = ""  # a run whose encoder to start from; empty: from scratch
    # what learns of what it starts from: lora or dora, as lora:rank=8,alpha=16,on=EXPRESSION;
    # empty: all
    adapter: str = ""
    eval_every: int = 200  # steps between evaluations of the whole validation split; 0: at the end
    patience: int = 0  # evaluations without a better one that end a replica; 0: none does
    eval_batch_size: int = 0  # examples at once in evaluation; 0: batch_size
    pack: int = 0  # tokens of a row that examples share; -1: what the longest needs; 0: a row each
    save_every: int = _runtime(200)  # steps between checkpoints; 0: at the end
    save_seconds: float = _runtime(0.0)  # after which a checkpoint is written too; 0: never
    keep_best: bool = True  # save at each best validation result; replicas keep a copy of theirs
    max_skipped: float = _runtime(0.01)  # share of steps not finite above which the run ends
    keep: int = _runtime(2)  # newest checkpoints kept; at least 1
    threads: int = _runtime(1)  # that read data; 0: none
    prefetch: int = _runtime(8)  # batches read ahead
    stop_seconds: float = _runtime(0.0)  # after SIGTERM until it ends, saved or not; 0: no limit
    trackers: str = _runtime("tensorboard")  # wandb, mlflow, trackio, an address; a,b for several
    profile: bool = _runtime(False)  # write a trace for XProf
    profile_steps: int = _runtime(20)  # in the trace

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "replicas", "keep", "profile_steps"):
            _check(getattr(self, name) >= 1, self, name, "must be at least 1")
        counts = ("seed", "eval_every", "eval_batch_size", "save_every", "threads", "prefetch")
        for name in (*counts, "save_seconds", "stop_seconds"):
            _check(getattr(self, name) >= 0, self, name, "must not be negative")
        most = {"replicas": MOST_SEEDS, "threads": MOST_THREADS, "prefetch": MOST_AHEAD}
        for name, limit in most.items():
            _check(getattr(self, name) <= limit, self, name, f"must be at most {limit}")
        _check(self.patience >= 0, self, "patience", "must not be negative")
        if self.patience and not self.eval_every:
            raise ValueError(f"patience counts evaluations, and eval_every=0; got {self.patience=}")
        _check(self.pack >= -1, self, "pack", "is tokens of a row, -1 or 0")
        _check(0 <= self.max_skipped <= 1, self, "max_skipped", "is a share of steps in [0, 1]")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate must divide batch_size; got {self.batch_size=}, {self.accumulate=}"
            )
        if self.adapter:
            object.__setattr__(self, "adapter", str(adapter_of(self.adapter)))
            if not self.init_from:
                raise ValueError(
                    f"an adapter changes what was learned before, and there is nothing: give "
                    f"--init FOLDER or --init-from beside --adapter {self.adapter}"
                )

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the replicas."""
        return tuple(range(self.seed, self.seed + self.replicas))


def _check(holds: bool, config: Any, name: str, rule: str) -> None:
    if not holds:
        raise ValueError(f"{name} {rule}; got {getattr(config, name)}")
