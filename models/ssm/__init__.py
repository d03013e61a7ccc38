"""State-space models: HiPPO matrices, discretisation, kernels and the mixers made of them."""

from seqzoo.models.ssm.discretize import discretize
from seqzoo.models.ssm.dplr import s4_kernel
from seqzoo.models.ssm.hippo import hippo, hippo_dplr, nplr
from seqzoo.models.ssm.memory import reconstruct, remember
from seqzoo.models.ssm.s4d import s4d_init, s4d_kernel

__all__ = [
    "discretize",
    "hippo",
    "hippo_dplr",
    "nplr",
    "reconstruct",
    "remember",
    "s4_kernel",
    "s4d_init",
    "s4d_kernel",
]
