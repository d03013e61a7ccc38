"""Every mixer by its name. A new one is an import and a line of the table.

And it is a line of tiny options in `tests/models/tiny.py`; the laws then apply to it.
"""

from seqzoo.models.attention.bigbird import BigBird
from seqzoo.models.attention.diag_attention import DiagAttention
from seqzoo.models.attention.fnet import FNet
from seqzoo.models.attention.gated.flash import Flash
from seqzoo.models.attention.gated.gau import GAU
from seqzoo.models.attention.latent import LatentAttention
from seqzoo.models.attention.linformer import Linformer
from seqzoo.models.attention.local_attention import LocalAttention
from seqzoo.models.attention.longformer import Longformer
from seqzoo.models.attention.nystromformer import Nystromformer
from seqzoo.models.attention.reformer import Reformer
from seqzoo.models.attention.sinkhorn import Sinkhorn
from seqzoo.models.attention.slots import ABC, GSA
from seqzoo.models.attention.softmax import Attention
from seqzoo.models.attention.sparse.moba import MoBA
from seqzoo.models.attention.sparse.nsa import NSA
from seqzoo.models.attention.sparse.swin import Swin
from seqzoo.models.attention.sparse_attention import SparseAttention
from seqzoo.models.attention.synthesizer import Synthesizer
from seqzoo.models.attention.transformer_vq.mixer import TransformerVQ
from seqzoo.models.help import page as _page  # no name of seqzoo.models
from seqzoo.models.linear_attention.deltanet import DeltaNet, DeltaProduct
from seqzoo.models.linear_attention.fast_weights.titans import Titans
from seqzoo.models.linear_attention.fast_weights.ttt import TTT
from seqzoo.models.linear_attention.gated_deltanet import GatedDeltaNet, KimiDeltaAttention
from seqzoo.models.linear_attention.gated_deltanet2 import Comba, GatedDeltaNet2
from seqzoo.models.linear_attention.gla import GLA, SimpleGLA
from seqzoo.models.linear_attention.hgrn2 import HGRN2
from seqzoo.models.linear_attention.lightning import LightningAttention
from seqzoo.models.linear_attention.linear import Based, CosFormer, LinearAttention, Rebased
from seqzoo.models.linear_attention.mlstm import MLSTM
from seqzoo.models.linear_attention.norm_attention import NormAttention
from seqzoo.models.linear_attention.performer import Performer
from seqzoo.models.linear_attention.retnet import RetNet
from seqzoo.models.linear_attention.rwkv4 import RWKV4
from seqzoo.models.linear_attention.rwkv5 import RWKV5
from seqzoo.models.linear_attention.rwkv6 import RWKV6
from seqzoo.models.linear_attention.rwkv7 import RWKV7
from seqzoo.models.mixer import Mixer
from seqzoo.models.recurrent.elementwise import QRNN, SRU, IndRNN
from seqzoo.models.recurrent.gru import GRU
from seqzoo.models.recurrent.hgrn import HGRN
from seqzoo.models.recurrent.lstm import LSTM
from seqzoo.models.recurrent.min_rnn import MinGRU, MinLSTM
from seqzoo.models.recurrent.rg_lru import RGLRU
from seqzoo.models.recurrent.rnn import RNN
from seqzoo.models.recurrent.slstm import SLSTM
from seqzoo.models.ssm.dss import DSS
from seqzoo.models.ssm.h3 import H3
from seqzoo.models.ssm.hippo_cell import HippoCell
from seqzoo.models.ssm.hyena import Hyena
from seqzoo.models.ssm.linoss import LinOSS
from seqzoo.models.ssm.long_conv import LongConv
from seqzoo.models.ssm.longhorn import Longhorn
from seqzoo.models.ssm.lru import LRU
from seqzoo.models.ssm.mamba import Mamba
from seqzoo.models.ssm.mamba2 import Mamba2
from seqzoo.models.ssm.mamba3 import Mamba3
from seqzoo.models.ssm.mega import Mega
from seqzoo.models.ssm.s4 import S4
from seqzoo.models.ssm.s4d import S4D
from seqzoo.models.ssm.s5 import S5
from seqzoo.models.ssm.slice import SLiCE

MIXERS: dict[str, type[Mixer]] = {
    # attention
    "attention": Attention,
    "mla": LatentAttention,
    "local_attention": LocalAttention,
    "sparse_attention": SparseAttention,
    "longformer": Longformer,
    "bigbird": BigBird,
    "moba": MoBA,
    "nsa": NSA,
    "swin": Swin,
    "linformer": Linformer,
    "nystromformer": Nystromformer,
    "fnet": FNet,
    "reformer": Reformer,
    "sinkhorn": Sinkhorn,
    "gsa": GSA,
    "abc": ABC,
    "synthesizer": Synthesizer,
    "diag_attention": DiagAttention,
    "gau": GAU,
    "flash": Flash,
    "transformer_vq": TransformerVQ,
    # linear attention
    "linear_attention": LinearAttention,
    "based": Based,
    "rebased": Rebased,
    "cosformer": CosFormer,
    "performer": Performer,
    "norm_attention": NormAttention,
    "retnet": RetNet,
    "simple_gla": SimpleGLA,
    "gla": GLA,
    "hgrn2": HGRN2,
    "mlstm": MLSTM,
    "lightning_attention": LightningAttention,
    "rwkv4": RWKV4,
    "rwkv5": RWKV5,
    "rwkv6": RWKV6,
    "rwkv7": RWKV7,
    "deltanet": DeltaNet,
    "gated_deltanet": GatedDeltaNet,
    "gated_deltanet2": GatedDeltaNet2,
    "comba": Comba,
    "kda": KimiDeltaAttention,
    "delta_product": DeltaProduct,
    "ttt": TTT,
    "titans": Titans,
    # state space
    "hippo": HippoCell,
    "s4": S4,
    "s4d": S4D,
    "dss": DSS,
    "s5": S5,
    "lru": LRU,
    "linoss": LinOSS,
    "mamba": Mamba,
    "mamba2": Mamba2,
    "mamba3": Mamba3,
    "longhorn": Longhorn,
    "slice": SLiCE,
    "h3": H3,
    "hyena": Hyena,
    "long_conv": LongConv,
    "mega": Mega,
    # recurrent
    "rnn": RNN,
    "lstm": LSTM,
    "slstm": SLSTM,
    "gru": GRU,
    "indrnn": IndRNN,
    "qrnn": QRNN,
    "sru": SRU,
    "min_gru": MinGRU,
    "min_lstm": MinLSTM,
    "rg_lru": RGLRU,
    "hgrn": HGRN,
}

for _mixer in MIXERS.values():
    _mixer.__doc__ = _page(_mixer)
