"""Published claims that are computed rather than trained, for claims.py."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqzoo.models import build
from seqzoo.models.ops import favor_features, random_projection
from seqzoo.models.ssm import reconstruct, remember

SEEN, NOT = "seen", "not seen"


class Measured(NamedTuple):
    """What came of a claim, in words."""

    text: str
    verdict: str


class Direct(NamedTuple):
    """A claim and the function that measures it."""

    source: str
    says: str
    expected: tuple[str, ...]
    measure: Callable[[], Measured]


def ring_norm() -> Measured:
    """E|x|^2 of an LRU's states under white noise, without γ and with it."""
    parts, good = [], True
    for low, high in ((0.0, 0.9), (0.0, 0.99), (0.9, 0.999)):
        law = np.log((1 - low**2) / (1 - high**2)) / (high**2 - low**2)
        norms = []
        for normalize in (False, True):
            options = {"d_state": 4096, "r_min": low, "r_max": high}
            lru = build("lru", d_model=1, rngs=nnx.Rngs(0), normalize=normalize, **options)
            radius = np.exp(-np.exp(np.asarray(lru.nu_log[...], np.float64)))
            gamma = np.exp(np.asarray(lru.gamma_log[...], np.float64)) if normalize else 1.0
            norms.append(float(np.mean(gamma**2 / (1 - radius**2))))
        parts.append(f"[{low}, {high}]: {norms[0]:.2f} of {law:.2f}, with γ {norms[1]:.3f}")
        good &= abs(norms[0] / law - 1) < 0.2 and abs(norms[1] - 1) < 0.05
    return Measured("; ".join(parts), SEEN if good else NOT)


def legs_history() -> Measured:
    """Relative error of a thousand samples read back from LegS, by its size."""
    times = np.arange(1000) / 1000
    ages = times + 0.5 / 1000
    sizes, errors = (4, 8, 16, 32), []
    for n in sizes:
        found = []
        for seed in range(3):
            rng = np.random.default_rng(seed)
            waves = [
                rng.normal() * np.sin(2 * np.pi * (k * times + rng.uniform())) for k in range(1, 6)
            ]
            f = np.sum(waves, axis=0)
            back = reconstruct(remember(f, "legs", n)[-1], "legs", ages)[::-1]
            found.append(np.sqrt(np.mean((back - f) ** 2) / np.mean(f**2)))
        errors.append(float(np.mean(found)))
    text = ", ".join(f"N {n}: {error:.3f}" for n, error in zip(sizes, errors, strict=True))
    good = errors[-1] <= 0.05 and errors[1] >= 0.3 and errors == sorted(errors, reverse=True)
    return Measured(text, SEEN if good else NOT)


def random_feature_error() -> Measured:
    """The slope of the error of positive random features in their number, ten draws each."""
    counts = 2 ** np.arange(4, 13)

    def error(m: int) -> float:
        def one(key: jax.Array) -> jax.Array:
            a, b, c = jax.random.split(key, 3)
            q, k = (0.5 * jax.random.normal(key, (1, 128, 1, 16)) for key in (a, b))
            w = random_projection(c, m, 16, kind="iid")
            own = {"kind": "positive", "stabilizer": "none", "eps": 0.0}
            left, right = (favor_features(x, w, **own)[0, :, 0] for x in (q, k))
            exact = jnp.exp(q[0, :, 0] @ k[0, :, 0].T / 4)
            return 0.5 * jnp.log(jnp.mean((left @ right.T - exact) ** 2) / jnp.mean(exact**2))

        return float(jnp.exp(jax.vmap(one)(jax.random.split(jax.random.key(3), 10)).mean()))

    errors = [error(int(m)) for m in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    text = f"slope {slope:.2f}; {errors[0]:.3f} of 16 features, {errors[-1]:.3f} of 4,096"
    return Measured(text, SEEN if -0.6 <= slope <= -0.4 else NOT)


def _seconds(models: dict[str, nnx.Module], length: int) -> dict[str, float]:
    """Medians of calls that take turns."""
    x = jax.random.normal(jax.random.key(0), (1, length, 128))
    calls = {}
    for name, model in models.items():
        graph, state = nnx.split(model)
        calls[name] = jax.jit(lambda s, x, graph=graph: nnx.merge(graph, s)(x)), state
        jax.block_until_ready(calls[name][0](state, x))
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(9):
        for name, (call, state) in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call(state, x))
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in taken.items()}


def quadratic_cost() -> Measured:
    """Time of softmax attention over that of linear attention, by length."""
    lengths, ratios = (256, 1024, 4096, 16384), []
    models = {
        "attention": build("attention", d_model=128, max_length=lengths[-1], rngs=nnx.Rngs(0)),
        "linear_attention": build("linear_attention", d_model=128, rngs=nnx.Rngs(0)),
    }
    for length in lengths:
        found = _seconds(models, length)
        ratios.append(found["attention"] / found["linear_attention"])
    text = ", ".join(f"{n}: {r:.1f}" for n, r in zip(lengths, ratios, strict=True))
    good = ratios == sorted(ratios) and ratios[-1] >= 5
    return Measured(f"ratio at {text}", SEEN if good else NOT)


def diagonal_cost() -> Measured:
    """Time of a dense recurrence over that of a diagonal one, both of 128 states."""
    models = {
        "lru": build("lru", d_model=128, d_state=128, rngs=nnx.Rngs(0)),
        "rnn": build("rnn", d_model=128, rngs=nnx.Rngs(0)),
    }
    found = _seconds(models, 4096)
    ratio = found["rnn"] / found["lru"]
    return Measured(f"ratio {ratio:.1f} over 4,096 tokens", SEEN if ratio >= 2 else NOT)


DIRECT = {
    "ring-norm": Direct(
        "Orvieto et al. 2023, LRU, proposition 3.3",
        "States of an LRU have the norm that its ring gives them, and γ makes it 1.",
        ("within 20% of log((1-r²)/(1-R²))/(R²-r²); with γ within 5% of 1",),
        ring_norm,
    ),
    "history": Direct(
        "Gu et al. 2020, HiPPO, section 2",
        "LegS keeps the whole past; what is read back is the better the larger it is.",
        ("falls with N: N 8 at least 0.3, N 32 at most 0.05 of five waves (of ten: 0.062)",),
        legs_history,
    ),
    "random-features": Direct(
        "Choromanski et al. 2021, Performer, theorem 4",
        "The error of positive random features falls with the root of their number.",
        ("slope in [-0.6, -0.4]",),
        random_feature_error,
    ),
    "quadratic-cost": Direct(
        "Katharopoulos et al. 2020, figure 1",
        "Linear attention costs less than softmax attention, the more the longer the row.",
        ("the ratio of times grows, and is at least 5 at 16,384 tokens",),
        quadratic_cost,
    ),
    "diagonal-cost": Direct(
        "Orvieto et al. 2023, LRU, table 4",
        "A diagonal recurrence is cheaper than a dense one of the same width.",
        ("ratio at least 2",),
        diagonal_cost,
    ),
}
