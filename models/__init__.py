"""Sequence models: `from seqzoo.models import Attention, build, build_model`.

Dimension letters, in annotations, einsum strings and suffixes alike: B batch, L length, C tokens of
a chunk, D model width, H heads, K key width, V value width, N state size, W convolution window,
S key positions or cache slots.
"""

# ruff: noqa: F401, F403  (this file is the list of public names; the classes of all mixers too)

from seqzoo.models.attention import positions
from seqzoo.models.attention.cross import CrossAttention, CrossMixer
from seqzoo.models.backbone import Backbone, BackboneConfig, Block, Stack, aux_losses
from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.config import MixerConfig, config_of
from seqzoo.models.foreign.plain import as_mixer
from seqzoo.models.mixer import AuxLoss, Context, Mixer, StreamState
from seqzoo.models.mixers import *
from seqzoo.models.param_groups import param_groups
from seqzoo.models.pretrained import (
    adapt,
    from_pretrained,
    merge_adapters,
    save_pretrained,
)
from seqzoo.models.registry import MIXERS, PRESETS, build, names, presets, resolve
from seqzoo.models.spec import ModelSpec
from seqzoo.models.whole.build import build_model, default_backbone
from seqzoo.models.whole.encoder_decoder import EncoderDecoder
from seqzoo.models.whole.generation import generate
from seqzoo.models.whole.sampling import draw, sample
from seqzoo.models.whole.sequence_model import SequenceModel
