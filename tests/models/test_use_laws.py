"""Every mixer and preset under the laws of what programs may do with them, by turns each day."""

import dataclasses
import functools
import os

import jax.numpy as jnp
import pytest

from seqzoo.models import MIXERS, PRESETS, Backbone, build, resolve
from seqzoo.models.whole.build import default_backbone
from tests import laws
from tests.flags import DAY
from tests.models.subjects import causal_form, options
from tests.models.tiny import TINY

# Of blocks that write: statistics of batches, and what experts were chosen.
BLOCKS = {"lru, batch norm": {"norm": "batch"}, "lru, experts": {"feedforward": "moe"}}
NAMES = [*(name for name in TINY if "@" not in name), *PRESETS, *BLOCKS]


def todays() -> str:
    """The mixer of the day (SEQZOO_LAWS_DAY)."""
    day = os.environ[DAY]
    return NAMES[0 if day in ("all", "none") else int(day) % len(MIXERS)]


@functools.lru_cache(maxsize=1)
def subject(name: str) -> laws.Subject:
    """A mixer, or the backbone of a preset with as many blocks as its pattern is long."""
    if name in MIXERS:
        make = functools.partial(build, name, causal=causal_form(name), **options(name))
        return laws.Subject(make)
    preset = resolve("lru") if name in BLOCKS else PRESETS[name]
    depth = max(2, len(preset.pattern))
    config = default_backbone("lru" if name in BLOCKS else name)
    config = dataclasses.replace(config, d_model=laws.D, depth=depth, expansion=1.0)
    config = dataclasses.replace(config, **BLOCKS.get(name, {}))
    # A quarter of a head's channels is to be a pair that turns; a norm of one number is its sign.
    more = {"attention": {"d_head": 8}, "mamba": {"dt_rank": 2}}
    each = {
        part: {**options(part), **more.get(part, {}), **_of(preset.options, part)}
        for part in preset.pattern
    }

    def make(_, dtype="float32", param_dtype="float32", *, rngs):
        own = dataclasses.replace(
            config, dtype=jnp.dtype(dtype).name, param_dtype=jnp.dtype(param_dtype).name
        )
        return Backbone(preset.pattern, own, each, rngs=rngs)

    return laws.Subject(make)


def _of(chosen, part):
    """What a preset chooses for one mixer, where its tiny options do not say it."""
    own = chosen.get(part, {})
    flat = {name: value for name, value in chosen.items() if name not in MIXERS}
    return {name: value for name, value in {**flat, **own}.items() if name not in TINY[part]}


CASES = [
    pytest.param(name, law, marks=[] if name == todays() else [pytest.mark.slow])
    for name in NAMES
    for law in laws.laws_of(True, among=laws.USES)
]


@pytest.mark.parametrize(("name", "law"), CASES)
def test_what_programs_do(name, law):
    s = subject(name)
    if law not in laws.laws_of(s.mixer.causal):
        return  # of mixers that stream
    laws.LAWS[law].check(s)
