"""One of our mixers beside another implementation that pip installs, call by call in turns.

    pip install torch                     # or where PYTHON is, with jax and flax for nnx_*
    python docs/beside.py lstm torch_lstm --length 2048 --python PYTHON

Forward plus backward, with gradients of the input and all parameters: float32, 4 rows of width 128,
two threads. Each side is a process of its own and is warmed up. In ours glibc keeps what is freed,
as in seqzoo's commands; `--kept both` and `--kept neither` treat the sides alike. Prints thousands
of tokens a second (medians), and the median of the ratios of neighbouring calls: above 1, ours is
faster.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROWS, WIDTH, HEADS = 4, 128, 4
KEPT = "glibc.malloc.mmap_threshold=2147483647:glibc.malloc.trim_threshold=2147483647"
OPTIONS = {"flash": {"rotary": False}}  # as the other implementation's layer is by itself
SIDES_KEPT = {"ours": ("ours",), "both": ("ours", "theirs"), "neither": ()}
Call = Callable[[], None]


def torch_call(module: Any, length: int) -> Call:
    """A training step's two passes of a PyTorch module."""
    import torch

    torch.set_num_threads(2)
    x = torch.randn(ROWS, length, WIDTH, requires_grad=True)

    def call() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y = module(x)
        (y[0] if isinstance(y, tuple) else y).square().sum().backward()

    return call


def jax_call(module: Any, length: int) -> Call:
    """The same of an NNX module, compiled."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    graphdef, params, rest = nnx.split(module, nnx.Param, ...)
    x = jax.random.normal(jax.random.key(0), (ROWS, length, WIDTH))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(nnx.merge(graphdef, params, rest, copy=True)(x)).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile()

    def call() -> None:
        jax.block_until_ready(compiled(params, x))

    return call


def ours(name: str, length: int) -> Call:
    """A mixer of the registry."""
    from flax import nnx

    from seqzoo.models.config import config_of
    from seqzoo.models.registry import MIXERS, build

    options = dict(OPTIONS.get(name, {}))
    if hasattr(config_of(MIXERS[name]), "max_length"):
        options["max_length"] = length
    return jax_call(build(name, WIDTH, rngs=nnx.Rngs(0), **options), length)


def torch_lstm(length: int) -> Call:
    """PyTorch's own kernel."""
    import torch

    return torch_call(torch.nn.LSTM(WIDTH, WIDTH, batch_first=True), length)


def torch_sdpa(length: int) -> Call:
    """Causal attention by PyTorch's fused kernel, with four projections and rotary positions."""
    import torch

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
            pair = torch.arange(0, WIDTH // HEADS, 2) / (WIDTH // HEADS)
            angle = torch.arange(length)[:, None] * 1e4**-pair
            self.cos, self.sin = angle.cos(), angle.sin()

        def turned(self, x: torch.Tensor) -> torch.Tensor:
            a, b = x.chunk(2, -1)
            return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            shape = (ROWS, length, HEADS, WIDTH // HEADS)
            q, k, v = (p(x).view(shape).transpose(1, 2) for p in self.proj[:3])
            attend = torch.nn.functional.scaled_dot_product_attention
            o = attend(self.turned(q), self.turned(k), v, is_causal=True)
            return self.proj[3](o.transpose(1, 2).reshape(x.shape))

    return torch_call(Attention(), length)


def flash_pytorch(length: int) -> Call:
    """FLASH of the package FLASH-pytorch: groups of 256."""
    flash = importlib.import_module("flash_pytorch").FLASH
    return torch_call(flash(dim=WIDTH, group_size=256, causal=True), length)


def mambapy(length: int) -> Call:
    """Mamba of the package mambapy: a parallel scan in PyTorch."""
    mamba = importlib.import_module("mambapy.mamba")
    return torch_call(mamba.MambaBlock(mamba.MambaConfig(d_model=WIDTH, n_layers=1)), length)


def transformers_rwkv4(length: int) -> Call:
    """RWKV-4's attention of the package transformers: on a CPU a loop over steps."""
    package = importlib.import_module("transformers")
    rwkv = importlib.import_module("transformers.models.rwkv.modeling_rwkv")
    sizes = {"hidden_size": WIDTH, "attention_hidden_size": WIDTH, "context_length": length}
    config = package.RwkvConfig(**sizes, num_hidden_layers=2, vocab_size=8)
    return torch_call(rwkv.RwkvSelfAttention(config), length)


def nnx_rnn(cell: str) -> Callable[[int], Call]:
    """A recurrent cell of flax."""

    def make(length: int) -> Call:
        from flax import nnx

        kind = getattr(nnx, cell)
        return jax_call(nnx.RNN(kind(WIDTH, WIDTH, rngs=nnx.Rngs(0))), length)

    return make


PEERS: dict[str, Callable[[int], Call]] = {
    "torch_lstm": torch_lstm,
    "torch_sdpa": torch_sdpa,
    "flash_pytorch": flash_pytorch,
    "mambapy": mambapy,
    "transformers_rwkv4": transformers_rwkv4,
    "nnx_lstm": nnx_rnn("LSTMCell"),
    "nnx_gru": nnx_rnn("GRUCell"),
    "nnx_rnn": nnx_rnn("SimpleCell"),
}


def work(side: str, name: str, length: int) -> None:
    """One side: a timed call for every line of standard input."""
    if os.environ.get("GLIBC_TUNABLES") == KEPT and importlib.util.find_spec("jax"):
        jax = importlib.import_module("jax")  # glibc keeps what the first thread frees
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    call = ours(name, length) if side == "ours" else PEERS[name](length)
    call()
    call()
    print(json.dumps(0.0), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        call()
        print(json.dumps(time.perf_counter() - started), flush=True)


def beside(
    mixer: str, peer: str, length: int, rounds: int, python: str, kept: tuple[str, ...] = ("ours",)
) -> dict[str, float]:
    """Thousands of tokens a second of both, and how much faster ours is."""
    settings = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "2", "OMP_PROC_BIND": "true"}
    sides = {}
    for side, name, program in (("ours", mixer, sys.executable), ("theirs", peer, python)):
        command = [program, __file__, "--work", side, name, "--length", str(length)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        memory = {"GLIBC_TUNABLES": KEPT} if side in kept else {}
        sides[side] = subprocess.Popen(command, env=os.environ | settings | memory, **pipes)
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(rounds + 1):
        for side, process in sides.items():
            if number:
                process.stdin.write("\n")
                process.stdin.flush()
            times[side].append(json.loads(process.stdout.readline()))
    for process in sides.values():
        process.stdin.close()
        process.wait()
    pairs = zip(times["theirs"][1:], times["ours"][1:], strict=True)
    rates = {
        side: ROWS * length / 1e3 / statistics.median(spent[1:]) for side, spent in times.items()
    }
    return {**rates, "ratio": statistics.median(theirs / own for theirs, own in pairs)}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mixer")
    parser.add_argument("peer", help=", ".join(PEERS))
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has the peer")
    parser.add_argument("--kept", default="ours", choices=SIDES_KEPT, help="sides that keep memory")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.mixer, options.peer, options.length)
        return
    if options.peer not in PEERS:
        parser.error(f"unknown peer {options.peer!r}; known: {', '.join(PEERS)}")
    sizes, kept = (options.length, options.rounds), SIDES_KEPT[options.kept]
    found = beside(options.mixer, options.peer, *sizes, options.python, kept)
    print(
        f"{options.mixer} {found['ours']:.1f}, {options.peer} {found['theirs']:.1f} thousand "
        f"tokens/s at {options.length}; ratio {found['ratio']:.2f}"
    )


if __name__ == "__main__":
    main()
