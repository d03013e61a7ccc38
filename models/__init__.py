"""Sequence models: `from seqzoo.models import Attention, build, build_model`.

Dimension letters, in annotations, einsum strings and suffixes alike: B batch, L length, C tokens of
a chunk, D model width, H heads, K key width, V value width, N state size, W convolution window,
S key positions or cache slots.
"""

from seqzoo.models.attention.softmax import Attention, AttentionConfig
from seqzoo.models.backbone import Backbone, BackboneConfig, Block, Stack, aux_losses
from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.heads import SequenceModel, build_model, default_backbone
from seqzoo.models.linear_attention.linear import LinearAttention, LinearAttentionConfig
from seqzoo.models.mixer import AuxLoss, Context, Mixer, MixerConfig, StreamState
from seqzoo.models.param_groups import param_groups
from seqzoo.models.recurrent.gru import GRU, GRUConfig
from seqzoo.models.recurrent.lstm import LSTM, LSTMConfig
from seqzoo.models.recurrent.rg_lru import RGLRU, RGLRUConfig
from seqzoo.models.recurrent.rnn import RNN, RNNConfig
from seqzoo.models.registry import MIXERS, PRESETS, build, names, presets, resolve
from seqzoo.models.spec import ModelSpec
from seqzoo.models.ssm.lru import LRU, LRUConfig
from seqzoo.models.ssm.mamba import Mamba, MambaConfig
from seqzoo.models.ssm.mamba2 import Mamba2, Mamba2Config
from seqzoo.models.ssm.s4d import S4D, S4DConfig

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "MIXERS",
    "PRESETS",
    "RGLRU",
    "RNN",
    "S4D",
    "Attention",
    "AttentionConfig",
    "AuxLoss",
    "Backbone",
    "BackboneConfig",
    "Bidirectional",
    "Block",
    "Context",
    "GRUConfig",
    "LRUConfig",
    "LSTMConfig",
    "LinearAttention",
    "LinearAttentionConfig",
    "Mamba",
    "Mamba2",
    "Mamba2Config",
    "MambaConfig",
    "Mixer",
    "MixerConfig",
    "ModelSpec",
    "RGLRUConfig",
    "RNNConfig",
    "S4DConfig",
    "SequenceModel",
    "Stack",
    "StreamState",
    "aux_losses",
    "build",
    "build_model",
    "default_backbone",
    "names",
    "param_groups",
    "presets",
    "resolve",
]
