"""What a chip can do at most, as its maker says.

Sources, read in November 2026: docs.cloud.google.com/tpu/docs/v5e, /v5p, /v6e and /tpu7x (memory,
bandwidth, bf16 peak, bidirectional interconnect a chip); the data sheets of NVIDIA's A100, H100,
H200 and B200 (dense bf16 peak of the SXM modules, NVLink in both directions together); a GPU's
memory and bandwidth as its driver reports them.
"""

from __future__ import annotations

from typing import NamedTuple

import jax

GIB, GB, TERA = 2**30, 10**9, 10**12


class Chip(NamedTuple):
    """The limits of a chip, or of one device where a chip shows several."""

    name: str
    memory: float  # bytes
    bandwidth: float  # bytes a second, to and from its memory
    flops: float  # a second, dense products in bfloat16
    link: float  # bytes a second that it sends to other chips, over all links together
    clock: float = 0.0  # cycles a second of its cores; 0: not published
    devices: int = 1  # that JAX shows for a chip
    launch: float = 0.0  # seconds between two kernels at least; 0: one program has all of a step


# Half of the published bidirectional interconnect is what a chip sends. A clock is the peak over
# what the matrix units do in a cycle: 4 of 128 x 128 a core before v6e, 4 of 256 x 256 there.
TPUS = {
    "v5e": Chip("TPU v5e", 16 * GIB, 819 * GB, 197 * TERA, 200 * GB, 1.5e9),
    "v5p": Chip("TPU v5p", 95 * GIB, 2765 * GB, 459 * TERA, 600 * GB, 1.75e9),
    "v6e": Chip("TPU v6e", 32 * GIB, 1638 * GB, 918 * TERA, 400 * GB, 1.75e9),
    "tpu7x": Chip("TPU7x", 192 * GIB, 7380 * GB, 2307 * TERA, 600 * GB, devices=2),
}
# NVIDIA's "Getting Started with CUDA Graphs" (2019) finds 0.5 microseconds from one short kernel to
# the next within a graph, and 0.9 where the host starts each.
LAUNCH = 0.5e-6
GPUS = {
    "a100": Chip("A100 80GB", 85.10 * GB, 2039 * GB, 312 * TERA, 300 * GB, launch=LAUNCH),
    "h100": Chip("H100 SXM", 84.94 * GB, 3350 * GB, 989 * TERA, 450 * GB, launch=LAUNCH),
    "h200": Chip("H200 SXM", 151.40 * GB, 4800 * GB, 989 * TERA, 450 * GB, launch=LAUNCH),
    "b200": Chip("B200 SXM", 191.51 * GB, 7672 * GB, 2250 * TERA, 900 * GB, launch=LAUNCH),
}
_KINDS = {  # beginnings of JAX's device_kind; the first that matches counts
    "TPU v5 lite": TPUS["v5e"],
    "TPU v5e": TPUS["v5e"],
    "TPU v5": TPUS["v5p"],
    "TPU v6": TPUS["v6e"],
    "TPU7x": TPUS["tpu7x"],
    "NVIDIA A100-SXM4-40GB": GPUS["a100"]._replace(
        name="A100 40GB", memory=40 * GIB, bandwidth=1555 * GB
    ),
    "NVIDIA A100-SXM4-80GB": GPUS["a100"],
    "NVIDIA H100 80GB HBM3": GPUS["h100"],
    "NVIDIA H200": GPUS["h200"],
    "NVIDIA B200": GPUS["b200"],
}


def chip_of(device: jax.Device) -> Chip | None:
    """The chip that a device is, or its share of one; None for one that the table lacks."""
    kind = device.device_kind
    found = next((chip for start, chip in _KINDS.items() if kind.startswith(start)), None)
    if found is None or found.devices == 1:
        return found
    n = found.devices
    share = (found.memory / n, found.bandwidth / n, found.flops / n, found.link / n)
    return Chip(f"1/{n} {found.name}", *share)
