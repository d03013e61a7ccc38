"""Families of published models by the `model_type` of their configs."""

from __future__ import annotations

from seqzoo.models.pretrained.families.bert import bert, deberta_v2, roformer
from seqzoo.models.pretrained.families.encoders import fnet, longformer, nystromformer, xlnet
from seqzoo.models.pretrained.families.fla import (
    delta_net,
    gated_deltanet,
    gla,
    hgrn2,
    retnet,
    rwkv7,
    transformer,
)
from seqzoo.models.pretrained.families.jamba import jamba
from seqzoo.models.pretrained.families.kimi_linear import kimi_linear
from seqzoo.models.pretrained.families.llama import gpt2, llama
from seqzoo.models.pretrained.families.mamba import falcon_mamba, mamba, mamba2
from seqzoo.models.pretrained.families.minimax import minimax
from seqzoo.models.pretrained.families.qwen3_next import qwen3_next
from seqzoo.models.pretrained.families.recurrent import recurrent_gemma, rwkv, xlstm
from seqzoo.models.pretrained.families.t5 import t5
from seqzoo.models.pretrained.family import Translate

# model_type -> (architectures that are read, translation of the config)
FAMILIES: dict[str, tuple[tuple[str, ...], Translate]] = {
    "mamba": (("MambaForCausalLM",), mamba),
    "falcon_mamba": (("FalconMambaForCausalLM",), falcon_mamba),
    "mamba2": (("Mamba2ForCausalLM",), mamba2),
    "recurrent_gemma": (("RecurrentGemmaForCausalLM",), recurrent_gemma),
    "rwkv": (("RwkvForCausalLM",), rwkv),
    "xlstm": (("xLSTMForCausalLM",), xlstm),
    "jamba": (("JambaForCausalLM",), jamba),
    "minimax": (("MiniMaxForCausalLM",), minimax),
    "qwen3_next": (("Qwen3NextForCausalLM",), qwen3_next),
    "kimi_linear": (("KimiLinearForCausalLM",), kimi_linear),
    "llama": (("LlamaForCausalLM",), llama),
    "gpt2": (("GPT2LMHeadModel",), gpt2),
    "bert": (("BertForMaskedLM", "BertForPreTraining"), bert),
    "deberta-v2": (("DebertaV2ForMaskedLM",), deberta_v2),
    "longformer": (("LongformerForMaskedLM",), longformer),
    "fnet": (("FNetForMaskedLM", "FNetForPreTraining"), fnet),
    "nystromformer": (("NystromformerForMaskedLM",), nystromformer),
    "xlnet": (("XLNetLMHeadModel",), xlnet),
    "t5": (("T5ForConditionalGeneration",), t5),
    "gla": (("GLAForCausalLM",), gla),
    "retnet": (("RetNetForCausalLM",), retnet),
    "delta_net": (("DeltaNetForCausalLM",), delta_net),
    "gated_deltanet": (("GatedDeltaNetForCausalLM",), gated_deltanet),
    "hgrn2": (("HGRN2ForCausalLM",), hgrn2),
    "rwkv7": (("RWKV7ForCausalLM",), rwkv7),
    "transformer": (("TransformerForCausalLM",), transformer),
    "roformer": (("RoFormerForMaskedLM", "RoFormerForCausalLM"), roformer),
}
