"""Lengths at which an op takes another form, shrunk so that the laws' rows reach it.

Users' rows are worked off in blocks and chunks; rows of 13 tokens would fit into one. The numbers
are read when a function is traced, so nothing compiled before may be left in JAX's caches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import pytest

from seqzoo.models.attention import sparse_parts
from seqzoo.models.attention.gated import gau
from seqzoo.models.attention.transformer_vq import codebook
from seqzoo.models.ops.conv import fft
from seqzoo.models.ops.layout import cpu
from seqzoo.models.ops.matrix import decayed_pairs, triangular
from seqzoo.models.ops.scan import nonlinear, selective
from seqzoo.models.ops.softmax import attention, block_sparse, blockwise
from seqzoo.models.ssm import mega


class Short(NamedTuple):
    """A constant, what it is in the laws, and who feels it there (a row of `TINY`)."""

    module: ModuleType
    name: str
    value: Any
    felt_by: str
    streaming: bool = False  # felt in chunks, else in rows


SHORT = (
    Short(attention, "DENSE_LENGTH", 4, "attention"),
    Short(attention, "DENSE_QUERIES", 4, "attention", streaming=True),  # not in single steps
    Short(blockwise, "BLOCKS", {"small blocks": 4, "large blocks": 8}, "attention"),
    Short(blockwise, "LONG", 2, "attention", streaming=True),
    Short(cpu, "HALVED", 2**4, "attention"),
    Short(block_sparse, "GROUP", 4, "bigbird"),
    Short(sparse_parts, "STREAM_GROUP", 2, "bigbird", streaming=True),
    Short(gau, "QUERIES", 4, "gau"),
    Short(mega, "QUERIES", 4, "mega"),
    Short(codebook, "QUERIES", 2, "transformer_vq"),
    Short(fft, "DIRECT", 4, "hyena"),
    Short(triangular, "BLOCK", 2, "deltanet"),
    Short(cpu, "VECTOR", 4, "linear_attention"),
    Short(decayed_pairs, "WRITTEN_OUT", 2, "gla"),
    Short(nonlinear, "CHUNK", 4, "indrnn"),
    Short(selective, "CHUNK", 4, "mamba@normed"),
)


@contextlib.contextmanager
def short_forms(constants: Iterable[Short] = SHORT) -> Iterator[None]:
    """Within it these constants are short."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value, *_ in constants:
            assert hasattr(module, name), f"{module.__name__} has no {name}: where did it go?"
            patch.setattr(module, name, value)
        yield
    jax.clear_caches()
