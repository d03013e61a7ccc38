"""The model of a name: a mixer, a preset or a pattern, for what a task asks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from flax import nnx

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.registry import mixer, resolve
from seqzoo.models.spec import ModelSpec
from seqzoo.models.whole.sequence_model import SequenceModel


def build_model(
    spec: ModelSpec,
    model: str,
    backbone: BackboneConfig | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    rngs: nnx.Rngs,
) -> SequenceModel:
    """The model `model` (a mixer, a preset, or a comma-separated pattern) for a task's `spec`.

    Where it is a preset and `backbone` is None, the preset's block options apply; `options` are
    mixer options on top of the preset's. Raises ValueError for what does not exist or fit.
    """
    preset = resolve(model)
    backbone = default_backbone(model) if backbone is None else backbone
    return SequenceModel(
        spec, preset.pattern, backbone, {**preset.options, **(options or {})}, rngs=rngs
    )


def default_backbone(model: str) -> BackboneConfig:
    """The block options that belong to `model`: a preset's, or the defaults."""
    preset = resolve(model)
    causal = all(mixer(name).causal_form for name in preset.pattern)
    config = BackboneConfig(depth=max(2, len(preset.pattern)), causal=causal)
    return dataclasses.replace(config, **preset.backbone)
