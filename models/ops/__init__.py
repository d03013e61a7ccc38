"""The primitives: pure functions on arrays [B, L, ...], the same in training and streaming.

All take `segment_ids` (integers, 0 at padding, or a `Segments`) where there is a recurrence or a
convolution, have derivatives in everything, forward, reverse and of any order, and work in float64
under `jax_enable_x64`. Rows of 0 tokens leave the state as it is; batches may have 0 rows.
"""

from seqzoo.models.ops.conv.fft import fft_conv
from seqzoo.models.ops.conv.short import short_conv
from seqzoo.models.ops.layout.segments import Segments, ids_from_resets, segments
from seqzoo.models.ops.matrix.delta_rules import dplr_delta_rule, gated_delta_rule
from seqzoo.models.ops.matrix.feature_maps import favor_features, random_projection
from seqzoo.models.ops.matrix.gated_linear import gated_linear_attention
from seqzoo.models.ops.matrix.kernel_attention import kernel_sums
from seqzoo.models.ops.matrix.log_linear import log_linear_attention, log_linear_delta_rule
from seqzoo.models.ops.scan.blocks import block_scan
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.models.ops.scan.nonlinear import nonlinear_scan
from seqzoo.models.ops.scan.selective import selective_scan
from seqzoo.models.ops.softmax.attention import attention
from seqzoo.models.ops.softmax.rope import rope
from seqzoo.models.ops.ssm.dense import dense_ssm
from seqzoo.models.ops.ssm.diagonal import diagonal_ssm

__all__ = [
    "Segments",
    "attention",
    "block_scan",
    "dense_ssm",
    "diagonal_ssm",
    "dplr_delta_rule",
    "favor_features",
    "fft_conv",
    "gated_delta_rule",
    "gated_linear_attention",
    "ids_from_resets",
    "kernel_sums",
    "linear_scan",
    "log_linear_attention",
    "log_linear_delta_rule",
    "nonlinear_scan",
    "random_projection",
    "rope",
    "segments",
    "selective_scan",
    "short_conv",
]
