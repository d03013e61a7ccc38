"""Mixers from outside under the laws: what each fault is called before a step is trained."""

import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo.models import Mixer
from seqzoo.models.foreign import address
from seqzoo.models.foreign.plain import as_mixer
from seqzoo.models.ops.scan.linear import linear_scan
from seqzoo.train.loop.claims import Verdict, as_claims, examine, means, sound, verdicts


class Sums(nnx.Module):
    """Right: sums so far."""

    def __init__(self, d_model: int, *, rngs: nnx.Rngs):
        self.proj = nnx.Linear(d_model, d_model, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return jnp.cumsum(self.proj(x), axis=1)


class SeesOneAhead(Sums):
    def __call__(self, x):
        return super().__call__(x) + jnp.roll(x, -1, axis=1)


class SeesFarAhead(Sums):
    """Further than the rows of the laws are long."""

    def __call__(self, x):
        far = x[:, 40:] if x.shape[1] > 40 else x[:, :0]
        return super().__call__(x) + jnp.pad(far, ((0, 0), (0, x.shape[1] - far.shape[1]), (0, 0)))


class FeelsPadding(Sums):
    causal = False

    def __call__(self, x):
        return self.proj(x + x.mean(1, keepdims=True))


class MixesRows(Sums):
    def __call__(self, x):
        return super().__call__(x - x.mean(0, keepdims=True))


class Narrows(Sums):
    def __call__(self, x):
        return super().__call__(x).astype(jnp.bfloat16)


class Shortens(Sums):
    def __call__(self, x):
        return super().__call__(x)[:, 1:]


class Hoards(Mixer):
    """Its state is all the inputs, and says that it is one row."""

    def __init__(self, d_model: int, *, rngs: nnx.Rngs):
        self.proj = nnx.Linear(d_model, d_model, use_bias=False, rngs=rngs)

    def _initial(self, batch_size):
        return jnp.zeros((batch_size, 8, self.d_model)), jnp.zeros((batch_size, self.d_model))

    def state_size(self):
        return self.d_model

    def _mix(self, x, inner, ctx):
        kept, h = (None, None) if inner is None else inner
        y = linear_scan(jnp.ones((1, 1, 1)), self.proj(x), h, segment_ids=ctx.segments)
        if inner is not None:
            kept = jnp.concatenate([kept, x], 1)[:, -8:]
        return y, (kept, y[:, -1])


class SumsBothWays(Sums):
    """Right: told which tokens are real."""

    causal = False

    def __call__(self, x, mask):
        return self.proj(x + jnp.where(mask[..., None], x, 0).sum(1, keepdims=True))


def broken(kind, laws, length=60):
    made = as_mixer(kind, f"mine.py:{kind.__name__}")
    report = examine(lambda d, rngs: made(d, rngs=rngs), 8, laws, length)
    return {result.law: result.seen for result in report.broken}


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("kind", "law", "words"),
    [
        (SeesOneAhead, "causal", "before the changed future"),
        (SeesFarAhead, "behind", "before more tokens"),
        (FeelsPadding, "behind", "before padding"),
        (MixesRows, "rows", "of the row that stayed"),
        (Hoards, "state", "72.0 numbers for a row, state_size() says 8"),
        (Narrows, "shapes", "Narrows gave bfloat16 for rows of float32"),
        (Shortens, "shapes", "Shortens gave (4, 12, 8) for rows of (4, 13, 8)"),
    ],
)
def test_a_broken_mixer_is_caught_with_its_sentence(kind, law, words):
    seen = broken(kind, [law])
    assert words in seen[law]
    assert "contract" not in means(law)


@pytest.mark.of_the_day("right claims", 3)
def test_right_ones_break_nothing():
    assert broken(Sums, None) == {}
    assert broken(SumsBothWays, None) == {}


class AsTold(Sums):
    """As far ahead as its option says, of a width of 6."""

    def __init__(self, d_model: int, *, ahead: int = 0, rngs: nnx.Rngs):
        assert d_model == 6
        super().__init__(d_model, rngs=rngs)
        self.ahead = ahead

    def __call__(self, x):
        return super().__call__(x) + jnp.roll(x, -self.ahead, axis=1)


class Tiny:
    """Of an experiment what `verdicts` reads."""

    def __init__(self, model, length=60, mixer=None, **backbone):
        from seqzoo.models import BackboneConfig, ModelSpec

        self.model, self.mixer = model, mixer or {}
        self.backbone = BackboneConfig(**{"d_model": 8, **backbone})
        spec = ModelSpec(head="lm", vocab_size=4, outputs=4, length=length)
        self.task = type("Task", (), {"spec": spec})


@pytest.mark.of_the_day("two laws before training", 2)
def test_before_training_two_laws_are_tried_on_what_is_not_ours():
    assert verdicts(Tiny("lru")) == []
    right, wrong = (Tiny(f"{address.register(kind)},lru") for kind in (Sums, SeesOneAhead))
    (found,) = sound([right])
    assert all(verdict.kept for verdict in found)
    assert [verdict.law for verdict in found] == ["padding", "causal", "behind"]
    with pytest.raises(ValueError, match=r"SeesOneAhead breaks causal: .*sees what it is to"):
        sound([right, wrong])
    _, found = sound([right, wrong], allow=True)
    assert as_claims(found)["causal"].startswith("broken: outputs before the changed future")


@pytest.mark.of_the_day("tried with its options", 3)
def test_a_mixer_is_tried_with_its_options_and_as_the_model_has_it():
    own = address.register(AsTold)
    found = verdicts(Tiny(own, mixer={"ahead": 1}, d_model=6))
    assert {v.law: v.kept for v in found} == {"padding": True, "causal": False, "behind": False}
    found = verdicts(Tiny(own, d_model=6, causal=False))
    assert {v.law: v.kept for v in found} == {"padding": True, "behind": True}


@pytest.mark.slow
def test_it_is_tried_at_the_length_of_the_task():
    far = address.register(SeesFarAhead)
    kept = [verdicts(Tiny(far, length=length))[-1].kept for length in (30, 60, 1000)]
    assert kept == [True, False, False]


def test_claims_of_several_mixers_say_whose_they_are():
    found = [Verdict("mine.py:A", "causal", True, "x"), Verdict("mine.py:B", "causal", False, "y")]
    assert as_claims(found) == {"A causal": "kept: x", "B causal": "broken: y"}
    assert as_claims(found[:1]) == {"causal": "kept: x"}


@pytest.mark.of_the_day("claims mean", 3)
def test_every_law_has_a_meaning():
    from seqzoo.testing import LAWS
    from seqzoo.train.loop.claims import MEANS

    assert set(LAWS) <= set(MEANS)
