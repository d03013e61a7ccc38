"""Sequence models: `from seqzoo.models import Attention, build, build_model`.

Dimension letters, in annotations, einsum strings and suffixes alike: B batch, L length, C tokens of
a chunk, D model width, H heads, K key width, V value width, N state size, W convolution window,
S key positions or cache slots.
"""

from seqzoo.models.attention.bigbird import BigBird, BigBirdConfig
from seqzoo.models.attention.cross import CrossAttention, CrossMixer
from seqzoo.models.attention.diag_attention import DiagAttention, DiagAttentionConfig
from seqzoo.models.attention.fnet import FNet, FNetConfig
from seqzoo.models.attention.gau import GAU, Flash, FlashConfig, GAUConfig
from seqzoo.models.attention.linformer import Linformer, LinformerConfig
from seqzoo.models.attention.local_attention import LocalAttention, LocalAttentionConfig
from seqzoo.models.attention.longformer import Longformer, LongformerConfig
from seqzoo.models.attention.nystromformer import Nystromformer, NystromformerConfig
from seqzoo.models.attention.reformer import Reformer, ReformerConfig
from seqzoo.models.attention.sinkhorn import Sinkhorn, SinkhornConfig
from seqzoo.models.attention.softmax import Attention, AttentionConfig
from seqzoo.models.attention.sparse_attention import SparseAttention, SparseAttentionConfig
from seqzoo.models.attention.synthesizer import Synthesizer, SynthesizerConfig
from seqzoo.models.attention.transformer_vq import TransformerVQ, TransformerVQConfig
from seqzoo.models.backbone import Backbone, BackboneConfig, Block, Stack, aux_losses
from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.heads import SequenceModel, build_model, default_backbone
from seqzoo.models.linear_attention.deltanet import (
    DeltaNet,
    DeltaNetConfig,
    DeltaProduct,
    DeltaProductConfig,
)
from seqzoo.models.linear_attention.gated_deltanet import (
    GatedDeltaNet,
    GatedDeltaNetConfig,
    KimiDeltaAttention,
    KimiDeltaAttentionConfig,
)
from seqzoo.models.linear_attention.gla import GLA, GLAConfig, SimpleGLA, SimpleGLAConfig
from seqzoo.models.linear_attention.hgrn2 import HGRN2, HGRN2Config
from seqzoo.models.linear_attention.lightning import LightningAttention, LightningAttentionConfig
from seqzoo.models.linear_attention.linear import (
    Based,
    BasedConfig,
    CosFormer,
    CosFormerConfig,
    LinearAttention,
    LinearAttentionConfig,
    Rebased,
    RebasedConfig,
)
from seqzoo.models.linear_attention.mlstm import MLSTM, MLSTMConfig
from seqzoo.models.linear_attention.norm_attention import NormAttention, NormAttentionConfig
from seqzoo.models.linear_attention.performer import Performer, PerformerConfig
from seqzoo.models.linear_attention.retnet import RetNet, RetNetConfig
from seqzoo.models.linear_attention.rwkv4 import RWKV4, RWKV4Config
from seqzoo.models.linear_attention.rwkv6 import RWKV6, RWKV6Config
from seqzoo.models.linear_attention.rwkv7 import RWKV7, RWKV7Config
from seqzoo.models.mixer import AuxLoss, Context, Mixer, MixerConfig, StreamState
from seqzoo.models.param_groups import param_groups
from seqzoo.models.recurrent.elementwise import (
    QRNN,
    SRU,
    IndRNN,
    IndRNNConfig,
    QRNNConfig,
    SRUConfig,
)
from seqzoo.models.recurrent.gru import GRU, GRUConfig
from seqzoo.models.recurrent.hgrn import HGRN, HGRNConfig
from seqzoo.models.recurrent.lstm import LSTM, LSTMConfig
from seqzoo.models.recurrent.min_rnn import MinGRU, MinGRUConfig, MinLSTM, MinLSTMConfig
from seqzoo.models.recurrent.rg_lru import RGLRU, RGLRUConfig
from seqzoo.models.recurrent.rnn import RNN, RNNConfig
from seqzoo.models.recurrent.slstm import SLSTM, SLSTMConfig
from seqzoo.models.registry import MIXERS, PRESETS, build, names, presets, resolve
from seqzoo.models.sampling import draw, sample
from seqzoo.models.spec import ModelSpec
from seqzoo.models.ssm.dss import DSS, DSSConfig
from seqzoo.models.ssm.h3 import H3, H3Config
from seqzoo.models.ssm.hippo_cell import HippoCell, HippoCellConfig
from seqzoo.models.ssm.hyena import Hyena, HyenaConfig
from seqzoo.models.ssm.lru import LRU, LRUConfig
from seqzoo.models.ssm.mamba import Mamba, MambaConfig
from seqzoo.models.ssm.mamba2 import Mamba2, Mamba2Config
from seqzoo.models.ssm.mega import Mega, MegaConfig
from seqzoo.models.ssm.s4 import S4, S4Config
from seqzoo.models.ssm.s4d import S4D, S4DConfig
from seqzoo.models.ssm.s5 import S5, S5Config

__all__ = [
    "DSS",
    "GAU",
    "GLA",
    "GRU",
    "H3",
    "HGRN",
    "HGRN2",
    "LRU",
    "LSTM",
    "MIXERS",
    "MLSTM",
    "PRESETS",
    "QRNN",
    "RGLRU",
    "RNN",
    "RWKV4",
    "RWKV6",
    "RWKV7",
    "S4",
    "S4D",
    "S5",
    "SLSTM",
    "SRU",
    "Attention",
    "AttentionConfig",
    "AuxLoss",
    "Backbone",
    "BackboneConfig",
    "Based",
    "BasedConfig",
    "Bidirectional",
    "BigBird",
    "BigBirdConfig",
    "Block",
    "Context",
    "CosFormer",
    "CosFormerConfig",
    "CrossAttention",
    "CrossMixer",
    "DSSConfig",
    "DeltaNet",
    "DeltaNetConfig",
    "DeltaProduct",
    "DeltaProductConfig",
    "DiagAttention",
    "DiagAttentionConfig",
    "FNet",
    "FNetConfig",
    "Flash",
    "FlashConfig",
    "GAUConfig",
    "GLAConfig",
    "GRUConfig",
    "GatedDeltaNet",
    "GatedDeltaNetConfig",
    "H3Config",
    "HGRN2Config",
    "HGRNConfig",
    "HippoCell",
    "HippoCellConfig",
    "Hyena",
    "HyenaConfig",
    "IndRNN",
    "IndRNNConfig",
    "KimiDeltaAttention",
    "KimiDeltaAttentionConfig",
    "LRUConfig",
    "LSTMConfig",
    "LightningAttention",
    "LightningAttentionConfig",
    "LinearAttention",
    "LinearAttentionConfig",
    "Linformer",
    "LinformerConfig",
    "LocalAttention",
    "LocalAttentionConfig",
    "Longformer",
    "LongformerConfig",
    "MLSTMConfig",
    "Mamba",
    "Mamba2",
    "Mamba2Config",
    "MambaConfig",
    "Mega",
    "MegaConfig",
    "MinGRU",
    "MinGRUConfig",
    "MinLSTM",
    "MinLSTMConfig",
    "Mixer",
    "MixerConfig",
    "ModelSpec",
    "NormAttention",
    "NormAttentionConfig",
    "Nystromformer",
    "NystromformerConfig",
    "Performer",
    "PerformerConfig",
    "QRNNConfig",
    "RGLRUConfig",
    "RNNConfig",
    "RWKV4Config",
    "RWKV6Config",
    "RWKV7Config",
    "Rebased",
    "RebasedConfig",
    "Reformer",
    "ReformerConfig",
    "RetNet",
    "RetNetConfig",
    "S4Config",
    "S4DConfig",
    "S5Config",
    "SLSTMConfig",
    "SRUConfig",
    "SequenceModel",
    "SimpleGLA",
    "SimpleGLAConfig",
    "Sinkhorn",
    "SinkhornConfig",
    "SparseAttention",
    "SparseAttentionConfig",
    "Stack",
    "StreamState",
    "Synthesizer",
    "SynthesizerConfig",
    "TransformerVQ",
    "TransformerVQConfig",
    "aux_losses",
    "build",
    "build_model",
    "default_backbone",
    "draw",
    "names",
    "param_groups",
    "presets",
    "resolve",
    "sample",
]
