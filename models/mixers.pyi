"""What type checkers read of `mixers.py`; written by `python docs/stubs.py`."""

# ruff: noqa: E501, I001
# fmt: off

from collections.abc import Mapping
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from seqzoo.models.attention.gated.gau import WeightKind
from seqzoo.models.attention.local_attention import PositionKind
from seqzoo.models.attention.positions.encodings import Encoding
from seqzoo.models.attention.softmax import FloatName
from seqzoo.models.linear_attention.norm_attention import NormKind
from seqzoo.models.linear_attention.performer import FavorKind
from seqzoo.models.linear_attention.performer import ProjectionKind
from seqzoo.models.mixer import Mixer
from seqzoo.models.ssm.hippo_cell import Measure
from seqzoo.models.ssm.linoss import Scheme
from seqzoo.models.ssm.long_conv import Filter
from seqzoo.models.ssm.s4d import Init
from seqzoo.models.ssm.s4d import LayerMethod
from seqzoo.models.ssm.s5 import Gate
from typing import Any
from typing import Literal
import seqzoo.models.attention.bigbird
import seqzoo.models.attention.diag_attention
import seqzoo.models.attention.fnet
import seqzoo.models.attention.gated.flash
import seqzoo.models.attention.gated.gau
import seqzoo.models.attention.latent
import seqzoo.models.attention.linformer
import seqzoo.models.attention.local_attention
import seqzoo.models.attention.longformer
import seqzoo.models.attention.nystromformer
import seqzoo.models.attention.reformer
import seqzoo.models.attention.sinkhorn
import seqzoo.models.attention.slots
import seqzoo.models.attention.softmax
import seqzoo.models.attention.sparse.moba
import seqzoo.models.attention.sparse.nsa
import seqzoo.models.attention.sparse.swin
import seqzoo.models.attention.sparse_attention
import seqzoo.models.attention.synthesizer
import seqzoo.models.attention.transformer_vq.mixer
import seqzoo.models.linear_attention.deltanet
import seqzoo.models.linear_attention.fast_weights.titans
import seqzoo.models.linear_attention.fast_weights.ttt
import seqzoo.models.linear_attention.gated_deltanet
import seqzoo.models.linear_attention.gated_deltanet2
import seqzoo.models.linear_attention.gla
import seqzoo.models.linear_attention.hgrn2
import seqzoo.models.linear_attention.lightning
import seqzoo.models.linear_attention.linear
import seqzoo.models.linear_attention.mlstm
import seqzoo.models.linear_attention.norm_attention
import seqzoo.models.linear_attention.performer
import seqzoo.models.linear_attention.retnet
import seqzoo.models.linear_attention.rwkv4
import seqzoo.models.linear_attention.rwkv5
import seqzoo.models.linear_attention.rwkv6
import seqzoo.models.linear_attention.rwkv7
import seqzoo.models.recurrent.elementwise
import seqzoo.models.recurrent.gru
import seqzoo.models.recurrent.hgrn
import seqzoo.models.recurrent.lstm
import seqzoo.models.recurrent.min_rnn
import seqzoo.models.recurrent.rg_lru
import seqzoo.models.recurrent.rnn
import seqzoo.models.recurrent.slstm
import seqzoo.models.ssm.dss
import seqzoo.models.ssm.h3
import seqzoo.models.ssm.hippo_cell
import seqzoo.models.ssm.hyena
import seqzoo.models.ssm.linoss
import seqzoo.models.ssm.long_conv
import seqzoo.models.ssm.longhorn
import seqzoo.models.ssm.lru
import seqzoo.models.ssm.mamba
import seqzoo.models.ssm.mamba2
import seqzoo.models.ssm.mamba3
import seqzoo.models.ssm.mega
import seqzoo.models.ssm.s4
import seqzoo.models.ssm.s4d
import seqzoo.models.ssm.s5
import seqzoo.models.ssm.slice

MIXERS: dict[str, type[Mixer]]

class Attention(seqzoo.models.attention.softmax.Attention):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_kv_heads: int | None = None, d_head: int | None = None, window: int | None = None, positions: str | Encoding = 'rope', qk_norm: bool = False, qk_norm_centered: bool = False, norm_eps: float = 1e-06, output_gate: bool = False, differential: bool = False, d_conv: int = 0, scale: float | None = None, use_bias: bool = False, out_bias: bool | None = None, max_length: int = 2048, cache_dtype: FloatName | None = None, causal: bool | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LatentAttention(seqzoo.models.attention.latent.LatentAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, kv_rank: int | None = None, q_rank: int | None = None, d_nope: int | None = None, d_rope: int | None = None, d_value: int | None = None, rotary: bool = True, rope_base: float = 10000.0, rope_interleaved: bool = True, norm_eps: float = 1e-06, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LocalAttention(seqzoo.models.attention.local_attention.LocalAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, block_size: int = 64, back: int = 1, positions: PositionKind = 'rope', use_bias: bool = False, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class SparseAttention(seqzoo.models.attention.sparse_attention.SparseAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, pattern: Literal['strided', 'fixed'] = 'strided', stride: int = 32, summary: int = 4, positions: PositionKind = 'rope', use_bias: bool = False, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Longformer(seqzoo.models.attention.longformer.Longformer):
    def __init__(self, d_model: int, *, num_heads: int = 4, window: int = 128, global_positions: tuple[int, ...] = (0,), block_size: int | None = None, positions: PositionKind = 'rope', use_bias: bool = False, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class BigBird(seqzoo.models.attention.bigbird.BigBird):
    def __init__(self, d_model: int, *, num_heads: int = 4, block_size: int = 64, back: int = 1, num_random: int = 3, seed: int = 0, positions: PositionKind = 'rope', use_bias: bool = False, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class MoBA(seqzoo.models.attention.sparse.moba.MoBA):
    def __init__(self, d_model: int, *, num_heads: int = 4, block_size: int = 64, top: int = 2, positions: PositionKind = 'rope', use_bias: bool = False, max_length: int = 2048, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class NSA(seqzoo.models.attention.sparse.nsa.NSA):
    def __init__(self, d_model: int, *, num_heads: int = 4, block_size: int = 32, top: int = 4, window: int = 64, positions: PositionKind = 'rope', use_bias: bool = False, max_length: int = 2048, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Swin(seqzoo.models.attention.sparse.swin.Swin):
    def __init__(self, d_model: int, *, num_heads: int = 4, grid_width: int = 32, window: int = 8, shift: int | None = None, use_bias: bool = True, causal: bool | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Linformer(seqzoo.models.attention.linformer.Linformer):
    def __init__(self, d_model: int, *, num_heads: int = 4, rank: int = 64, use_bias: bool = False, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Nystromformer(seqzoo.models.attention.nystromformer.Nystromformer):
    def __init__(self, d_model: int, *, num_heads: int = 4, landmarks: int = 64, iterations: int = 6, conv_width: int = 33, shared_start: bool = False, use_bias: bool = True, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class FNet(seqzoo.models.attention.fnet.FNet):
    def __init__(self, d_model: int, *, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Reformer(seqzoo.models.attention.reformer.Reformer):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_buckets: int = 16, rounds: int = 2, block_size: int = 64, use_bias: bool = False, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Sinkhorn(seqzoo.models.attention.sinkhorn.Sinkhorn):
    def __init__(self, d_model: int, *, num_heads: int = 4, block_size: int = 64, iterations: int = 5, temperature: float = 0.75, positions: PositionKind = 'rope', use_bias: bool = False, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class GSA(seqzoo.models.attention.slots.GSA):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_slots: int = 16, temperature: float = 8.0, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class ABC(seqzoo.models.attention.slots.ABC):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_slots: int = 16, rotary: bool = True, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Synthesizer(seqzoo.models.attention.synthesizer.Synthesizer):
    def __init__(self, d_model: int, *, num_heads: int = 4, kind: Literal['dense', 'random', 'factorized'] = 'dense', rank: int = 8, use_bias: bool = False, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class DiagAttention(seqzoo.models.attention.diag_attention.DiagAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, block_size: int = 64, kind: Literal['softmax', 'relu'] = 'softmax', use_bias: bool = True, norm_eps: float = 1e-06, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class GAU(seqzoo.models.attention.gated.gau.GAU):
    def __init__(self, d_model: int, *, d_qk: int = 128, expansion: float = 2.0, kind: WeightKind = 'squared_relu', rotary: bool = False, relative_bias: bool = True, length: int | None = None, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Flash(seqzoo.models.attention.gated.flash.Flash):
    def __init__(self, d_model: int, *, d_qk: int = 128, expansion: float = 2.0, block_size: int = 256, kind: Literal['squared_relu', 'laplace'] = 'squared_relu', rotary: bool = True, relative_bias: bool = True, shift: bool = False, far: Literal['segment', 'block'] = 'segment', length: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class TransformerVQ(seqzoo.models.attention.transformer_vq.mixer.TransformerVQ):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, num_codes: int = 512, block_size: int = 512, memory: int = 512, compressive: bool = True, commit_weight: float = 0.0001, ema: float = 0.99, position_base: float = 100000.0, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LinearAttention(seqzoo.models.linear_attention.linear.LinearAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, feature_map: Literal['elu+1', 'relu', 'squared_relu'] = 'elu+1', normalize: bool = True, positions: Literal['none', 'rope'] = 'none', rope_base: float = 10000.0, eps: float = 1e-06, chunk_size: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Based(seqzoo.models.linear_attention.linear.Based):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int = 16, normalize: bool = True, eps: float = 1e-06, chunk_size: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Rebased(seqzoo.models.linear_attention.linear.Rebased):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int = 16, normalize: bool = True, eps: float = 1e-06, chunk_size: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class CosFormer(seqzoo.models.linear_attention.linear.CosFormer):
    def __init__(self, d_model: int, *, num_heads: int = 4, horizon: int = 4096, eps: float = 1e-06, chunk_size: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Performer(seqzoo.models.linear_attention.performer.Performer):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_features: int = 64, kind: FavorKind = 'positive', projection: ProjectionKind = 'orthogonal', equal_norms: bool = False, redraw_interval: int = 1000, stabilizer: Literal['running', 'global'] = 'running', feature_eps: float | None = None, eps: float = 1e-06, chunk_size: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class NormAttention(seqzoo.models.linear_attention.norm_attention.NormAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, feature_map: Literal['elu+1', 'elu', 'relu', 'squared_relu'] = 'elu+1', norm: NormKind = 'srms', norm_eps: float = 1e-06, positions: Literal['none', 'lrpe'] = 'none', use_bias: bool = True, chunk_size: int | None = None, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RetNet(seqzoo.models.linear_attention.retnet.RetNet):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, positions: Literal['rope', 'xpos'] = 'rope', rope_base: float = 10000.0, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class SimpleGLA(seqzoo.models.linear_attention.gla.SimpleGLA):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, temperature: float = 16.0, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class GLA(seqzoo.models.linear_attention.gla.GLA):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, gate_rank: int = 16, temperature: float = 16.0, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class HGRN2(seqzoo.models.linear_attention.hgrn2.HGRN2):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, lower_bound: float | None = None, learned_bound: bool = False, norm_eps: float = 1e-05, chunk_size: int | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class MLSTM(seqzoo.models.linear_attention.mlstm.MLSTM):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, gate_cap: float | None = 15.0, norm_eps: float = 1e-06, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LightningAttention(seqzoo.models.linear_attention.lightning.LightningAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_head: int | None = None, norm_eps: float = 1e-05, chunk_size: int | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RWKV4(seqzoo.models.linear_attention.rwkv4.RWKV4):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, share_of_now: bool = False, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RWKV5(seqzoo.models.linear_attention.rwkv5.RWKV5):
    def __init__(self, d_model: int, *, num_heads: int = 4, norm_eps: float = 0.00064, chunk_size: int | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RWKV6(seqzoo.models.linear_attention.rwkv6.RWKV6):
    def __init__(self, d_model: int, *, num_heads: int = 4, mix_rank: int = 32, decay_rank: int = 64, norm_eps: float = 0.00064, chunk_size: int | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RWKV7(seqzoo.models.linear_attention.rwkv7.RWKV7):
    def __init__(self, d_model: int, *, num_heads: int = 4, decay_rank: int = 64, value_rank: int = 32, gate_rank: int = 128, norm_eps: float = 0.00064, chunk_size: int | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class DeltaNet(seqzoo.models.linear_attention.deltanet.DeltaNet):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, d_conv: int = 4, allow_negative_eigenvalues: bool = False, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class GatedDeltaNet(seqzoo.models.linear_attention.gated_deltanet.GatedDeltaNet):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_value_heads: int | None = None, d_key: int | None = None, d_value: int | None = None, d_conv: int = 4, allow_negative_eigenvalues: bool = False, levels: int = 0, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class GatedDeltaNet2(seqzoo.models.linear_attention.gated_deltanet2.GatedDeltaNet2):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, d_conv: int = 4, allow_negative_eigenvalues: bool = False, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Comba(seqzoo.models.linear_attention.gated_deltanet2.Comba):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_value_heads: int | None = None, d_key: int | None = None, d_value: int | None = None, d_conv: int = 4, correction: float = 1.0, allow_negative_eigenvalues: bool = False, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class KimiDeltaAttention(seqzoo.models.linear_attention.gated_deltanet.KimiDeltaAttention):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_key: int | None = None, d_value: int | None = None, d_conv: int = 4, allow_negative_eigenvalues: bool = False, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class DeltaProduct(seqzoo.models.linear_attention.deltanet.DeltaProduct):
    def __init__(self, d_model: int, *, num_heads: int = 4, num_householders: int = 2, d_key: int | None = None, d_value: int | None = None, d_conv: int = 4, allow_negative_eigenvalues: bool = True, gated: bool = False, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class TTT(seqzoo.models.linear_attention.fast_weights.ttt.TTT):
    def __init__(self, d_model: int, *, num_heads: int = 4, batch_size: int = 16, base_lr: float = 1.0, norm_eps: float = 1e-06, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Titans(seqzoo.models.linear_attention.fast_weights.titans.Titans):
    def __init__(self, d_model: int, *, num_heads: int = 4, depth: int = 2, expansion: float = 1.0, batch_size: int = 16, base_lr: float = 1.0, d_conv: int = 4, norm_eps: float = 1e-05, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class HippoCell(seqzoo.models.ssm.hippo_cell.HippoCell):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, d_state: int = 64, memories: int = 1, measure: Measure = 'legs', window: float = 256.0, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class S4(seqzoo.models.ssm.s4.S4):
    def __init__(self, d_model: int, *, d_state: int = 64, measure: Measure = 'legs', dt_min: float = 0.001, dt_max: float = 0.1, step_rescale: float = 1.0, gate: bool = True, chunk_size: int = 64, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class S4D(seqzoo.models.ssm.s4d.S4D):
    def __init__(self, d_model: int, *, d_state: int = 64, init: Init = 'lin', discretization: LayerMethod = 'zoh', dt_min: float = 0.001, dt_max: float = 0.1, step_rescale: float = 1.0, gate: bool = True, chunk_size: int = 32, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class DSS(seqzoo.models.ssm.dss.DSS):
    def __init__(self, d_model: int, *, d_state: int = 64, kernel: Literal['softmax', 'exp'] = 'softmax', length: int = 1024, dt_min: float = 0.001, dt_max: float = 0.1, step_rescale: float = 1.0, gate: bool = True, chunk_size: int = 32, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class S5(seqzoo.models.ssm.s5.S5):
    def __init__(self, d_model: int, *, d_state: int = 64, num_blocks: int = 1, conj_sym: bool = True, discretization: LayerMethod = 'zoh', clip_eigs: bool = False, dt_min: float = 0.001, dt_max: float = 0.1, step_rescale: float = 1.0, gate: Gate = 'half_glu1', causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LRU(seqzoo.models.ssm.lru.LRU):
    def __init__(self, d_model: int, *, d_state: int = 64, r_min: float = 0.0, r_max: float = 0.99, max_phase: float = 6.283185307179586, normalize: bool = True, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LinOSS(seqzoo.models.ssm.linoss.LinOSS):
    def __init__(self, d_model: int, *, d_state: int = 64, kind: Scheme = 'imex', r_min: float = 0.9, r_max: float = 1.0, gate: bool = True, chunk_size: int = 32, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Mamba(seqzoo.models.ssm.mamba.Mamba):
    def __init__(self, d_model: int, *, d_state: int = 16, expand: int = 2, d_conv: int = 4, dt_rank: int | None = None, dt_min: float = 0.001, dt_max: float = 0.1, use_bias: bool = False, conv_bias: bool = True, inner_norm: bool = False, inner_scale: bool = False, norm_eps: float = 1e-06, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Mamba2(seqzoo.models.ssm.mamba2.Mamba2):
    def __init__(self, d_model: int, *, d_state: int = 64, expand: int = 2, d_head: int | None = None, num_groups: int = 1, d_conv: int = 4, dt_min: float = 0.001, dt_max: float = 0.1, dt_limit: tuple[float, float] | None = None, norm: bool = True, norm_before_gate: bool = False, norm_eps: float = 1e-05, use_bias: bool = False, conv_bias: bool = True, levels: int = 0, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Mamba3(seqzoo.models.ssm.mamba3.Mamba3):
    def __init__(self, d_model: int, *, d_state: int = 64, expand: int = 2, d_head: int | None = None, num_groups: int = 1, rank: int = 1, rope_fraction: float = 0.5, dt_min: float = 0.001, dt_max: float = 0.1, norm_eps: float = 1e-05, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Longhorn(seqzoo.models.ssm.longhorn.Longhorn):
    def __init__(self, d_model: int, *, d_state: int = 16, expand: int = 2, d_conv: int = 4, dt_rank: int | None = None, beta_min: float = 0.001, beta_max: float = 0.1, use_bias: bool = False, conv_bias: bool = True, chunk_size: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class SLiCE(seqzoo.models.ssm.slice.SLiCE):
    def __init__(self, d_model: int, *, d_state: int | None = None, block_size: int = 4, step: float = 0.025, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class H3(seqzoo.models.ssm.h3.H3):
    def __init__(self, d_model: int, *, d_state: int = 64, d_shift: int = 64, d_head: int = 1, init: Init = 'lin', dt_min: float = 0.001, dt_max: float = 0.1, step_rescale: float = 1.0, chunk_size: int = 32, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Hyena(seqzoo.models.ssm.hyena.Hyena):
    def __init__(self, d_model: int, *, order: int = 2, d_conv: int = 3, filter_width: int = 64, filter_bands: int = 1, frequency: float = 10.0, max_length: int = 2048, unit: int | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LongConv(seqzoo.models.ssm.long_conv.LongConv):
    def __init__(self, d_model: int, *, kind: Filter = 'free', max_length: int = 2048, squash: float = 0.003, width: int = 32, gate: bool = True, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class Mega(seqzoo.models.ssm.mega.Mega):
    def __init__(self, d_model: int, *, d_qk: int = 64, expansion: float = 2.0, averages: int = 16, kind: Literal['laplace', 'softmax'] = 'laplace', block_size: int | None = None, max_length: int = 2048, causal: bool | None = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RNN(seqzoo.models.recurrent.rnn.RNN):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, activation: Literal['tanh', 'relu'] = 'tanh', dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class LSTM(seqzoo.models.recurrent.lstm.LSTM):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, d_proj: int | None = None, peephole: bool = False, forget_bias: float = 1.0, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class SLSTM(seqzoo.models.recurrent.slstm.SLSTM):
    def __init__(self, d_model: int, *, num_heads: int = 4, d_conv: int = 4, norm_eps: float = 1e-05, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class GRU(seqzoo.models.recurrent.gru.GRU):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, reset_after: bool = True, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class IndRNN(seqzoo.models.recurrent.elementwise.IndRNN):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, activation: Literal['relu', 'tanh'] = 'relu', growth: float = 2.0, length: int = 2048, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class QRNN(seqzoo.models.recurrent.elementwise.QRNN):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, width: int = 2, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class SRU(seqzoo.models.recurrent.elementwise.SRU):
    def __init__(self, d_model: int, *, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class MinGRU(seqzoo.models.recurrent.min_rnn.MinGRU):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, positive: bool = True, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class MinLSTM(seqzoo.models.recurrent.min_rnn.MinLSTM):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, positive: bool = True, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class RGLRU(seqzoo.models.recurrent.rg_lru.RGLRU):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, num_blocks: int = 4, d_conv: int = 4, decay_min: float = 0.9, decay_max: float = 0.999, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...

class HGRN(seqzoo.models.recurrent.hgrn.HGRN):
    def __init__(self, d_model: int, *, d_hidden: int | None = None, lower_bound: float | None = None, layer: Any = None, dtype: DTypeLike = ..., param_dtype: DTypeLike = ..., rngs: nnx.Rngs | Array, causal: bool | None = None, bidirectional: Mapping[str, Any] | None = None) -> None: ...
