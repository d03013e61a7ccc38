"""Optimisers and their schedules, with the learning rates and decay of parameter groups.

lr(t) = peak * t / warmup  up to `warmup` steps, then by the schedule

    clip -> direction (the optimiser) -> decay of the group "default" -> learning rate of each group

An optimiser is a direction, as optax's `scale_by_*` are. AdamW: Loshchilov and Hutter 2019
(arXiv:1711.05101). Lion: Chen et al. 2023 (arXiv:2302.06675). Adafactor: Shazeer and Stern 2018
(arXiv:1804.04235), without momentum. Muon: Jordan et al. 2024, matrices of hidden layers alone,
scaled to the size of AdamW's steps (Liu et al. 2025, arXiv:2502.16982), all else by AdamW.
Schedule-free AdamW: Defazio et al. 2024 (arXiv:2405.15682). Decay is decoupled; of `adam` and `sgd`
it is added to the gradient.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int
from optax import contrib

from seqzoo.models.errors import unknown
from seqzoo.models.foreign import address
from seqzoo.train.config import OptimConfig

Schedule = Callable[[Array], Array]
Direction = optax.GradientTransformation
MATRIX = re.compile(r"(.*/)?(\w*kernel)")  # names of parameters that are matrices
NO_MATRIX = re.compile(r"(out_proj|head)\w*/kernel|.*(conv|embed)\w*/.*")  # heads, tables
MUON_RMS = 0.2  # of a step, as AdamW's are
# Numbers that only enter the update, so that replicas may each have their own.
NUMBERS = ("peak_lr", "dynamics_lr", "final_lr", "weight_decay", "clip_norm")
FASTEST = 10.0  # steps over which an average begins


def with_numbers(optim: OptimConfig, numbers: Mapping[str, Any]) -> OptimConfig:
    """The configuration with arrays, traced ones too, in place of some of `NUMBERS`."""
    made = copy.copy(optim)
    for name, value in numbers.items():
        object.__setattr__(made, name, value)  # checks of a configuration need values
    return made


def make_schedule(optim: OptimConfig, steps: int, peak: float | None = None) -> Schedule:
    """Learning rate of step t in [0, steps), from `peak` (by default that of the run)."""
    peak = optim.peak_lr if peak is None else peak
    warmup = min(optim.warmup_steps(steps), steps)
    # The first step already learns: a rate of 0 would make it a step that does nothing.
    fall = _falling(optim, peak, steps, warmup)
    if not warmup:
        return fall
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, lambda t: fall(t + 1)], [warmup])


def _falling(optim: OptimConfig, peak: float, steps: int, warmup: int) -> Schedule:
    """From the peak, at 0, to the last step."""
    count, end = max(steps - (warmup or 1), 1), peak * optim.final_lr
    kind = optim.schedule
    if kind == "auto":
        kind = "constant" if optim.name == "schedule_free" else "cosine"
    if kind == "cosine":
        return optax.cosine_decay_schedule(peak, count, optim.final_lr)
    if kind == "linear":
        return optax.linear_schedule(peak, end, count)
    if kind == "inverse_sqrt":
        since = max(warmup, 1)
        return lambda t: peak * jnp.sqrt(since / (since + t))
    if kind == "wsd":
        down = min(max(round(optim.decay * steps), 1), count)
        return optax.join_schedules(
            [optax.constant_schedule(peak), optax.linear_schedule(peak, end, down)], [count - down]
        )
    return optax.constant_schedule(peak)


def make_optimizer(
    optim: OptimConfig, steps: int, groups: Mapping[str, str]
) -> optax.GradientTransformation:
    """The optimiser of a run.

    Args:
        optim: which one, rates and moments.
        steps: length of the run, which the schedule spans.
        groups: the group of every parameter ("default", "no_decay" or "dynamics"), by its path.

    Raises ValueError for a name that does not exist, and where nothing would learn.
    """
    decayed = {path: group == "default" for path, group in groups.items()}
    peaks = {"default": optim.peak_lr, "no_decay": optim.peak_lr}
    rates = (optim.peak_lr, optim.dynamics_lr)
    known = all(isinstance(rate, float | int) for rate in rates)
    peaks["dynamics"] = min(rates) if known else jnp.minimum(*rates)
    rates = {
        group: optax.scale_by_learning_rate(make_schedule(optim, steps, peak))
        for group, peak in peaks.items()
    }
    clips = not isinstance(optim.clip_norm, float | int) or optim.clip_norm > 0
    clip = optax.clip_by_global_norm(optim.clip_norm) if clips else optax.identity()
    decay = optax.add_decayed_weights(optim.weight_decay, mask=decayed)
    rate, direction = optax.partition(rates, dict(groups)), _direction(optim)
    parts = (decay, direction) if optim.name in COUPLED else (direction, decay)
    tx = optax.chain(clip, *parts, rate)
    if optim.name == "schedule_free":
        schedule = make_schedule(optim, steps)
        tx = contrib.schedule_free(tx, schedule, b1=optim.b1)
    if optim.trained:
        tx = _holding(tx, _held(optim.trained, groups))
    return optax.chain(tx, averaged(optim.ema)) if optim.ema else tx


def _holding(tx: Direction, held: Mapping[str, bool]) -> Direction:
    """`tx` for what is not held: the rest has no part in the gradient's norm, and no decay."""

    def zeroed(tree: Mapping[str, Array]) -> dict[str, Array]:
        return {path: jnp.zeros_like(x) if held[path] else x for path, x in tree.items()}

    def update(grads: Mapping[str, Array], state: Any, params: Any = None) -> tuple:
        updates, state = tx.update(zeroed(grads), state, params)
        return zeroed(updates), state

    return optax.GradientTransformation(tx.init, update)


def _held(trained: str, groups: Mapping[str, str]) -> dict[str, bool]:
    """The parameters that stay as they are."""
    try:
        held = {path: not re.search(trained, path) for path in groups}
    except re.error as error:
        raise ValueError(f"optim.trained is no regular expression: {trained!r}: {error}") from None
    if all(held.values()):
        raise ValueError(
            f"optim.trained={trained!r} is found in no parameter's path, so nothing would learn; "
            f"there are {', '.join(sorted(groups)[:8])}{' ...' if len(groups) > 8 else ''}"
        )
    return held


def _adam(optim: OptimConfig) -> Direction:
    return optax.scale_by_adam(optim.b1, optim.b2, optim.eps)


def _adafactor(optim: OptimConfig) -> Direction:
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )


def _muon(optim: OptimConfig) -> Direction:
    return contrib.muon(
        -1.0,  # a direction: the rate, and its sign, come later
        beta=optim.momentum,
        eps=optim.eps,
        adam_b1=optim.b1,
        adam_b2=optim.b2,
        adam_learning_rate=-1.0,
        consistent_rms=MUON_RMS,
        muon_weight_dimension_numbers=_matrices,
    )


def _matrices(params: Mapping[str, Any]) -> dict[str, contrib.MuonDimensionNumbers | None]:
    """Which axes of which parameters are those of a matrix; stacked layers have more in front."""

    def axes(path: str, ndim: int) -> contrib.MuonDimensionNumbers | None:
        if ndim < 2 or not MATRIX.fullmatch(path) or NO_MATRIX.fullmatch(path):
            return None
        return contrib.MuonDimensionNumbers(ndim - 2, ndim - 1)

    return {path: axes(path, getattr(p, "ndim", 0)) for path, p in params.items()}


OPTIMISERS: dict[str, Callable[[OptimConfig], Direction]] = {
    "adamw": _adam,
    "adam": _adam,
    "sgd": lambda optim: optax.trace(optim.b1),
    "lion": lambda optim: optax.scale_by_lion(optim.b1, optim.b2),
    "adafactor": _adafactor,
    "muon": _muon,
    # The momentum is in the average; see `schedule_free` in `make_optimizer`.
    "schedule_free": lambda optim: optax.scale_by_adam(0.0, optim.b2, optim.eps),
}
COUPLED = ("adam", "sgd")  # decay is part of the gradient


def check_optimizer(optim: OptimConfig) -> None:
    """Raises ValueError for an optimiser that is not there."""
    _direction(optim)


def _direction(optim: OptimConfig) -> Direction:
    if optim.name in OPTIMISERS:
        return OPTIMISERS[optim.name](optim)
    if not address.is_address(optim.name):
        raise unknown("optimiser", optim.name, OPTIMISERS)
    made = address.load(optim.name)
    made = made(optim) if callable(made) else made
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise ValueError(
            f"{optim.name} gave {type(made).__name__}; it is a function of the run's OptimConfig "
            "that gives an optax.GradientTransformation, a direction as optax.scale_by_adam() is"
        )
    return made


class Averaged(NamedTuple):
    """The state of `averaged`."""

    count: Int[Array, ""]
    params: Any  # the average


def averaged(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential average of the parameters; the last of a chain.

    Early on it forgets faster, by min(decay, (1 + t) / (10 + t)), so that it does not remember the
    initialisation.
    """

    def init(params: Any) -> Averaged:
        return Averaged(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(updates: Any, state: Averaged, params: Any) -> tuple[Any, Averaged]:
        count = state.count + 1
        keep = jnp.minimum(decay, (1.0 + count) / (FASTEST + count))
        now = optax.apply_updates(params, updates)
        mixed = jax.tree.map(
            lambda old, new: (keep * old + (1 - keep) * new).astype(old.dtype), state.params, now
        )
        return updates, Averaged(count, mixed)

    return optax.GradientTransformation(init, update)


def evaluated_weights(optim: OptimConfig) -> Callable[[Any, Any], Any] | None:
    """What makes of (optimiser's state, parameters) those to evaluate; None: the parameters."""
    if optim.ema:
        return lambda state, params: state[-1].params
    if optim.name == "schedule_free":
        return contrib.schedule_free_eval_params
    return None
