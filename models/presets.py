"""Presets: a pattern of mixers with the block options that belong to an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """A pattern of mixers, their options, and the block options that belong to the architecture."""

    pattern: tuple[str, ...]
    options: Mapping[str, Any]  # mixer options; of one mixer only where the value is a mapping
    backbone: Mapping[str, Any]  # fields of BackboneConfig
    source: str


# Experts of which few are asked, beside one that all tokens have; published models have hundreds.
_EXPERTS = {"feedforward": "moe", "expansion": 0.5, "experts": 16, "experts_per_token": 4}
_LM = {"norm": "rms", "feedforward": "swiglu", "feedforward_bias": False}
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
    "fox": Preset(
        ("attention",),
        {"positions": "forgetting"},
        {"norm": "rms", "feedforward": "swiglu", "expansion": 8 / 3},
        "Lin et al. 2025, arXiv:2503.02130, FoX (LLaMA): forget gates in the place of rotation",
    ),
    "diff_transformer": Preset(
        ("attention",),
        {"positions": "rope", "differential": True, "norm_eps": 1e-5},
        {"norm": "rms", "norm_eps": 1e-5, "feedforward": "swiglu", "expansion": 8 / 3},
        "Ye et al. 2024, arXiv:2410.05258: the preset llama with pairs of heads subtracted",
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
    "jamba": Preset(
        (*("mamba",) * 4, "attention", *("mamba",) * 3),
        {"mamba": {"inner_norm": True, "inner_scale": True}, "attention": {"positions": "none"}},
        {
            **_LM,
            "expansion": 3.5,
            "experts": 16,
            "routing": {"kind": "swiglu", "normalized": False},
            "each": ({}, {"feedforward": "moe"}) * 4,
        },
        "Lieber et al. 2024, arXiv:2403.19887: an eighth is attention, every second block experts",
    ),
    "samba": Preset(
        ("mamba", "attention"),
        {"attention": {"window": 2048}},
        {**_LM, "expansion": 8 / 3},
        "Ren et al. 2024, arXiv:2406.07522: Mamba and attention in a window by turns",
    ),
    "nemotron_h": Preset(
        (*("mamba2",) * 5, "attention"),
        {"attention": {"positions": "none"}},
        {
            **_LM,
            "feedforward": "relu2",
            "expansion": 5.25,
            "each": (*({},) * 4, {"feedforward": "none"}, {}),
        },
        "Nvidia 2025, arXiv:2504.03624: a sixth is attention, with the feed-forward of the block "
        "before",
    ),
    "olmo_hybrid": Preset(
        (*("gated_deltanet",) * 3, "attention"),
        {"gated_deltanet": {"allow_negative_eigenvalues": True}, "attention": {"qk_norm": True}},
        {**_LM, "expansion": 2.875},
        "Ai2 2026, transformers' olmo_hybrid; norms come first in all blocks, also of attention",
    ),
    "qwen3_next": Preset(
        (*("gated_deltanet",) * 3, "attention"),
        {
            "attention": {
                "positions": "rope:base=10000000.0,fraction=0.25",
                "output_gate": True,
                "qk_norm": True,
                "qk_norm_centered": True,
            }
        },
        {
            **_LM,
            **_EXPERTS,
            "norm": "centered_rms",
            "routing": {"kind": "swiglu", "shared": 0.5, "shared_gate": True},
        },
        "Qwen 2025, Qwen3-Next: Gated DeltaNet three to one, attention with a gate, experts",
    ),
    "kimi_linear": Preset(
        (*("kda",) * 3, "mla"),
        {"mla": {"rotary": False}},
        {
            **_LM,
            **_EXPERTS,
            "routing": {"kind": "swiglu", "scores": "sigmoid", "bias": True, "shared": 0.5},
        },
        "Kimi 2025, arXiv:2510.26692: KDA three to one, latent attention without positions",
    ),
    "minimax": Preset(
        (*("lightning_attention",) * 7, "attention"),
        {"attention": {"positions": "rope:base=10000000.0,fraction=0.5"}},
        {
            **_LM,
            **_EXPERTS,
            "experts_per_token": 2,
            "expansion": 1.5,
            "routing": {"kind": "swiglu"},
            "norm_position": "both",
            "skip": 3.5565588,
            "ff_skip": 3.5565588,
        },
        "MiniMax 2025, arXiv:2501.08313: lightning attention seven to one, experts",
    ),
    "log_linear_mamba2": Preset(
        ("mamba2",),
        {"levels": 15},
        {"norm": "rms", "feedforward": "none"},
        "Guo et al. 2025, arXiv:2506.04761: Mamba-2 with a state for each power of two of the past",
    ),
    "log_linear_gated_deltanet": Preset(
        ("gated_deltanet",),
        {"levels": 15},
        {**_LM, "expansion": 8 / 3},
        "Guo et al. 2025, arXiv:2506.04761: Gated DeltaNet with a state for each power of two",
    ),
    "zamba2": Preset(
        (*("mamba2",) * 5, "attention"),
        {},
        {
            **_LM,
            "feedforward": "none",
            "each": (
                *({},) * 5,
                {"tied": True, "feedforward": "geglu", "expansion": 4.0},
            ),
        },
        "Glorioso et al. 2024, arXiv:2411.15242: one block of attention, shared over depth, without"
        " embeddings beside its input and adapters for each place",
    ),
    "falcon_h1": Preset(
        ("mamba2", "attention"),
        {"attention": {"positions": "rope:base=100000000000.0"}},
        {**_LM, "arrangement": "parallel", "expansion": 8 / 3},
        "Zuo et al. 2025, arXiv:2507.22448: Mamba-2 and attention side by side in every block; "
        "without its fixed multipliers",
    ),
    "hymba": Preset(
        ("mamba", "attention"),
        {"attention": {"window": 1024}},
        {**_LM, "arrangement": "parallel", "branch_norm": True, "expansion": 8 / 3},
        "Dong et al. 2024, arXiv:2411.13676: Mamba and attention in a window side by side, their "
        "norms' mean; without meta tokens, and with the window in all blocks",
    ),
    "titans_mag": Preset(
        ("titans", "attention"),
        {"attention": {"window": 1024}},
        {**_LM, "arrangement": "parallel", "branch_norm": True, "expansion": 8 / 3},
        "Behrouz et al. 2024, arXiv:2501.00663, memory as a gate: Titans' memory and attention in "
        "a window side by side, their norms' mean in place of a gate; without persistent tokens",
    ),
    "titans_mal": Preset(
        ("titans", "attention"),
        {"attention": {"window": 1024}},
        {**_LM, "expansion": 8 / 3, "each": ({"feedforward": "none"}, {})},
        "Behrouz et al. 2024, arXiv:2501.00663, memory as a layer: Titans' memory, then attention "
        "in a window; without persistent tokens",
    ),
    "rwkv4_lm": Preset(
        ("rwkv4",),
        {},
        {**_RWKV, "feedforward": "rwkv", "expansion": 4.0},
        "Peng et al. 2023, arXiv:2305.13048",
    ),
    "rwkv5_lm": Preset(
        ("rwkv5",),
        {},
        {**_RWKV, "feedforward": "rwkv", "expansion": 3.5},
        "Peng et al. 2024, arXiv:2404.05892, Eagle",
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
