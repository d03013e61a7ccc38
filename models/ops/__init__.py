"""The primitives: pure functions on arrays [B, L, ...], the same in training and streaming.

All take `segment_ids` (integers, 0 at padding, or a `Segments`) where there is a recurrence or a
convolution, are differentiable in everything, and work in float64 under `jax_enable_x64`.
"""

from seqzoo.models.ops.attention import attention
from seqzoo.models.ops.dense_ssm import dense_ssm
from seqzoo.models.ops.diagonal_ssm import diagonal_ssm
from seqzoo.models.ops.dplr_delta_rule import dplr_delta_rule
from seqzoo.models.ops.feature_maps import favor_features, random_projection
from seqzoo.models.ops.fft_conv import fft_conv
from seqzoo.models.ops.gated_delta_rule import gated_delta_rule
from seqzoo.models.ops.gated_linear_attention import gated_linear_attention
from seqzoo.models.ops.kernel_sums import kernel_sums
from seqzoo.models.ops.linear_scan import linear_scan
from seqzoo.models.ops.nonlinear_scan import nonlinear_scan
from seqzoo.models.ops.rope import rope
from seqzoo.models.ops.segments import Segments, segments
from seqzoo.models.ops.selective_scan import selective_scan
from seqzoo.models.ops.short_conv import short_conv

__all__ = [
    "Segments",
    "attention",
    "dense_ssm",
    "diagonal_ssm",
    "dplr_delta_rule",
    "favor_features",
    "fft_conv",
    "gated_delta_rule",
    "gated_linear_attention",
    "kernel_sums",
    "linear_scan",
    "nonlinear_scan",
    "random_projection",
    "rope",
    "segments",
    "selective_scan",
    "short_conv",
]
