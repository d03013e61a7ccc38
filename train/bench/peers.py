"""Layers that pip installs and users would pick instead, measured beside ours in the same process.

Each is made for rows [B, L, D] and gives a call for a forward pass or for both passes, with
gradients of the input and of all parameters. What is not installed is left out.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Call = Callable[[], Any]
Make = Callable[[int, int, int, bool, str], Call]  # of rows, length, width, both passes, dtype
HEADS = 4
PACKAGES = ("flax", "torch", "fla", "mamba_ssm")
FLAX = {"lstm": "LSTMCell", "gru": "GRUCell", "rnn": "SimpleCell"}
TORCH = ("lstm", "gru", "rnn", "attention")
FLA = {  # mixers of ours -> layers of flash-linear-attention, which need a GPU
    "linear_attention": "LinearAttention",
    "retnet": "MultiScaleRetention",
    "gla": "GatedLinearAttention",
    "deltanet": "DeltaNet",
    "gated_deltanet": "GatedDeltaNet",
    "kda": "KimiDeltaAttention",
}
MAMBA = {"mamba": "Mamba", "mamba2": "Mamba2"}


def peers() -> dict[str, Make]:
    """Package and mixer -> what makes a call, of the packages installed."""
    return {f"{name} {mixer}": make for name, mixer, make in _all() if not absent(name)}


def absent(package: str) -> str:
    """Why a package's layers are left out; nothing where they are there."""
    needed = ("torch", package) if package in ("fla", "mamba_ssm") else (package,)
    for name in needed:
        if not importlib.util.find_spec(name):
            return f"{name} is not installed"
    if len(needed) > 1 and not importlib.import_module("torch").cuda.is_available():
        return "its kernels need a GPU"
    return ""


def _all() -> Iterator[tuple[str, str, Make]]:
    yield from (("flax", mixer, _flax(cell)) for mixer, cell in FLAX.items())
    yield from (("torch", mixer, _torch(functools.partial(_torch_layer, mixer))) for mixer in TORCH)
    for package, layers in (("fla", FLA), ("mamba_ssm", MAMBA)):
        for mixer, layer in layers.items():
            yield package, mixer, _torch(functools.partial(_layer_of, package, layer))


def _flax(cell: str) -> Make:
    def make(rows: int, length: int, width: int, backward: bool, dtype: str) -> Call:
        module = nnx.RNN(getattr(nnx, cell)(width, width, dtype=dtype, rngs=nnx.Rngs(0)))
        start = module.cell.initialize_carry((rows, width), nnx.Rngs(0))
        start = jax.tree.map(lambda a: a.astype(dtype), start)  # not every cell's is its dtype
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        x = jax.random.normal(jax.random.key(0), (rows, length, width), dtype)

        def forward(params: Any, x: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params, rest, copy=True)(x, initial_carry=start)

        def loss(params: Any, x: jax.Array) -> jax.Array:
            return jnp.square(forward(params, x)).sum()

        call = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else forward)
        return lambda: jax.block_until_ready(call(params, x))

    return make


def _torch(layer_of: Callable[[Any, int], Any]) -> Make:
    def make(rows: int, length: int, width: int, backward: bool, dtype: str) -> Call:
        torch = importlib.import_module("torch")
        gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        device = "cuda" if gpu else "cpu"
        like = {"device": device, "dtype": getattr(torch, dtype)}
        layer = layer_of(torch, width).to(**like)
        x = torch.randn(rows, length, width, requires_grad=backward, **like)

        def call() -> None:
            with torch.set_grad_enabled(backward):
                layer.zero_grad(set_to_none=True)
                y = layer(x)
                y = y[0] if isinstance(y, tuple) else y
                if backward:
                    y.square().sum().backward()
            if gpu:
                torch.cuda.synchronize()

        return call

    return make


def _layer_of(package: str, layer: str, torch: Any, width: int) -> Any:
    if package == "fla":
        heads = {"hidden_size": width, "num_heads": HEADS}
        return getattr(importlib.import_module("fla.layers"), layer)(**heads)
    return getattr(importlib.import_module(package), layer)(width)


def _torch_layer(name: str, torch: Any, width: int) -> Any:
    """A layer of PyTorch; attention is causal, with four projections and no positions."""
    if name != "attention":
        return getattr(torch.nn, name.upper())(width, width, batch_first=True)
    functional = torch.nn.functional

    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.ModuleList(torch.nn.Linear(width, width) for _ in range(4))

        def forward(self, x: Any) -> Any:
            shape = (*x.shape[:2], HEADS, width // HEADS)
            q, k, v = (p(x).view(shape).transpose(1, 2) for p in self.proj[:3])
            o = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.proj[3](o.transpose(1, 2).reshape(x.shape))

    return Attention()
