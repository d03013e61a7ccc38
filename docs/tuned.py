"""Architectures on several tasks, tuned, at equal cost: the comparisons of a plan and their page.

    python docs/tuned.py eight                          # docs/eight.toml, hours of two cores
    python docs/tuned.py long                           # docs/long.toml, hours more
    python docs/tuned.py families                       # docs/families.toml, new mixers
    python docs/tuned.py hybrids                        # docs/hybrids.toml, shares of attention
    python docs/tuned.py eight --only parameters/recall # one comparison
    python docs/tuned.py eight --page                   # the tables of what is there

Comparisons are kept in --out and go on where they were stopped. The results of those that are
whole are kept in docs/compared too, and the tables, docs/PLAN.md, are of both.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shlex
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare import results
from seqzoo.train.compare.formats import show
from seqzoo.train.compare.pairs import differences_of
from seqzoo.train.compare.results import Comparison, ModelResult
from seqzoo.train.compare.statistics import SHARE, bounds_of, interval
from seqzoo.train.devices.backend import reuse_memory
from seqzoo.train.out.figures import figures

HERE = Path(__file__).parent
KEPT = HERE / "compared"
MINUTES = "minutes.txt"
WORDS = {"parameters": "parameters", "flops": "operations a step"}
RATE, DEFAULT = "optim.peak_lr", 1e-3  # what nobody who does not tune would change

HEAD = """# {title}

    python docs/tuned.py {name}

{says} Sizes are matched to within 3%, by the width of the feed-forward or, where it must be, more
([matching](matching.md)). Test means with 95% intervals; **bold**: the best and those that no test
tells apart from it (paired differences, Holm). In brackets the best rate, `!` where it is the end
of those that were tried. Flags are in `docs/{name}.toml`.
"""
RUNS = """Every run is in `docs/compared/{name}` ([format](results_format.md)); `seqzoo report`
makes pages and tables of it.
"""


def words_of(plan: Mapping[str, Any], matching: str, task: str) -> list[str]:
    """The command line of one comparison, but for its folder."""
    flags = (plan["tasks"][task]["flags"], plan["models"], plan["shared"])
    return [*shlex.split(" ".join(flags)), "--match", matching]


def standing(comparison: Comparison) -> dict[str, float]:
    """Test means of the models that finished in every seed."""
    metric, found = comparison.main_metric, {}
    for model in comparison.models:
        values = [run.final.get(metric) for run in model.seeds]
        if None not in values:
            found[model.name] = sum(values) / len(values)
    return found


def cell(comparison: Comparison, model: ModelResult, level: set[str]) -> str:
    """Mean, interval and rate of one model."""
    metric = comparison.main_metric
    values = [run.final.get(metric) for run in model.seeds]
    if None in values:
        return f"{sum(v is None for v in values)} of {len(values)} seeds failed"
    found = interval(values, bounds=bounds_of(metric))
    shown = show(found.mean, metric)
    shown = f"**{shown}**" if model.name in level else shown
    rates = sorted(trial.values[RATE] for trial in model.trials)
    rate = model.tuned_values[RATE]
    edge = "!" if rate in (rates[0], rates[-1]) else ""
    return f"{shown} ({show(found.low, metric)} to {show(found.high, metric)}) [{rate:g}{edge}]"


def best_of(comparison: Comparison) -> set[str]:
    """The best model and those that are not told apart from it."""
    means = standing(comparison)
    sign = 1 if comparison.higher_is_better else -1
    best = max(means, key=lambda name: sign * means[name])
    apart = {
        {pair.first, pair.second}.symmetric_difference({best}).pop()
        for pair in differences_of(comparison)
        if best in (pair.first, pair.second) and pair.verdict == "different"
    }
    return set(means) - apart


def trial_scores(comparison: Comparison, *, tuned: bool) -> dict[str, float]:
    """Validation scores at the default rate, or at each model's best."""
    found = {}
    for model in comparison.models:
        for i, trial in enumerate(model.trials):
            wanted = i == model.chosen if tuned else trial.values[RATE] == DEFAULT
            if wanted and trial.scores and None not in trial.scores:
                found[model.name] = sum(trial.scores) / len(trial.scores)
    return found


def reversed_pairs(one: Mapping[str, float], other: Mapping[str, float]) -> Iterator[str]:
    """Pairs of models that two scores order differently, by more than a hundredth in both."""
    for a, b in itertools.combinations([name for name in one if name in other], 2):
        first, second = one[a] - one[b], other[a] - other[b]
        if first * second < 0 and min(abs(first), abs(second)) > 0.01:
            yield f"{a} and {b}" if first > 0 else f"{b} and {a}"


def beside(comparison: Comparison, predecessors: Mapping[str, str]) -> dict[str, str]:
    """Each model minus the one it goes on from: the paired difference of means, 95% interval."""
    metric, found = comparison.main_metric, {}
    for name, before in predecessors.items():
        pair = [
            [run.final.get(metric) for run in comparison.model(n).seeds] for n in (name, before)
        ]
        if None in pair[0] + pair[1]:
            found[name] = "a seed failed"
            continue
        gap = interval([a - b for a, b in zip(*pair, strict=True)])
        scale, most = (100, 100) if bounds_of(metric) == SHARE else (1, math.inf)
        ends = (gap.mean - gap.half_width, gap.mean + gap.half_width)
        low, high = (min(max(scale * end, -most), most) for end in ends)
        words = f"{scale * gap.mean:+z.1f} ({low:+z.1f} to {high:+z.1f})"
        # Without spread between the seeds there is no interval that could hold a zero.
        clear = gap.half_width > 0 and low * high > 0
        found[name] = f"**{words}**" if clear else words
    return found


def page(name: str, plan: Mapping[str, Any], out: Path) -> str:
    """The tables of the comparisons that are whole."""
    kept = KEPT / name
    names = itertools.product(plan["matchings"], plan["tasks"])
    places = {(m, t): place(out / m / t, kept / m / t) for m, t in names}
    there = {key: results.load(at / results.FILE) for key, at in places.items() if at}
    if not there:
        raise SystemExit(f"nothing is whole in {out} or {kept}; the page stays as it is")
    head = HEAD.format(name=name, title=plan["title"], says=plan["says"].replace("\n", " "))
    head += RUNS.format(name=name) if kept.exists() else ""
    parts = [head, tasks_table(plan, places)]
    for matching in plan["matchings"]:
        tasks = [task for task in plan["tasks"] if (matching, task) in there]
        if not tasks:
            continue
        parts.append(f"\n## Equal {WORDS[matching]}\n")
        parts.append(f"| model | {' | '.join(tasks)} |\n|{'---|' * (len(tasks) + 1)}")
        levels = {task: best_of(there[matching, task]) for task in tasks}
        for name in there[matching, tasks[0]].labels:
            cells = [
                cell(there[matching, t], there[matching, t].model(name), levels[t]) for t in tasks
            ]
            parts.append(f"| {name} | {' | '.join(cells)} |")
    parts += pictures(plan, there)
    if "predecessors" in plan:
        parts.append(beside_table(plan["predecessors"], {t: c for (_, t), c in there.items()}))
    changes = []
    for (matching, task), found in there.items():
        untuned, best = (trial_scores(found, tuned=tuned) for tuned in (False, True))
        if not untuned:  # the default was not among the rates
            continue
        pairs = list(reversed_pairs(untuned, best))
        changes.append(
            f"- {task}, equal {WORDS[matching]}, from {DEFAULT:g} for all to the best rate of each "
            f"(validation): {', '.join(pairs) or 'no pair'}."
        )
    for task in plan["tasks"]:
        both = [there[m, task] for m in WORDS if (m, task) in there]
        if len(both) == len(WORDS):
            scores = map(standing, both)
            pairs = list(reversed_pairs(*scores))
            changes.append(
                f"- {task}, from equal {WORDS['parameters']} to equal {WORDS['flops']} (test): "
                f"{', '.join(pairs) or 'no pair'}."
            )
    if changes:
        parts += ["\n## Where the order changes\n", *changes]
    return "\n".join(parts) + "\n"


def pictures(plan: Mapping[str, Any], found: Mapping[tuple[str, str], Comparison]) -> Iterator[str]:
    """Draws hybrids over the share of a mixer, a file for each comparison that has them."""
    for (matching, task), comparison in found.items():
        for name, text in figures(comparison):
            if "share" in name:
                file = f"hybrids_{task}.svg"
                (HERE / file).write_text(text)
                yield f"\n## {task}, equal {WORDS[matching]}\n\n![{plan['title']}: {task}]({file})"


def beside_table(predecessors: Mapping[str, str], found: Mapping[str, Comparison]) -> str:
    """`beside` of every task."""
    columns = {task: beside(comparison, predecessors) for task, comparison in found.items()}
    lines = [
        "\n## Beside the predecessor\n",
        "Paired differences over the seeds, in points, each with its own interval (not corrected "
        "for how many there are); **bold** where it holds no zero.\n",
        f"| model | goes on from | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}",
    ]
    for name, before in predecessors.items():
        cells = " | ".join(column[name] for column in columns.values())
        lines.append(f"| {name} | {before} | {cells} |")
    return "\n".join(lines)


def tasks_table(plan: Mapping[str, Any], places: Mapping[tuple[str, str], Path | None]) -> str:
    """What each task is, and how long its comparisons took."""
    lines = ["| task | what | minutes, by matching |", "|---|---|---|"]
    for task, own in plan["tasks"].items():
        taken = [at for m in plan["matchings"] if (at := places[m, task])]
        minutes = " and ".join((at / MINUTES).read_text() for at in taken)
        lines.append(f"| {task} | {own['says']} | {minutes or 'not run yet'} |")
    return "\n".join(lines)


def keep(folder: Path, kept: Path, name: str) -> None:
    """What of a whole comparison its tables are made of, into the project."""
    kept.mkdir(parents=True, exist_ok=True)
    text = (folder / results.FILE).read_text().replace(str(folder), f"runs/{name}")
    short = json.dumps(json.loads(text), separators=(",", ":"))  # half of the bytes
    (kept / results.FILE).write_text(short + "\n")
    (kept / MINUTES).write_text((folder / MINUTES).read_text())


def place(*folders: Path) -> Path | None:
    """The first that has a comparison of all its models."""
    files = ((folder, folder / results.FILE) for folder in folders)
    return next((at for at, f in files if f.exists() and not results.load(f).missing), None)


def main() -> None:
    """Reads the command line, trains what is missing, writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "name", choices=("eight", "long", "families", "hybrids"), help="of the plan"
    )
    parser.add_argument("--out", type=Path, help="of comparisons; runs/NAME where it is not given")
    parser.add_argument("--only", default="", help="MATCHING/TASK")
    parser.add_argument("--page", action="store_true", help="train nothing")
    options = parser.parse_args()
    reuse_memory()
    plan = tomllib.loads((HERE / f"{options.name}.toml").read_text())
    out = options.out or Path("runs") / options.name
    every = [f"{matching}/{task}" for task in plan["tasks"] for matching in plan["matchings"]]
    if options.only and options.only not in every:
        parser.error(f"--only {options.only!r}: choose one of {', '.join(every)}")
    for name in [] if options.page else [options.only] if options.only else every:
        folder = out / name
        if place(folder):
            continue
        start, minutes = time.perf_counter(), folder / MINUTES
        code = dispatch(["compare", *words_of(plan, *name.split("/")), "--out", str(folder)])
        before = float(minutes.read_text()) if minutes.exists() else 0.0
        minutes.write_text(f"{before + (time.perf_counter() - start) / 60:.0f}")
        if code:
            raise SystemExit(code)
        keep(folder, KEPT / options.name / name, f"{options.name}/{name}")
    (HERE / f"{options.name}.md").write_text(page(options.name, plan, out))


if __name__ == "__main__":
    main()
