"""What `seqzoo bench` is asked to measure."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from seqzoo import tasks
from seqzoo.models.errors import unknown
from seqzoo.models.foreign.address import short
from seqzoo.models.mixer import FloatName
from seqzoo.models.registry import MIXERS, mixer
from seqzoo.tasks.data.generated import GeneratedTask
from seqzoo.tasks.synthetic.mqar import MQAR

STEPS = 20  # of a stream that an atlas times together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What to measure, and at which sizes."""

    # what to measure: passes; costs by length; a streaming step; compile time by depth; the host's
    # part; tasks; checkpoints; all sizes
    what: Literal["speed", "scaling", "latency", "depth", "host", "data", "checkpoint", "atlas"] = (
        "speed"
    )
    atlas: bool = False  # the cost of every pass, length and batch, kept in the folder --out
    peers: bool = True  # layers of other packages beside them, where they are installed
    batches: tuple[int, ...] = ()  # of the atlas, rows; by default batch_size
    models: str = ""  # mixers, label=mixer or by address, by commas; all of ours by default
    tasks: str = ""  # whose data is made, separated by commas; all generated ones by default
    baseline: str = "lru"  # a mixer, or one of those labels, in every round beside the others
    lengths: tuple[int, ...] = (512, 2048, 8192)  # tokens of a row
    batch_size: int = 4  # rows
    d_model: int = 128  # width
    dtype: FloatName = "float32"  # of matrix products
    options: str = "{}"  # mixer options as JSON, {"lru": {"d_state": 64}}
    rounds: int = 5  # timings of each mixer, taken in turns
    positions: tuple[int, int] = (10, 100_000)  # at which a streaming step is timed
    depths: tuple[int, int] = (2, 24)  # of the stacks whose compilation is compared
    steps: int = 50  # that the host is watched for, or that run while a checkpoint is written
    mib: int = 1024  # of the train state that is saved
    out: Path | None = None  # JSON lines are appended here; of an atlas its folder
    device_report: Path | None = None  # with --atlas: a folder for what a GPU or TPU really does
    limit_seconds: float = 300.0  # for a row of a device report

    def __post_init__(self) -> None:
        if self.atlas:
            object.__setattr__(self, "what", "atlas")
        if self.device_report is not None and self.what != "atlas":
            raise ValueError("--device-report DIR is of the atlas; give --atlas too")
        if self.what == "atlas" and min(self.lengths, default=0) < STEPS:
            raise ValueError(
                f"an atlas times {STEPS} steps of a stream, so lengths are at least that; got "
                f"{self.lengths}"
            )
        if min(self.lengths, default=1) < 1:
            raise ValueError(f"lengths are tokens, at least 1; got {self.lengths}")
        if min(self.batches, default=1) < 1:
            raise ValueError(f"batches are rows, at least 1; got {self.batches}")
        measured = (*self.names, self.baseline)
        for name in measured:
            mixer(self.kind(name))
        for name in self.task_names:
            tasks.kind(name)
        for name in ("batch_size", "d_model", "rounds", "steps", "mib"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        known = dict.fromkeys((*map(short, measured), *MIXERS))
        for name in self.mixer_options:
            if name not in known:
                raise unknown("mixer in --options", name, known)

    @property
    def names(self) -> tuple[str, ...]:
        """The mixers to measure, by their labels where they have some."""
        return tuple(kinds_of(self.models)) if self.models else tuple(MIXERS)

    def kind(self, name: str) -> str:
        """The mixer of a label: `attention` of `fox=attention`."""
        return kinds_of(self.models).get(name, name)

    def asked(self, name: str) -> str:
        """How `--models` asks for it."""
        kind = self.kind(name)
        return name if kind == name else f"{name}={kind}"

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks whose data is made, by default all that only make theirs."""
        if self.tasks:
            return tuple(name.strip() for name in self.tasks.split(","))
        made = (GeneratedTask, MQAR)
        return tuple(name for name, task in tasks.TASKS.items() if issubclass(task, made))

    @property
    def mixer_options(self) -> dict[str, dict[str, Any]]:
        """Options of each mixer, by its label; of an address under its part after the colon.

        Raises ValueError for what is no such JSON.
        """
        try:
            options = json.loads(self.options)
        except json.JSONDecodeError as error:
            raise ValueError(f"--options is no JSON ({error}); got {self.options!r}") from None
        if not isinstance(options, dict) or not all(isinstance(v, dict) for v in options.values()):
            raise ValueError(f'--options has the form {{"lru": {{}}}}; got {self.options!r}')
        return {short(name): own for name, own in options.items()}

    @property
    def sizes(self) -> dict[str, Any]:
        """What rows that are compared have alike."""
        alike = {"d_model": self.d_model, "dtype": self.dtype, "options": self.mixer_options}
        labels = {name: self.kind(name) for name in self.names if self.kind(name) != name}
        return {**alike, "labels": labels} if labels else alike

    def options_of(self, name: str) -> dict[str, Any]:
        """Those of one mixer."""
        return dict(self.mixer_options.get(short(name), {}))


def kinds_of(models: str) -> dict[str, str]:
    """Label -> mixer of `--models a,b=a`; without one, a mixer is its own label.

    Raises ValueError for a label that is there twice, and for a half of a pair.
    """
    found: dict[str, str] = {}
    for part in models.split(",") if models else ():
        label, equals, name = (word.strip() for word in part.partition("="))
        if equals and not (label.isidentifier() and name):
            raise ValueError(
                f"--models {models!r}: {part.strip()!r} is no mixer; write attention,lru, or "
                "label=mixer"
            )
        if label in found:
            raise ValueError(
                f"--models has {label!r} twice; tell them apart as in a=lru,b=lru, with options "
                "of a and b"
            )
        found[label] = name if equals else label
    return found
