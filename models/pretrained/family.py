"""What a family of published models is made of: a translation of its config, and a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqzoo.models.attention.positions import Rope
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import Rule
from seqzoo.models.spec import ModelSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Translation:
    """A config in our terms, and the table of names for it."""

    vocab: int
    length: int  # most tokens of a row
    pattern: tuple[str, ...]
    backbone: BackboneConfig
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decoder: BackboneConfig | None = None  # of an encoder-decoder
    writing: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # and what else it has
    rules: Sequence[Rule]
    # Names in other checkpoints of the family -> in the table, as patterns and replacements.
    renamed: Sequence[tuple[str, str]] = ()
    unused: Sequence[str] = ()  # patterns of tensors that this model does not need
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)  # a copy -> of which tensor
    # Tensors that follow from the config, and what makes them: checked in loading, written in
    # saving.
    derived: Mapping[str, Callable[[], np.ndarray]] = dataclasses.field(default_factory=dict)

    def spec(self) -> ModelSpec:
        """A language model's."""
        return ModelSpec(head="lm", vocab_size=self.vocab, outputs=self.vocab, length=self.length)


Translate = Callable[[Keys], Translation]

# Activations of the library -> our feed-forwards with one, plain and gated.
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "mlp", "gelu_pytorch_tanh": "mlp", "relu": "relu"}
GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}


def rope(keys: Keys, d_head: int, *, base: float = 10000.0, share: float = 1.0) -> dict[str, Any]:
    """Options of rotary attention from either way in which configs tell them.

    `base` and `share`: where the config says nothing. Raises ValueError for a kind of scaling that
    is not handled.
    """
    given = keys.sub("rope_parameters", None)
    old = keys.sub("rope_scaling", None)
    theta = keys.number("rope_theta", base)
    share = keys.number("partial_rotary_factor", share)
    given = given or old
    scaling: dict[str, Any] = {}
    if given is not None:
        theta = given.number("rope_theta", theta)
        share = given.number("partial_rotary_factor", share)
        scaling = _scaling(given, keys)
        given.finish()
    if int(d_head * share) % 2 or not 0 < share <= 1:
        raise ValueError(
            f"{keys.where}: a share {share} of heads of width {d_head} cannot be rotated in pairs"
        )
    return {"positions": str(Rope(base=theta, fraction=share, **scaling))}


def _scaling(given: Keys, keys: Keys) -> dict[str, Any]:
    kinds = {k: k for k in ("linear", "llama3", "yarn")} | {"default": None}
    name = "rope_type" if "rope_type" in given.config else "type"
    kind = given.choice(name, kinds, "default")
    given.ignore("rope_type", "type")
    if kind is None:
        return {}
    options = {"scaling": kind, "factor": given.number("factor")}
    if kind == "linear":
        return options
    trained = given.size("original_max_position_embeddings", None)
    options["trained_length"] = trained or keys.size("max_position_embeddings")
    if kind == "llama3":
        given.fixed(low_freq_factor=1.0, high_freq_factor=4.0)
    else:
        given.fixed(beta_fast=32, beta_slow=1)
    return options
