"""The list of mixers and presets.

A mixer is added by one line here and one of tiny options in the tests; the laws then apply to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from seqzoo.models.attention.bigbird import BigBird, BigBirdConfig
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
from seqzoo.models.bidirectional import Bidirectional
from seqzoo.models.errors import unknown
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
from seqzoo.models.mixer import Mixer, MixerConfig, only_both_ways
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


class Entry(NamedTuple):
    """A mixer and the dataclass of its options."""

    config: type[MixerConfig]
    module: type[Mixer]


class Preset(NamedTuple):
    """A pattern of mixers, their options, and the block options that belong to the architecture."""

    pattern: tuple[str, ...]
    options: Mapping[str, Any]  # mixer options; of one mixer only where the value is a mapping
    backbone: Mapping[str, Any]  # fields of BackboneConfig
    source: str


MIXERS: dict[str, Entry] = {
    # attention
    "attention": Entry(AttentionConfig, Attention),
    "local_attention": Entry(LocalAttentionConfig, LocalAttention),
    "sparse_attention": Entry(SparseAttentionConfig, SparseAttention),
    "longformer": Entry(LongformerConfig, Longformer),
    "bigbird": Entry(BigBirdConfig, BigBird),
    "linformer": Entry(LinformerConfig, Linformer),
    "nystromformer": Entry(NystromformerConfig, Nystromformer),
    "fnet": Entry(FNetConfig, FNet),
    "reformer": Entry(ReformerConfig, Reformer),
    "sinkhorn": Entry(SinkhornConfig, Sinkhorn),
    "synthesizer": Entry(SynthesizerConfig, Synthesizer),
    "diag_attention": Entry(DiagAttentionConfig, DiagAttention),
    "gau": Entry(GAUConfig, GAU),
    "flash": Entry(FlashConfig, Flash),
    "transformer_vq": Entry(TransformerVQConfig, TransformerVQ),
    # linear attention
    "linear_attention": Entry(LinearAttentionConfig, LinearAttention),
    "based": Entry(BasedConfig, Based),
    "rebased": Entry(RebasedConfig, Rebased),
    "cosformer": Entry(CosFormerConfig, CosFormer),
    "performer": Entry(PerformerConfig, Performer),
    "norm_attention": Entry(NormAttentionConfig, NormAttention),
    "retnet": Entry(RetNetConfig, RetNet),
    "simple_gla": Entry(SimpleGLAConfig, SimpleGLA),
    "gla": Entry(GLAConfig, GLA),
    "hgrn2": Entry(HGRN2Config, HGRN2),
    "mlstm": Entry(MLSTMConfig, MLSTM),
    "lightning_attention": Entry(LightningAttentionConfig, LightningAttention),
    "rwkv4": Entry(RWKV4Config, RWKV4),
    "rwkv6": Entry(RWKV6Config, RWKV6),
    "rwkv7": Entry(RWKV7Config, RWKV7),
    "deltanet": Entry(DeltaNetConfig, DeltaNet),
    "gated_deltanet": Entry(GatedDeltaNetConfig, GatedDeltaNet),
    "kda": Entry(KimiDeltaAttentionConfig, KimiDeltaAttention),
    "delta_product": Entry(DeltaProductConfig, DeltaProduct),
    # state space
    "hippo": Entry(HippoCellConfig, HippoCell),
    "s4": Entry(S4Config, S4),
    "s4d": Entry(S4DConfig, S4D),
    "dss": Entry(DSSConfig, DSS),
    "s5": Entry(S5Config, S5),
    "lru": Entry(LRUConfig, LRU),
    "mamba": Entry(MambaConfig, Mamba),
    "mamba2": Entry(Mamba2Config, Mamba2),
    "h3": Entry(H3Config, H3),
    "hyena": Entry(HyenaConfig, Hyena),
    "mega": Entry(MegaConfig, Mega),
    # recurrent
    "rnn": Entry(RNNConfig, RNN),
    "lstm": Entry(LSTMConfig, LSTM),
    "slstm": Entry(SLSTMConfig, SLSTM),
    "gru": Entry(GRUConfig, GRU),
    "indrnn": Entry(IndRNNConfig, IndRNN),
    "qrnn": Entry(QRNNConfig, QRNN),
    "sru": Entry(SRUConfig, SRU),
    "min_gru": Entry(MinGRUConfig, MinGRU),
    "min_lstm": Entry(MinLSTMConfig, MinLSTM),
    "rg_lru": Entry(RGLRUConfig, RGLRU),
    "hgrn": Entry(HGRNConfig, HGRN),
}

_RWKV = {"norm": "layer", "norm_eps": 1e-5, "embed_norm": True}  # what the published blocks share

PRESETS: dict[str, Preset] = {
    "transformer": Preset(
        ("attention",),
        {"positions": "none"},
        {"positions": "sinusoidal", "norm": "layer", "feedforward": "mlp", "expansion": 4.0},
        "Vaswani et al. 2017, arXiv:1706.03762, in the pre-norm form of Xiong et al. 2020",
    ),
    "normformer": Preset(
        ("attention",),
        {"positions": "none"},
        {
            "positions": "sinusoidal",
            "norm": "layer",
            "extra_norms": "normformer",
            "feedforward": "mlp",
            "expansion": 4.0,
        },
        "Shleifer et al. 2021, arXiv:2110.09456: the preset transformer with extra_norms",
    ),
    "gpt2": Preset(
        ("attention",),
        {"positions": "none", "use_bias": True},
        {
            "positions": "learned",
            "norm": "layer",
            "norm_eps": 1e-5,
            "feedforward": "mlp",
            "expansion": 4.0,
        },
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    ),
    "bert": Preset(
        ("attention",),
        {"positions": "none", "use_bias": True},
        {
            "positions": "learned",
            "embed_norm": True,
            "norm": "layer",
            "norm_eps": 1e-12,
            "norm_position": "post",
            "feedforward": "gelu",
            "expansion": 4.0,
            "causal": False,
            "pooling": "first",
        },
        "Devlin et al. 2018, arXiv:1810.04805",
    ),
    "t5_encoder": Preset(
        ("attention",),
        {"positions": "t5", "scale": 1.0},
        {
            "norm": "rms",
            "feedforward": "relu",
            "feedforward_bias": False,
            "expansion": 4.0,
            "init": "t5",
            "causal": False,
        },
        "Raffel et al. 2020, arXiv:1910.10683, the encoder",
    ),
    "roformer": Preset(
        ("attention",),
        {"positions": "rope"},
        {"norm": "layer", "norm_position": "post", "feedforward": "mlp", "expansion": 4.0},
        "Su et al. 2021, arXiv:2104.09864",
    ),
    "llama": Preset(
        ("attention",),
        {"positions": "rope"},
        {"norm": "rms", "feedforward": "swiglu", "expansion": 8 / 3},
        "Touvron et al. 2023, arXiv:2302.13971",
    ),
    "griffin": Preset(
        ("rg_lru", "rg_lru", "attention"),
        {"attention": {"num_kv_heads": 1, "window": 1024}},
        {"norm": "rms", "feedforward": "geglu", "expansion": 3.0},
        "De et al. 2024, arXiv:2402.19427: two recurrent blocks and one of local attention",
    ),
    "hawk": Preset(
        ("rg_lru",),
        {},
        {"norm": "rms", "feedforward": "geglu", "expansion": 3.0},
        "De et al. 2024, arXiv:2402.19427",
    ),
    "rwkv4_lm": Preset(
        ("rwkv4",),
        {},
        {**_RWKV, "feedforward": "rwkv", "expansion": 4.0},
        "Peng et al. 2023, arXiv:2305.13048",
    ),
    "rwkv6_lm": Preset(
        ("rwkv6",),
        {},
        {**_RWKV, "feedforward": "rwkv", "expansion": 3.5},
        "Peng et al. 2024, arXiv:2404.05892",
    ),
    "rwkv7_lm": Preset(
        ("rwkv7",),
        {},
        {**_RWKV, "feedforward": "rwkv7", "expansion": 4.0},
        "Peng et al. 2025, arXiv:2503.14456",
    ),
    "xlstm": Preset(
        ("mlstm", "slstm"),
        {},
        {"norm": "rms", "feedforward": "swiglu", "expansion": 8 / 3},
        "Beck et al. 2024, arXiv:2405.04517, xLSTM[1:1] with the feed-forward of arXiv:2503.13427",
    ),
    "flash_quad": Preset(
        ("gau",),
        {"rotary": True},
        {"norm": "layer", "feedforward": "none"},
        "Hua et al. 2022, arXiv:2202.10447: gated attention units are whole blocks",
    ),
    "flash_transformer": Preset(
        ("flash",),
        {},
        {"norm": "layer", "feedforward": "none"},
        "Hua et al. 2022, arXiv:2202.10447: mixed chunk attention",
    ),
    "transformer_vq_normformer": Preset(
        ("transformer_vq",),
        {},
        {"norm": "layer", "extra_norms": "normformer", "feedforward": "mlp", "expansion": 4.0},
        "Lingle 2023, arXiv:2309.16354, in the blocks of Shleifer et al. 2021, arXiv:2110.09456",
    ),
    "transnormer": Preset(
        ("diag_attention", "norm_attention"),
        {},
        {"arrangement": "sections", "norm": "rms", "feedforward": "swiglu", "expansion": 4 / 3},
        "Qin et al. 2022, arXiv:2210.10340 (T2): blocks of softmax in the first half of the layers",
    ),
}


def names() -> tuple[str, ...]:
    """The names of all mixers."""
    return tuple(MIXERS)


def presets() -> tuple[str, ...]:
    """The names of all presets."""
    return tuple(PRESETS)


def mixer_config(name: str, options: Mapping[str, Any] | None = None) -> MixerConfig:
    """The options of the mixer `name`, checked. Raises ValueError for what does not exist."""
    if name not in MIXERS:
        raise unknown("mixer", name, MIXERS)
    config = MIXERS[name].config
    fields = [f.name for f in dataclasses.fields(config)]
    for option in options or {}:
        if option not in fields:
            raise unknown(f"option of {name}", option, fields)
    return config(**(options or {}))


def build(
    name: str,
    d_model: int,
    *,
    rngs: nnx.Rngs,
    causal: bool | None = None,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    bidirectional: Mapping[str, Any] | None = None,
    layer: Any = None,
    **options: Any,
) -> Mixer:
    """The mixer `name` of width `d_model`.

    It is causal by default, unless it has no such form (`Mixer.causal_form`). With `causal=False`
    it looks both ways: natively where the mathematics has it, else as a forward and a backward
    copy; `bidirectional` then holds options of `Bidirectional`, and `shared=True`
    for one set of weights. `layer` = (index, depth) is for architectures that depend on it. Raises
    ValueError for a name, an option or a width that cannot be.
    """
    if not isinstance(d_model, int) or d_model < 1:
        raise ValueError(f"d_model must be a positive integer; got {d_model!r}")
    config = mixer_config(name, options)
    module = MIXERS[name].module
    more = {"dtype": dtype, "param_dtype": param_dtype}
    if getattr(module, "depends_on_layer", False):
        more["layer"] = layer
    causal = module.causal_form if causal is None else causal
    if causal:
        if not module.causal_form:
            only_both_ways(module, causal)
        return config.build(d_model, rngs=rngs, **more)
    if module.looks_both_ways:
        return config.build(d_model, rngs=rngs, causal=False, **more)
    wrap = dict(bidirectional or {})
    forward = config.build(d_model, rngs=rngs, **more)
    backward = None if wrap.pop("shared", False) else config.build(d_model, rngs=rngs, **more)
    return Bidirectional(
        forward, backward, d_model, dtype=dtype, param_dtype=param_dtype, rngs=rngs, **wrap
    )


def resolve(model: str) -> Preset:
    """What `--model` means: a preset, a mixer, or a comma-separated pattern of mixers.

    Raises ValueError for a name that is neither.
    """
    if model in PRESETS:
        return PRESETS[model]
    pattern = tuple(part.strip() for part in model.split(","))
    for name in pattern:
        if name not in MIXERS:
            raise unknown("model", name, (*MIXERS, *PRESETS))
    return Preset(pattern, {}, {}, "")


def pattern_options(
    pattern: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """The options of each mixer of a pattern.

    A value that is a mapping belongs to the mixer of that name; any other goes to every mixer of
    the pattern that has the option. Raises ValueError for an option that no mixer has.
    """
    fields = {n: [f.name for f in dataclasses.fields(MIXERS[n].config)] for n in pattern}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in pattern}
    for option, value in options.items():
        if option in chosen and isinstance(value, Mapping):
            continue
        takers = [name for name in chosen if option in fields[name]]
        if not takers:
            raise unknown(
                f"option of {', '.join(chosen)}", option, {f for n in fields.values() for f in n}
            )
        for name in takers:
            chosen[name][option] = value
    for name in chosen:
        own = options.get(name)
        if isinstance(own, Mapping):
            chosen[name].update(own)
        mixer_config(name, chosen[name])
    return tuple(chosen[name] for name in pattern)
