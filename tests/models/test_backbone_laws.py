"""Whole backbones are mixers and keep their laws."""

import dataclasses
import functools

import pytest

from seqzoo.models import Backbone, BackboneConfig
from tests import laws

pytestmark = pytest.mark.usefixtures("in_short_forms")

SMALL = BackboneConfig(d_model=laws.D, depth=2, expansion=1.0)
RWKV = {"decay_rank": 2, "gate_rank": 2, "value_rank": 2, "chunk_size": 8}
BACKBONES = {
    "conv, normformer, glu": (
        ("attention",),
        dataclasses.replace(
            SMALL, short_conv=3, norm="layer", feedforward="glu", extra_norms="normformer"
        ),
        {},
    ),
    "pattern, batch norm, post": (
        ("linear_attention", "attention"),
        dataclasses.replace(SMALL, norm="batch", norm_position="post", depth=4, remat="full"),
        {},
    ),
    "unrolled pattern, sandwich, swiglu": (
        ("linear_attention", "attention"),
        dataclasses.replace(
            SMALL, scan=False, short_conv=2, feedforward="swiglu", extra_norms="sandwich"
        ),
        {},
    ),
    "canon layers": (
        ("attention",),
        dataclasses.replace(SMALL, short_conv=3, short_conv_at="abcd", feedforward="swiglu"),
        {},
    ),
    # As Zamba2 and Hymba: one block of attention that comes back, mixers side by side.
    "tied": (
        ("min_gru", "attention"),
        dataclasses.replace(SMALL, depth=4, each=({}, {"tied": True})),
        {"min_gru": {"d_hidden": 6}},
    ),
    "parallel": (
        ("min_gru", "attention"),
        dataclasses.replace(SMALL, arrangement="parallel", branch_norm=True, scan=False),
        {"min_gru": {"d_hidden": 6}},
    ),
    # The feed-forward mixes with the token before, and the second block reads the first's values.
    "rwkv": (("rwkv7",), dataclasses.replace(SMALL, feedforward="rwkv", expansion=1.5), RWKV),
}


@functools.lru_cache(maxsize=1)
def subject(name):
    pattern, config, options = BACKBONES[name]
    options = {"num_heads": 2, **options}
    return laws.Subject(lambda _, rngs: Backbone(pattern, config, options, rngs=rngs))


@pytest.mark.parametrize("law", laws.laws_of(True, among=laws.NUMBERS))
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.xdist_group(n), pytest.mark.of_the_day(n)])
        for n in BACKBONES
    ],
)
def test_backbones_keep_the_laws_of_a_mixer(name, law):
    laws.LAWS[law].check(subject(name))
