"""Named protocols of Long Range Arena: what a published number was measured with.

Tokenisation, length, pooling, split and model selection belong to a protocol; numbers of two
protocols do not belong in one table. A task's options that a protocol settles are None by default
(the protocol's value); they may be given where `protocol` is "own". What no protocol here covers:
the two-tower head is S4's, and splits that the original does not store are drawn here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from seqzoo.models.spec import Pooling
from seqzoo.tasks.task import Selection, Task

ProtocolName = Literal["google2020", "s4", "nystrom-small", "pretrain-finetune", "own"]
OWN = "own"
Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to measure, with what it settles of each task."""

    source: str
    selection: Selection  # which step's model is tested
    selects: str  # the same in words, of the source
    listops: Settings
    text: Settings
    retrieval: Settings
    image: Settings
    pathfinder: Settings
    # What pretraining hides of each task; not empty: numbers from scratch are not of this protocol.
    masked: Mapping[str, float] = dataclasses.field(default_factory=dict)


_CLS = {"pooling": "cls"}  # a learned token in front, read out
_MEAN = {"pooling": "mean"}
_S4: dict[str, Settings] = {
    "listops": {"length": 2048, "end": True, **_MEAN},
    "text": {"unit": "characters", "length": 4096, "vocab_size": 135, "min_count": 15, **_MEAN},
    "retrieval": {"unit": "characters", "length": 4000, "vocab_size": 98, "min_count": 1, **_MEAN},
    "image": {"pixels": "continuous", "grey": "pil", **_MEAN},
    "pathfinder": {"pixels": "continuous", **_MEAN},
}


def _tokens(pooling: Settings) -> dict[str, Settings]:
    bytes_ = {"unit": "bytes", "length": 4000, "vocab_size": 257, "min_count": 1}
    return {
        "listops": {"length": 2000, "end": False, **pooling},
        "text": {**bytes_, **pooling},
        "retrieval": {**bytes_, **pooling},
        "image": {"pixels": "tokens", "grey": "tensorflow", **pooling},
        "pathfinder": {"pixels": "tokens", **_MEAN},
    }


PROTOCOLS: dict[str, Protocol] = {
    "google2020": Protocol(
        "Tay et al. 2020, arXiv 2011.04006, and its code; Text at 4000 bytes, as in its table",
        "last",
        "not stated; here the last step",
        **_tokens(_CLS),
    ),
    "s4": Protocol(
        "Gu et al. 2022, arXiv 2111.00396, and later state-space models",
        "best",
        "best validation, which for Text is the test split",
        **_S4,
    ),
    "nystrom-small": Protocol(
        "Xiong et al. 2021, arXiv 2102.03902: two layers of width 64",
        "best",
        "best validation",
        **_tokens(_MEAN),
    ),
    "pretrain-finetune": Protocol(
        "Amos et al. 2023, arXiv 2310.02980: pretrained on the task's own inputs",
        "best",
        "best validation, which for Text is the test split",
        **_S4,
        masked={"listops": 0.1, "text": 0.15, "retrieval": 0.15, "image": 0.5, "pathfinder": 0.5},
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProtocolTask(Task):
    """A task of Long Range Arena, with the options that protocols settle."""

    family: ClassVar[str]  # its name among the protocols' settings
    settled: ClassVar[tuple[str, ...]]  # fields that a protocol settles
    own: ClassVar[Settings] = {}  # what is not given has these values where protocol is own

    protocol: ProtocolName = "s4"  # own: choose what the others settle
    pooling: Literal["mean", "last", "cls"] | None = None  # None: the protocol's, as below

    def __post_init__(self) -> None:
        if self.protocol != OWN and self.protocol not in PROTOCOLS:
            raise ValueError(
                f"task {self.name}: unknown protocol {self.protocol!r}; valid: "
                f"{', '.join((*PROTOCOLS, OWN))}"
            )
        settings = self._settings
        for field in self.settled if self.protocol != OWN else ():
            given = getattr(self, field)
            if given is not None and given != settings[field]:
                raise ValueError(
                    f"task {self.name}: {field}={given!r} is not of protocol {self.protocol} "
                    f"({settings[field]!r}); with protocol='own' it may be chosen, and the numbers "
                    "belong to no published table"
                )

    def setting(self, field: str) -> Any:
        """The value of an option: the given one, else the protocol's (own: the task's, or s4's)."""
        given = getattr(self, field)
        return self._settings[field] if given is None else given

    @property
    def _settings(self) -> Settings:
        if self.protocol == OWN:
            return {**getattr(PROTOCOLS["s4"], self.family), **self.own}
        return getattr(PROTOCOLS[self.protocol], self.family)

    @property
    def selection(self) -> Selection:
        """The protocol's; the last step where protocol is own."""
        return "last" if self.protocol == OWN else PROTOCOLS[self.protocol].selection

    @property
    def pretrained(self) -> bool:
        """Whether the protocol fine-tunes."""
        return self.protocol != OWN and bool(PROTOCOLS[self.protocol].masked)

    @property
    def cls(self) -> bool:
        """Whether a learned token stands in front."""
        return self.setting("pooling") == "cls"

    @property
    def _pooling(self) -> Pooling | None:
        return "first" if self.cls else self.setting("pooling")

    @property
    def notes(self) -> tuple[str, ...]:
        """The protocol, and where our measurement differs."""
        if self.protocol == OWN:
            return ("Protocol: own; the numbers belong to no published table.",)
        protocol = PROTOCOLS[self.protocol]
        return (f"Protocol: {self.protocol} ({protocol.source}); it tests: {protocol.selects}.",)
