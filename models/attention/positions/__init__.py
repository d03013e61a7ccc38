"""Encodings of position that softmax attention can have: `Attention(positions=Rope(base=5e5))`."""

from seqzoo.models.attention.positions.deberta import Deberta
from seqzoo.models.attention.positions.encodings import Alibi, Encoding, Rope, XPos
from seqzoo.models.attention.positions.forgetting import Forgetting
from seqzoo.models.attention.positions.kinds import KINDS, encoding
from seqzoo.models.attention.positions.relative import T5, Shaw, TransformerXL

__all__ = [
    "KINDS",
    "T5",
    "Alibi",
    "Deberta",
    "Encoding",
    "Forgetting",
    "Rope",
    "Shaw",
    "TransformerXL",
    "XPos",
    "encoding",
]
