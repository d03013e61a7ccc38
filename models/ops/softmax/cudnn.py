"""NVIDIA's fused attention, of cuDNN, as a form of `blockwise.py` on GPUs.

It is the call that `jax.nn.dot_product_attention(implementation="cudnn")` makes, taken below its
derivatives and its partition over devices, for which forms have their own: half precision, heads
up to 128 wide, causal or full rows, causal windows, grouped queries. Rows of several segments,
padding, a bias and terms of distance are left to the blocks, and so are derivatives of a higher
order. Its numbers can be compared on a GPU alone (`seqzoo bench --atlas --device-report`).
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from seqzoo.models.ops.softmax.masks import Operands, Rule, Sight
from seqzoo.models.ops.softmax.over_devices import by_device, divisible

HALF = (jnp.dtype("bfloat16"), jnp.dtype("float16"))
OLDEST = 8.0  # compute capability
WIDEST = 128  # before Hopper, and where no GPU says what it is


def fits(rule: Rule, operands: Operands, sight: Sight) -> bool:
    """Whether the kernel can compute it; all of it is known before compilation."""
    q, k, v, bias, terms = operands
    plain = bias is None and not jax.tree.leaves(terms) and rule.term is None and rule.by_index
    alone = sight.queries.tags is None and sight.keys.tags is None
    shaped = q.shape[1] == k.shape[1] and q.shape[3] == v.shape[3]
    width = q.shape[3] % 8 == 0 and q.shape[3] <= WIDEST
    known = q.dtype in HALF and (rule.causal or rule.window is None)
    return plain and alone and shaped and width and known and divisible(q, k)


def there() -> bool:
    """Whether cuDNN can be called: a library apart, without which programs compile for GPUs too."""
    try:
        calls = _library()
        known = (inspect.signature(calls[name]).parameters for name in ("forward", "backward"))
        # They are JAX's own, not its promise: where a later version's differ the blocks run.
        return all({*names} >= _OPTIONS for names in known) and not _too_old()
    except (ImportError, AttributeError, RuntimeError):
        return False


def _library() -> dict[str, Any]:
    """The two calls. Raises ImportError, AttributeError or RuntimeError where there are none."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    cudnn.check_cudnn_version()
    return {
        "forward": cudnn._dot_product_attention_fwd_impl,
        "backward": cudnn._dot_product_attention_bwd_impl,
        "masks": cudnn.MaskType,
        "layout": cudnn.AttentionLayout.BTNH.value,
    }


_OPTIONS = {"scale", "seed", "dropout_rate", "variadic_args", "mask_type", "layout"}
_OPTIONS |= {"sliding_window_length"}


def _too_old() -> bool:
    """Whether the GPU here is of before Ampere; no GPU is none that is too old."""
    here = jax.local_devices() if jax.default_backend() == "gpu" else []
    return any(float(device.compute_capability) < OLDEST for device in here)


def forward(rule: Rule, scale: float, operands: Operands, sight: Sight) -> tuple[Array, Array]:
    """o [B, L, H, V], and the logarithms of the denominators [B, L, H, 1]."""

    def run(q: Array, k: Array, v: Array) -> tuple[Array, Array]:
        nothing = [jnp.zeros(0, q.dtype)] * _UNUSED
        options = _options(rule, scale, q.shape[1])
        o, lse = _library()["forward"](q, k, v, *nothing, is_training=True, **options)
        return o, jnp.swapaxes(lse, 1, 2)[..., None]

    return by_device(run, operands[:3])


def backward(
    rule: Rule,
    scale: float,
    operands: Operands,
    sight: Sight,
    o: Array,
    lse: Array,
    cotangent: Array,
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v."""

    def run(q: Array, k: Array, v: Array, o: Array, lse: Array, do: Array) -> tuple[Array, ...]:
        nothing = [jnp.zeros(0, q.dtype)] * _UNUSED
        options = _options(rule, scale, q.shape[1])
        lse = jnp.swapaxes(lse[..., 0], 1, 2)
        return tuple(_library()["backward"](q, k, v, *nothing, lse, o, do, **options)[:3])

    return by_device(run, [*operands[:3], o, lse, cotangent])


_UNUSED = 7  # bias, lengths and offsets of both sides, tables of pages


def _options(rule: Rule, scale: float, length: int) -> dict[str, Any]:
    calls = _library()
    window = None if rule.window is None or rule.window >= length else rule.window
    return {
        "scale": scale,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),  # of a bias
        "mask_type": calls["masks"].CAUSAL if rule.causal else calls["masks"].NO_MASK,
        "layout": calls["layout"],
        "sliding_window_length": window,
    }
