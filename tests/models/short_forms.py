"""Lengths at which an op takes another form, shrunk so that the laws' rows reach it.

Users' rows are worked off in blocks and chunks; rows of 13 tokens would fit into one. The numbers
are read when a function is traced, so nothing compiled before may be left in JAX's caches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import pytest

from seqzoo.models import mixture
from seqzoo.models.attention import gau, sparse_parts, transformer_vq
from seqzoo.models.ops.conv import fft
from seqzoo.models.ops.matrix import decayed_pairs, gated_linear, triangular
from seqzoo.models.ops.scan import nonlinear, selective
from seqzoo.models.ops.softmax import attention, block_sparse, blockwise
from seqzoo.models.ssm import mega

SHORT = (
    (attention, "DENSE_LENGTH", 4),
    (attention, "DENSE_QUERIES", 4),  # chunks of 5 go in blocks, steps do not
    (blockwise, "BLOCKS", {"small blocks": 4, "large blocks": 8}),
    (blockwise, "LONG", 2),
    (blockwise, "HALVED", 2**4),
    (block_sparse, "GROUP", 4),
    (sparse_parts, "STREAM_GROUP", 2),
    (gau, "QUERIES", 4),
    (mega, "QUERIES", 4),
    (transformer_vq, "QUERIES", 4),
    (mixture, "BLOCK", 4),
    (fft, "DIRECT", 4),
    (triangular, "BLOCK", 2),
    (gated_linear, "WRITTEN_OUT", 2),
    (gated_linear, "VECTOR", 4),
    (decayed_pairs, "WRITTEN_OUT", 2),
    (nonlinear, "CHUNK", 4),
    (selective, "CHUNK", 4),
)


@contextlib.contextmanager
def short_forms() -> Iterator[None]:
    """Within it the constants of `SHORT` hold."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SHORT:
            assert hasattr(module, name), f"{module.__name__} has no {name}: where did it go?"
            patch.setattr(module, name, value)
        yield
    jax.clear_caches()
