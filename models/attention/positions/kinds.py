"""The encodings of position that softmax attention has, by name, as values and as text.

Attention(16, positions="t5", rngs=rngs)
Attention(16, positions=Rope(base=5e5, scaling="yarn", factor=4.0), rngs=rngs)
Attention(16, positions="rope:base=5e5,scaling=yarn,factor=4", rngs=rngs)       # the same

The text is what flags, presets and saved configurations have: `--mixer.positions rope:base=5e5`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seqzoo.models.attention.positions.deberta import Deberta
from seqzoo.models.attention.positions.encodings import Alibi, Encoding, Rope, XPos
from seqzoo.models.attention.positions.forgetting import Forgetting
from seqzoo.models.attention.positions.relative import T5, Shaw, TransformerXL
from seqzoo.models.config import parsed, typed

KINDS: dict[str, type[Encoding]] = {
    made.kind: made
    for made in (Encoding, Rope, XPos, Alibi, T5, Shaw, TransformerXL, Deberta, Forgetting)
}
AT_EMBEDDING = ("sinusoidal", "learned", "conv")
# What were options of attention itself, and of configurations and flags written then.
FORMER = {
    "rope_base": "base",
    "rope_interleaved": "interleaved",
    "rope_fraction": "fraction",
    "rope_values": "values",
    "rope_scaling": "scaling",
    "rope_factor": "factor",
    "rope_trained_length": "trained_length",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
}


def encoding(given: str | Encoding) -> Encoding:
    """The value that `given` stands for: a name, a name with options, or the value itself.

    Raises ValueError for anything else.
    """
    if isinstance(given, Encoding):
        return given
    kind, options = parsed("positions", given)
    check_positions("attention", kind, KINDS)
    made = KINDS[kind]
    return dataclasses.replace(made(), **_typed(made, options))


def with_former(options: Mapping[str, Any]) -> dict[str, Any]:
    """Attention's options as they are written today, positions as their text (but one's own).

    Options that once stood beside `positions` become part of it; those of another kind of positions
    meant nothing and go. Raises ValueError for values that cannot be.
    """
    now = {name: value for name, value in options.items() if name not in FORMER}
    if len(now) == len(options) and "positions" not in now:
        return now
    made = encoding(now.get("positions", "rope"))
    if KINDS.get(made.kind) is not type(made):
        return now
    own = {field.name for field in dataclasses.fields(made)}
    former = {new: options[old] for old, new in FORMER.items() if old in options and new in own}
    return now | {"positions": str(dataclasses.replace(made, **_typed(type(made), former)))}


def check_positions(mixer: str, positions: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    """Raises ValueError for an encoding that `mixer` cannot have, with the reason."""
    if positions in known:
        return
    have = f"; {mixer} knows: {', '.join(known)}"
    if positions in AT_EMBEDDING:
        raise ValueError(
            f"positions={positions!r} is added to the embedding, for all layers: set the "
            f"backbone's positions={positions!r} and the mixer's positions='none'{have}"
        )
    if positions in KINDS:
        raise ValueError(
            f"positions={positions!r} changes the score of every pair of tokens before a softmax, "
            f"and this mixer never makes those scores{have}"
        )
    raise ValueError(f"unknown positions={positions!r}{have}")


def _typed(kind: type[Encoding], options: Mapping[str, Any]) -> dict[str, Any]:
    return typed(f"positions={kind.kind!r}", kind, options)
