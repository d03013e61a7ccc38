"""Published claims, tried: `python docs/claims.py [NAME ...]` or `make claims`.

Each claim of claims.toml is a comparison of a few minutes, kept in --out and gone on with where it
was stopped. What came of it goes into claims.json; claims.md is made of both.
"""

from __future__ import annotations

import argparse
import json
import operator
import re
import shlex
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from claims_direct import DIRECT, NOT, SEEN, Measured  # noqa: E402

from seqzoo.train.cli.command import dispatch  # noqa: E402
from seqzoo.train.compare import results  # noqa: E402
from seqzoo.train.compare.results import Comparison, SeedResult  # noqa: E402
from seqzoo.train.compare.statistics import Interval, bounds_of, interval  # noqa: E402
from seqzoo.train.devices.backend import reuse_memory  # noqa: E402

SHARED = "--seeds 3 --eval-every 0 --eval-batch-size 128 --vectorise always --threads 0"
SIZES = "--data.validation-size 128 --data.test-size 512"  # where the task draws its rows
KEPT, PAGE = HERE / "claims.json", HERE / "claims.md"
WAYS: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
WEAK = "seen, not sure"
HEAD = """# Published claims, tried at small scale

    make claims                      # all; about {minutes:.0f} minutes of the machine below
    python docs/claims.py parity     # one

Each claim of the literature is a comparison small enough for two CPU cores, with what is expected
of it fixed beforehand (`docs/claims.toml` has commands and bounds). Three seeds; means with 95%
intervals that stay in range; differences are over the same seeds. **seen**: the interval lies on
the right side of the bound; **seen, not sure**: the mean does, the interval does not; **not seen**:
the mean does not. Small models, short rows and few steps: a claim that is not seen here is not
refuted, one that is seen holds in this configuration. Claims without a command are computed, not
trained. Two shared CPU cores, busy with other work; seconds are wall time.

Of {count} tried: {verdicts}.

| claim | source | expected | measured | verdict | seconds |
|---|---|---|---|---|---|
"""


class Expected(NamedTuple):
    """A >= 0.9, or A - B >= 0.2."""

    models: tuple[str, ...]
    way: str
    bound: float

    @classmethod
    def of(cls, text: str) -> Expected:
        """Reads one. Raises ValueError for anything else."""
        found = re.fullmatch(r"(\S+)(?: - (\S+))? (>=|<=) (\S+)", text)
        if not found:
            raise ValueError(f"{text!r} is no `A >= 0.9` and no `A - B >= 0.2`")
        first, second, way, bound = found.groups()
        return cls((first, second) if second else (first,), way, float(bound))

    def verdict(self, found: Interval) -> str:
        """What may be said of it."""
        holds = WAYS[self.way]
        if not holds(found.mean, self.bound):
            return NOT
        near = found.low if self.way == ">=" else found.high
        return SEEN if holds(near, self.bound) else WEAK


def value(run: SeedResult, metric: str) -> float:
    """A metric of the test split, `accuracy`, or of an axis, `length=100:accuracy`."""
    axis, _, name = metric.rpartition(":")
    if not axis:
        return float(run.final.get(name) or 0.0) if run.final else float("nan")
    which, _, at = axis.partition("=")
    curve = run.axes[which]
    return float(curve[name][curve["at"].index(float(at))])


def of(comparison: Comparison, expected: Expected, metric: str) -> Interval:
    """Over the seeds of a model, or over those that two have."""
    each = []
    for label in expected.models:
        model = comparison.model(label)
        if model is None:
            raise ValueError(f"{expected}: there is no model {label}")
        each.append({run.seed: value(run, metric) for run in model.seeds})
    if len(each) == 1:
        return interval(list(each[0].values()), bounds=bounds_of(metric.rpartition(":")[2]))
    first, second = each
    return interval([first[seed] - second[seed] for seed in sorted({*first} & {*second})])


def shown(found: Interval, metric: str) -> str:
    """Mean and both ends."""
    share = metric.endswith("accuracy")
    scale, digits, unit = (100, 1, "%") if share else (1, 3, "")
    values = (found.mean, found.low, found.high)
    if share:  # two differ by the whole at most
        values = tuple(min(max(x, -1.0), 1.0) for x in values)
    ends = [f"{scale * x:.{digits}f}" for x in values]
    return f"{ends[0]}{unit} ({ends[1]} to {ends[2]})"


def trained(name: str, claim: Mapping[str, Any], out: Path) -> Measured:
    """The comparison of a claim, or what it left, against what was expected."""
    folder = out / name
    words = shlex.split(claim["command"])
    shared = shlex.split(f"{SHARED} {SIZES}" if claim.get("drawn", True) else SHARED)
    for flag, text in zip(shared[::2], shared[1::2], strict=True):
        words += [] if flag in words else [flag, text]
    code = dispatch(["compare", *words, "--out", str(folder)])
    if code:
        raise SystemExit(code)
    comparison = results.load(folder / results.FILE)
    metric = claim.get("metric", "accuracy")
    lines, verdicts = [], []
    for text in claim["expected"]:
        expected = Expected.of(text)
        found = of(comparison, expected, metric)
        lines.append(f"{' - '.join(expected.models)}: {shown(found, metric)}")
        verdicts.append(expected.verdict(found))
    worst = max(verdicts, key=(SEEN, WEAK, NOT).index)
    return Measured("; ".join(lines), worst)


def main() -> None:
    """Reads the command line, tries what is asked for, writes the page."""
    reuse_memory()
    claims = tomllib.loads((HERE / "claims.toml").read_text())
    every = [*claims, *DIRECT]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(every))
    parser.add_argument("--out", type=Path, default=Path("runs/claims"), help="of comparisons")
    options = parser.parse_args()
    if unknown := {*options.names} - {*every}:
        parser.error(f"no claim {', '.join(unknown)}; there are {', '.join(every)}")
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in options.names or every:
        start = time.perf_counter()
        claim = claims.get(name)
        found = trained(name, claim, options.out) if claim else DIRECT[name].measure()
        seconds = time.perf_counter() - start
        kept[name] = {**found._asdict(), "seconds": round(seconds)}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        print(f"{name}: {found.verdict}: {found.text}")
    PAGE.write_text(page(claims, kept))


def page(claims: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """claims.md."""
    rows = []
    for name in [*claims, *DIRECT]:
        if name not in kept:
            continue
        claim = claims.get(name) or DIRECT[name]._asdict()
        metric = claim.get("metric", "accuracy" if name in claims else "")
        expected = "; ".join(claim["expected"]) + (f" ({metric})" if metric else "")
        own = kept[name]
        rows.append(
            f"| `{name}`: {claim['says']} | {claim['source']} | {expected} | {own['text']} "
            f"| {own['verdict']} | {own['seconds']} |"
        )
    minutes = sum(own["seconds"] for own in kept.values()) / 60
    counts = Counter(own["verdict"] for own in kept.values())
    verdicts = "; ".join(f"{counts[verdict]} {verdict}" for verdict in (SEEN, WEAK, NOT))
    head = HEAD.format(minutes=minutes, count=len(kept), verdicts=verdicts)
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
