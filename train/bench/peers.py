"""Layers that pip installs and users would pick instead, measured beside ours in the same process.

Each is made for rows [B, L, D] and gives a call for a forward pass or for both passes, with
gradients of the input and of all parameters. What is not installed is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

Call = Callable[[], Any]
HEADS = 4


def peers() -> dict[str, Callable[[int, int, int, bool], Call]]:
    """Name -> what makes a call for (rows, length, width, backward too), of those installed."""
    found = {f"flax {name}": _flax(cell) for name, cell in FLAX.items()}
    if importlib.util.find_spec("torch"):
        found |= {f"torch {name}": _torch(name) for name in ("lstm", "gru", "rnn", "attention")}
    return found


FLAX = {"lstm": "LSTMCell", "gru": "GRUCell", "rnn": "SimpleCell"}


def _flax(cell: str) -> Callable[[int, int, int, bool], Call]:
    def make(rows: int, length: int, width: int, backward: bool) -> Call:
        module = nnx.RNN(getattr(nnx, cell)(width, width, rngs=nnx.Rngs(0)))
        graphdef, params, rest = nnx.split(module, nnx.Param, ...)
        x = jax.random.normal(jax.random.key(0), (rows, length, width))

        def forward(params: Any, x: jax.Array) -> jax.Array:
            return nnx.merge(graphdef, params, rest, copy=True)(x)

        def loss(params: Any, x: jax.Array) -> jax.Array:
            return jnp.square(forward(params, x)).sum()

        call = jax.jit(jax.grad(loss, argnums=(0, 1)) if backward else forward)
        return lambda: jax.block_until_ready(call(params, x))

    return make


def _torch(name: str) -> Callable[[int, int, int, bool], Call]:
    def make(rows: int, length: int, width: int, backward: bool) -> Call:
        torch = importlib.import_module("torch")
        gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        device = "cuda" if gpu else "cpu"
        layer = _torch_layer(torch, name, width).to(device)
        x = torch.randn(rows, length, width, device=device, requires_grad=backward)

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


def _torch_layer(torch: Any, name: str, width: int) -> Any:
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
