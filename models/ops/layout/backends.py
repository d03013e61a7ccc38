"""Which form of a primitive runs where: one table, made by measurement, applied at lowering.

A primitive may have several forms that give the same numbers: a loop over time steps, a parallel
prefix, chunks of matrix products. Which is fastest depends on the platform that a program is
compiled for, which need not be that of the host; so every form is offered to
`jax.lax.platform_dependent` and the choice falls when the program is lowered.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

PLATFORMS = ("cpu", "gpu", "tpu")

# linear_scan on CPU, forward, float32, B=4, L=2048, D=128: the loop takes 0.9 ms, the parallel
# prefix 4.6 ms (complex: 2.3 and 27 ms). Elsewhere 2048 dependent steps leave the chip idle.
TABLE: Mapping[str, Mapping[str, str]] = {
    "linear_scan": {"cpu": "sequential", "gpu": "associative", "tpu": "associative"},
    # The same recurrence with blocks of 4 for numbers, and so the same choice.
    "block_scan": {"cpu": "sequential", "gpu": "associative", "tpu": "associative"},
    "decayed_max": {"cpu": "sequential", "gpu": "associative", "tpu": "associative"},
    # Of a diagonal system, 64 for 1,024 channels of 16: S4D takes 1.41 ms by cycles of a v5e with a
    # prefix, 1.11 so; on an H100 a tenth less traffic, and as many kernels.
    "powers": {"cpu": "scan", "gpu": "doubling", "tpu": "doubling"},
    # CPU, one core, B=4, L=2048, D=256, N=16, forward and backward: loop 180 ms, prefix 930 ms.
    "selective_scan": {"cpu": "sequential", "gpu": "triton", "tpu": "mosaic"},
    # CPU, B=4, L=2048, H=4, K=128, forward and backward: 7 ms against 31.
    "rotations": {"cpu": "apart", "gpu": "fused", "tpu": "fused"},
    # CPU, scores [16, 128, 1024]: 9 ms against 15 forward, 5 against 9 backward.
    "skew": {"cpu": "rows", "gpu": "layout", "tpu": "layout"},
    # One kernel for all steps (`scan/walk.py`), for a loop of a dozen; CPUs have the loop.
    "nonlinear_scan": {"cpu": "loop", "gpu": "triton", "tpu": "mosaic"},
    # The last column of v in linear attention. CPU, B=4, L=2048, V=32 and one: 77 ms against 85
    # (Performer 171 against 208); on a v5e 1.2 times the cycles for V=128 and one (docs/forms.md),
    # more for narrower heads.
    "normaliser": {"cpu": "apart", "gpu": "together", "tpu": "together"},
    # A TPU's compiler takes tens of seconds for each of the transforms of 2^20 tokens, and matrix
    # units are idle in them (docs/speed.md).
    "fft_conv": {"cpu": "transforms", "gpu": "transforms", "tpu": "products"},
    # A GPU starts kernels dearly. Forward and backward over 2,048 tokens, 8 heads of 128, compiled
    # for an H100, walking from chunk to chunk and at once: GLA 1,299 and 111 kernels
    # (docs/forms_gpu.md), for twice the memory. TPUs have the walk as a kernel: DPLR's 1.1 ms for
    # 23.8 on a v5e, by what its compiler schedules (docs/kernels_tpu.py).
    "chunks": {"cpu": "walk", "gpu": "together", "tpu": "mosaic"},
    # JAX's kernel on TPUs, cuDNN's on GPUs, where they can be; else large blocks. Both keep scores
    # on the chip; docs/forms.md and docs/forms_gpu.md have what compilers say.
    "attention": {"cpu": "small blocks", "gpu": "cudnn", "tpu": "splash"},
}

VARIABLE = "SEQZOO_FORMS"  # forms of this process on every platform, OP=FORM,..
# Part of the key of every `jax.jit`, so that what is compiled within `forced` is for it alone.
_forced = jax.make_user_context(())


@functools.cache
def _named(text: str) -> Mapping[str, str]:
    """What the environment names. Raises ValueError."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    named = {op.strip(): form.strip() for op, _, form in pairs}
    if wrong := named.keys() - TABLE.keys():
        raise ValueError(f"{VARIABLE} is OP=FORM,.. of {', '.join(TABLE)}; got {wrong.pop()!r}")
    return named


def chosen(op: str, platform: str) -> str:
    """The name of the form that `op` takes on `platform`.

    Raises:
        ValueError: for an op or a platform that is not in the table.
    """
    if op not in TABLE:
        raise ValueError(f"no op {op!r} in the table of forms; it has {sorted(TABLE)}")
    if platform not in PLATFORMS:
        raise ValueError(f"no platform {platform!r} in the table of forms; it has {PLATFORMS}")
    named = {**_named(os.environ.get(VARIABLE, "")), **dict(_forced.value)}
    return named.get(op, TABLE[op][platform])


@contextlib.contextmanager
def forced(op: str, form: str) -> Iterator[None]:
    """Within it `op` takes `form` on every platform: for measurements, which make the table.

    What was compiled before takes no part in it, and nothing of it stays afterwards.

    Raises:
        ValueError: for an op that is not in the table; a form that the op has not is one for `run`.
    """
    chosen(op, PLATFORMS[0])
    with _forced((*_forced.value, (op, form))):
        yield


def run(op: str, forms: Mapping[str, Callable[..., Any]], *args: Any) -> Any:
    """Calls the form of `op` that the table names for the platform lowered for.

    Raises:
        ValueError: for a forced form that is not among `forms`.
    """
    names = [chosen(op, platform) for platform in PLATFORMS]
    if missing := set(names) - set(forms):
        raise ValueError(f"{op} has no form {missing.pop()!r}; it has {sorted(forms)}")
    cpu, gpu, tpu = (forms[name] for name in names)
    if cpu is gpu is tpu:
        return cpu(*args)
    return jax.lax.platform_dependent(*args, cpu=cpu, tpu=tpu, default=gpu)
