"""Every kernel beside the plain form of its op, on the device at hand.

A check is of a mixer that has the kernel: outputs and gradients with it and without, each against
the same in float32 with products of the highest precision. A kernel may be as far from that as the
plain form is, a few times; what is farther, not finite, hangs or fails is not to be used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models.ops.layout import backends as forms
from seqzoo.models.registry import build

Row = dict[str, Any]
TIMES = 4.0  # as far as the plain form is
ROUNDING = 2.0**-18  # of what is added in another order, where the plain form is exact
ROWS, TOKENS, WIDTH = 4, 1024, 256
VARIANTS = (("bfloat16", False), ("bfloat16", True), ("float32", True))  # and rows packed


class Check(NamedTuple):
    """A mixer, its options, the op whose form is checked, and the form that it has without."""

    model: str
    op: str
    plain: str
    options: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """As rows have it."""
        return self.model + "".join(f", {name} {value}" for name, value in self.options.items())


CHECKS = (
    Check("attention", "attention", "large blocks"),
    Check("attention", "attention", "large blocks", {"window": 256}),
    *(Check(cell, "nonlinear_scan", "loop") for cell in ("lstm", "gru", "rnn", "slstm")),
    Check("mamba", "selective_scan", "associative"),
    *(Check(name, "chunks", "walk") for name in ("gated_deltanet", "gla", "rwkv7")),
)


def checks(platform: str, models: tuple[str, ...]) -> list[Check]:
    """Those of these mixers whose op has a form there that is neither plain nor the CPU's."""

    def own(check: Check) -> bool:
        plain = check.plain, forms.chosen(check.op, "cpu")
        return check.model in models and forms.chosen(check.op, platform) not in plain

    return [check for check in CHECKS if own(check)]


@contextlib.contextmanager
def plainly(ops: Mapping[str, str]) -> Iterator[None]:
    """Within it ops take these forms."""
    with contextlib.ExitStack() as stack:
        for op, form in ops.items():
            stack.enter_context(forms.forced(op, form))
        yield


def compared(check: Check, tokens: int = TOKENS, width: int = WIDTH) -> Row:
    """How far the kernel and the plain form are from exact numbers, and whether that may be."""
    found, worst = {}, 0.0
    for dtype, packed in VARIANTS:
        with plainly({check.op: check.plain}), jax.default_matmul_precision("highest"):
            exact = _results(check, "float32", packed, tokens, width)
        with plainly({check.op: check.plain}):
            plain = _results(check, dtype, packed, tokens, width)
        kernel = _results(check, dtype, packed, tokens, width)
        own, other = _distances(kernel, exact), _distances(plain, exact)
        ratios = [a / (TIMES * b + ROUNDING) for a, b in zip(own, other, strict=True)]
        worst = max(worst, *(r if np.isfinite(r) else np.inf for r in ratios))
        found[f"{dtype}{', packed' * packed}"] = [_number(max(own)), _number(max(other))]
    platform = jax.default_backend()
    row = {"form": forms.chosen(check.op, platform), "distances": found}
    return row | {"ok": bool(worst <= 1)}


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _distances(found: list[np.ndarray], exact: list[np.ndarray]) -> list[float]:
    """Of each array, its root mean square over the array's own."""
    return [
        float(np.sqrt(np.mean((a - b) ** 2) / max(np.mean(b**2), 1e-30)))
        for a, b in zip(found, exact, strict=True)
    ]


def _results(check: Check, dtype: str, packed: bool, tokens: int, width: int) -> list[np.ndarray]:
    """Outputs, and gradients of the input and of all parameters."""
    rngs, options = nnx.Rngs(0), dict(check.options)
    mixer = build(check.model, width, rngs=rngs, dtype=jnp.dtype(dtype), **options)
    graphdef, params, rest = nnx.split(mixer, nnx.Param, ...)
    shape = 2, ROWS, tokens, width
    x, target = jax.random.normal(jax.random.key(0), shape).astype("bfloat16").astype(dtype)
    ids = _ids(tokens) if packed else None

    @jax.jit
    def both(params: Any, x: jax.Array) -> tuple:
        def forward(params: Any, x: jax.Array) -> jax.Array:
            y = nnx.merge(graphdef, params, rest, copy=True)(x, segment_ids=ids)
            return y if ids is None else jnp.where(ids[..., None] > 0, y, 0)

        y, pull = jax.vjp(forward, params, x)
        return y, pull(target.astype(y.dtype))

    leaves = jax.tree.leaves(jax.block_until_ready(both(params, x)))
    return [np.asarray(a, np.float64) for a in leaves]


def _ids(tokens: int) -> jax.Array:
    """Three segments of different lengths in each row, and padding behind them."""
    ends = np.array([0.3, 0.45, 0.9]) * tokens - 3 * np.arange(ROWS)[:, None]
    place = np.arange(tokens)[None, :, None]
    after = (place >= ends[:, None]).sum(-1)
    return jnp.asarray((after + 1) % 4, jnp.int32)


def failed(found: Mapping[str, bool]) -> dict[str, str]:
    """Op -> its plain form, of those of which a check was not passed."""
    return {c.op: c.plain for c in CHECKS if found.get(c.name) is False}
