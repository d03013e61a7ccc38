"""What is checked of a mixer from outside, all of it or what is cheap, and what a fault means.

    for verdict in verdicts(experiment): print(verdict)     # before training: two laws, seconds

The laws are those of `seqzoo.testing`; one more is tried at the length of the task: that tokens
behind a row, padding or real, change nothing before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from seqzoo.models import registry
from seqzoo.models.config import config_of
from seqzoo.models.foreign.address import short
from seqzoo.models.mixer import Mixer
from seqzoo.models.registry import pattern_options, resolve
from seqzoo.testing import Report, Result, Subject, check_mixer, laws_of, normal
from seqzoo.train.config import Experiment

BROKEN = "broken"  # how a claim that does not hold begins in a table
CHEAP = ("causal", "padding")  # a leak from the future, and padding that is felt
LONGEST = 128  # tokens at which `behind` is tried
ROWS = 2
MEANS = {
    "shapes": "it cannot stand in a block, which adds what comes out to what went in",
    "packed": "a row gives another result when it shares its place with others, or is padded",
    "padding": "the same row gives another result in a batch of longer ones",
    "behind": "the same row gives another result in a batch of longer ones, or sees the future",
    "rows": "a result depends on which other rows are in the batch",
    "parameters": "some parameters learn nothing, and are counted",
    "causal": "it sees what it is to predict, so that its loss says nothing",
    "both-ways": "it is said to see both sides and does not",
    "ragged": "what it gives in a stream is not what it was trained to give",
    "ragged-packed": "in a stream, one document leaks into the next",
    "steps": "token by token it gives something else than in training",
    "idle": "in a stream, padding wears its memory",
    "gradients": "it cannot be trained on a text in parts",
    "state": "its state is not as large as it says, and may hide the inputs",
    "nothing": "an empty chunk or batch ends a program",
    "spoilt-padding": "NaN where there is no token reaches what is real",
    "idle-training": "a batch of padding alone is learned from",
    "wrong-inputs": "a mistake is found late, or never",
    "past-the-end": "tokens past its length are read as others",
    "donation": "a loop that donates its state ends in an error",
    "copies": "it cannot be kept, sent to another process or compared",
    "closure": "it cannot be called from a function that is compiled",
    "dtypes": "a model in bfloat16 or a loop over steps meets another dtype",
    "parameter-dtypes": "it cannot be built with narrow parameters",
    "float64": "a model in float64 is no more exact than one in float32",
    "compiled-once": "outside of jit every call compiles again, and memory grows",
    "mesh": "it does not run where JAX divides its rows",
    "derivatives": "forward mode, or a derivative of a derivative, does not exist or is another",
    "export": "it cannot be exported for batches of any size",
}


class Verdict(NamedTuple):
    """What one law found about one mixer of a model."""

    mixer: str
    law: str
    kept: bool
    seen: str

    def __str__(self) -> str:
        if self.kept:
            return f"{short(self.mixer)} keeps {self.law} ({self.seen})"
        return f"{short(self.mixer)} breaks {self.law}: {self.seen}. That means: {means(self.law)}"


def as_claims(found: Iterable[Verdict]) -> dict[str, str]:
    """Mixer and law -> what was seen, as results keep it."""
    found, words = list(found), {True: "kept", False: BROKEN}
    several = len({verdict.mixer for verdict in found}) > 1
    return {
        f"{short(v.mixer)} {v.law}" if several else v.law: f"{words[v.kept]}: {v.seen}"
        for v in found
    }


def means(law: str) -> str:
    """What it means that a law is broken."""
    return MEANS.get(law, "it does not keep the contract of seqzoo.models.mixer")


def verdicts(experiment: Experiment) -> list[Verdict]:
    """The cheap laws, on every mixer of an experiment that is not ours, with its options."""
    pattern = tuple(dict.fromkeys(resolve(experiment.model).pattern))
    if not any(map(registry.foreign, pattern)):
        return []
    each = pattern_options(pattern, {**resolve(experiment.model).options, **experiment.mixer})
    width, length = experiment.backbone.d_model, experiment.task.spec.length
    found = []
    for name, options in zip(pattern, each, strict=True):
        if registry.foreign(name) is not None:
            make = maker(name, options, causal=experiment.backbone.causal)
            for result in examine(make, width, CHEAP, length).results:
                found.append(Verdict(name, result.law, result.kept, result.seen))
    return found


def sound(experiments: Iterable[Experiment], *, allow: bool = False) -> list[list[Verdict]]:
    """The verdicts on each experiment.

    Raises ValueError for the first law that is broken, unless that is allowed.
    """
    found = [verdicts(experiment) for experiment in experiments]
    broken = [verdict for own in found for verdict in own if not verdict.kept]
    if broken and not allow:
        raise ValueError(
            f"{broken[0]}. `seqzoo check {broken[0].mixer}` tries all laws; --allow-broken trains "
            "it all the same, and the table says so"
        )
    return found


def maker(name: str, options: dict, causal: bool | None = None) -> Callable[..., Mixer]:
    """What `check_mixer` calls to build a mixer by its name."""
    config = config_of(registry.mixer(name))(**options)

    def make(d_model: int, *, rngs) -> Mixer:
        return config.build(d_model, causal=causal, rngs=rngs)

    return make


def examine(
    make: Callable[..., Mixer], width: int, laws: Sequence[str] | None = None, length: int = 0
) -> Report:
    """The laws of those named (all by default) that concern a mixer, and `behind`."""
    with jax.default_matmul_precision("highest"):
        subject = Subject(make, width)
        known = laws_of(subject.mixer.causal, subject.streams)
        wanted = [law for law in known if laws is None or law in laws]
        report = check_mixer(make, d_model=width, laws=wanted)
        extra = _behind(subject, min(length or LONGEST, LONGEST))
    return report._replace(results=(*report.results, extra))


def _behind(s: Subject, length: int) -> Result:
    """Tokens behind a row change nothing before them: padding, and real ones if it is causal."""
    expected = (_behind.__doc__ or "").splitlines()[0]
    few = max(1, length // 2)
    x = normal(31, ROWS, length, s.d_model)
    ids = np.zeros((ROWS, length), np.int32)
    ids[:, :few] = 1
    s.errors.clear()
    try:
        run = jax.jit(lambda params, x, ids: s.merge(params)(x, ids))
        alone = run(s.params, x[:, :few], ids[:, :few])
        s.close(run(s.params, x, ids)[:, :few], alone, what="outputs before padding")
        if s.mixer.causal:
            more = run(s.params, x, np.ones_like(ids))[:, :few]
            s.close(more, alone, what="outputs before more tokens")
    except Exception as error:  # a stranger's mixer raises what it likes
        seen = (
            str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        )
        return Result("behind", False, expected, seen.splitlines()[0])
    return Result("behind", True, expected, f"largest relative rms error {max(s.errors):.1e}")
