"""What the tables of hybrids share: experts, kinds of layers, the ends of a decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.family import Translation
from seqzoo.models.pretrained.keys import Keys
from seqzoo.models.pretrained.rules import TRANSPOSED, Rule, linear, split

LAYER = "model.layers.{i}"
TYPES = {"linear_attention": True, "full_attention": False}  # whether a layer is linear


def experts(at: str, router: str = "gate") -> tuple[Rule, ...]:
    """SwiGLU experts: all in two tensors, or each in three under either of two sets of names."""
    ours = "blocks.{i}.ff.experts"
    kernels = {part: f"{ours}.{part}_proj.kernel" for part in ("gate", "up", "down")}
    rows = [
        linear(f"{at}.{router}", "blocks.{i}.ff.router_proj")[0],
        Rule(f"{at}.experts.gate_up_proj", (kernels["gate"], kernels["up"]), split(1)),
        Rule(f"{at}.experts.down_proj", kernels["down"], TRANSPOSED),
    ]
    for names in (("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")):
        for part, name in zip(kernels, names, strict=True):
            rows.append(Rule(f"{at}.experts.{{e}}.{name}.weight", kernels[part], TRANSPOSED))
    return tuple(rows)


def layer_types(
    keys: Keys, depth: int, default: Sequence[str], name: str = "layer_types"
) -> list[bool]:
    """Whether each layer is a linear one. Raises ValueError for other kinds or another number."""
    kinds = keys.raw(name, None)
    kinds = list(default) if kinds is None else kinds
    if not isinstance(kinds, list) or len(kinds) != depth or any(k not in TYPES for k in kinds):
        raise ValueError(
            f"{keys.where}: {name} must name {depth} layers of {', '.join(TYPES)}; got {kinds!r}"
        )
    return [TYPES[kind] for kind in kinds]


def translated(
    keys: Keys,
    vocab: int,
    length: int,
    pattern: tuple[str, ...],
    backbone: BackboneConfig,
    options: Mapping[str, Mapping[str, Any]],
    rules: tuple[Rule, ...],
    *,
    renamed: Sequence[tuple[str, str]] = (),
    **more: Any,
) -> Translation:
    """A hybrid; `vocab` and `length` where the config says nothing, `options` of each mixer."""
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if backbone.tie_embeddings else {}
    return Translation(
        vocab=keys.size("vocab_size", vocab),
        length=keys.size("max_position_embeddings", length),
        pattern=pattern,
        backbone=backbone,
        options={name: own for name, own in options.items() if name in pattern},
        rules=rules,
        renamed=((r"\.block_sparse_moe\.", ".mlp."), *renamed),
        tied=tied,
        **more,
    )
