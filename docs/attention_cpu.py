"""What XLA's CPU backend leaves of attention's time: the products alone, beside PyTorch's kernel.

    python docs/attention_cpu.py 2048 8192      # in an environment with torch too

Causal attention forward and backward, float32, 4 rows, 4 heads of 32, no projections. `products`
is the smallest program with attention's seven products in blocks: the same pairs of blocks in the
same loops and halves of the rows as ours, but no maximum, no exponential, no mask and no sums: what
no attention made of XLA's products can be faster than. Calls take turns in one process of two
threads; ratios are medians of those of neighbouring calls, by the clock and by processor time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.models.ops import attention
from seqzoo.train.devices.backend import reuse_memory

ROWS, HEADS, WIDTH = 4, 4, 32
QUERIES = 256  # of a block; twice as many keys from 2,048 tokens on
Call = Callable[[], Any]


def ours(length: int) -> Call:
    """The op."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, ROWS, length, HEADS, WIDTH))
    grad = jax.jit(jax.grad(lambda *x: attention(*x, causal=True).sum(), argnums=(0, 1, 2)))
    return lambda: jax.block_until_ready(grad(q, k, v))


def products(length: int) -> Call:
    """q kᵀ and s v forward; q kᵀ, do vᵀ and three sums of products backward, of every pair."""
    keys = 2 * QUERIES if length >= 8 * QUERIES else QUERIES
    i, j = np.indices((length // QUERIES, length // keys)).reshape(2, -1)
    seen = (i + 1) * QUERIES > j * keys
    pairs = jnp.asarray(i[seen]), jnp.asarray(j[seen])
    shape = 2, ROWS // 2, HEADS
    blocks = {
        "q": (length // QUERIES, *shape, QUERIES, WIDTH),
        "k": (length // keys, *shape, keys, WIDTH),
    }
    q, do = jax.random.normal(jax.random.key(1), (2, *blocks["q"]))
    k, v = jax.random.normal(jax.random.key(2), (2, *blocks["k"]))

    def forward(a: Any, pair: Any) -> tuple:
        i, j = pair
        for half in range(2):
            s = q[i, half] @ jnp.swapaxes(k[j, half], -1, -2)
            a = a.at[i, half].add(s @ v[j, half])
        return a, None

    q_t, do_t = jnp.swapaxes(q, -1, -2), jnp.swapaxes(do, -1, -2)

    def backward(sums: Any, pair: Any) -> tuple:
        (dq, dk, dv), (i, j) = sums, pair
        for half in range(2):
            s = q[i, half] @ jnp.swapaxes(k[j, half], -1, -2)
            ds = do[i, half] @ jnp.swapaxes(v[j, half], -1, -2)
            dq = dq.at[i, half].add(ds @ k[j, half])
            dk = dk.at[j, half].add(q_t[i, half] @ ds)
            dv = dv.at[j, half].add(do_t[i, half] @ s)
        return (dq, dk, dv), None

    @jax.jit
    def both(q: Any, k: Any) -> tuple:
        a, _ = jax.lax.scan(forward, jnp.zeros_like(q), pairs)
        k_t = jnp.zeros_like(jnp.swapaxes(k, -1, -2))
        return a, jax.lax.scan(backward, (jnp.zeros_like(q), k_t, k_t), pairs)[0]

    return lambda: jax.block_until_ready(both(q, k))


def theirs(length: int) -> Call:
    """PyTorch's fused kernel."""
    import torch

    torch.set_num_threads(2)
    x = [torch.randn(ROWS, HEADS, length, WIDTH, requires_grad=True) for _ in range(3)]

    def call() -> None:
        o = torch.nn.functional.scaled_dot_product_attention(*x, is_causal=True)
        torch.autograd.grad(o.sum(), x)

    return call


def main(lengths: list[int], rounds: int = 7) -> None:
    """Prints a line of the table for each length."""
    names = ("PyTorch / ours", "PyTorch / products")
    print(f"| L | {' | '.join(f'{n} | processor' for n in names)} |")
    print("|---" * 5 + "|")
    for length in lengths:
        calls = [make(length) for make in (ours, products, theirs)]
        spent = np.array([[_spent(call) for call in calls] for _ in range(rounds + 1)])[1:]
        ratios = np.median(spent[:, 2:] / spent[:, :2], axis=0)  # of both programs, by both clocks
        cells = (f"{r:.2f}" for r in ratios.reshape(-1))
        print(f"| {length:,} | {' | '.join(cells)} |", flush=True)


def _spent(call: Call) -> tuple[float, float]:
    """Seconds by the clock, and of processors."""
    started, before = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - before


if __name__ == "__main__":
    reuse_memory()
    main([int(word) for word in sys.argv[1:]] or [2048, 8192])
