"""AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) with the learning rates of parameter groups.

lr(t) = peak * t / warmup  up to `warmup` steps, then a cosine down to final_lr * peak, at the last
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import optax
from jaxtyping import Array

from seqzoo.train.config import OptimConfig

Schedule = Callable[[Array], Array]


def make_schedule(optim: OptimConfig, steps: int, peak: float | None = None) -> Schedule:
    """Learning rate of step t in [0, steps), from `peak` (by default that of the run)."""
    peak = optim.peak_lr if peak is None else peak
    warmup = min(optim.warmup_steps(steps), steps)
    # The first step already learns: a rate of 0 would make it a step that does nothing.
    if not warmup:
        return optax.cosine_decay_schedule(peak, max(steps - 1, 1), optim.final_lr)
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    fall = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), optim.final_lr)
    return optax.join_schedules([rise, lambda t: fall(t + 1)], [warmup])


def make_optimizer(
    optim: OptimConfig, steps: int, groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """Clipping by the global norm, Adam, decoupled decay, the learning rate of each group.

    Args:
        optim: rates and moments.
        steps: length of the run, which the schedule spans.
        groups: the group of every parameter ("default", "no_decay" or "dynamics"), by its path.
    """
    decayed = {path: group == "default" for path, group in groups.items()}
    peaks = {"default": optim.peak_lr, "no_decay": optim.peak_lr}
    peaks["dynamics"] = min(optim.peak_lr, optim.dynamics_lr)
    rates = {
        group: optax.scale_by_learning_rate(make_schedule(optim, steps, peak))
        for group, peak in peaks.items()
    }
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm) if optim.clip_norm else optax.identity(),
        optax.scale_by_adam(optim.b1, optim.b2, optim.eps),
        optax.add_decayed_weights(optim.weight_decay, mask=decayed),
        optax.partition(rates, dict(groups)),
    )
