"""The tree of the site, and the generated pages by their address."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pages import mixers, reference, tasks
from seqzoo.models import MIXERS
from seqzoo.tasks import TASKS

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
# What docs/tuned.py makes, in hours: a page is there when its comparisons are.
TUNED = {
    "eight.md": "Eight architectures, tuned",
    "families.md": "New mixers beside old ones",
    "hybrids.md": "Hybrids by their share of attention",
    "long.md": "Five families, longer",
}


def tree() -> list:
    """What stands in the navigation, in mkdocs' form; a page that no section names comes last."""
    sections = _sections()
    named = set(targets(sections))
    written = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    return [
        *sections,
        *({"More": rest} for rest in [[p for p in written if p not in named]] if rest),
    ]


def targets(entries: list) -> Iterator[str]:
    """The addresses of all pages of a navigation."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for below in entry.values():
                yield from targets([below] if isinstance(below, str) else below)


def _sections() -> list:
    plans = sorted(page.name for page in DOCS.glob("plans*.md"))
    return [
        {"Home": "index.md"},
        {
            "Guides": [
                {"Quick start": "guides/start.md"},
                {"Reuse a module": "reuse.md"},
                {"Stream and generate": "guides/stream.md"},
                {"Pack and pad": "guides/pack.md"},
                {"Train from a state": "guides/state.md"},
                {"Train one model": "guides/train.md"},
                {"Bring your own mixer, task and data": "extend.md"},
                {"A first afternoon": "walk.md"},
                {"Compare fairly": "guides/compare.md"},
                {"Sweep: tune equally": "tuning.md"},
                {"Pods and preemption": "pods.md"},
                {"Plan before renting": "guides/plan.md"},
                {"Weights in and out": "pretrained.md"},
                {"Language modelling and pretraining": "language.md"},
                {"Learning from views": "selfsupervision.md"},
                {"Real series and genomes": "series.md"},
            ]
        },
        {"Mixers": ["mixers.md", *({name: f"mixers/{name}.md"} for name in MIXERS)]},
        {"Tasks": ["tasks.md", *({name: f"tasks/{name}.md"} for name in TASKS)]},
        {
            "Reference": [
                *(
                    {p: address}
                    for p, address in zip(reference.PACKAGES, reference.pages(), strict=True)
                ),
                {"What a comparison leaves": "results_format.md"},
                {"What the numbers mean": "statistics.md"},
                {"Models that cost the same": "matching.md"},
                {"Places": "places.md"},
                {"Versions": "versions.md"},
            ]
        },
        {
            "Measured": [
                {"Results": "results.md"},
                *({title: page} for page, title in TUNED.items() if (DOCS / page).exists()),
                {"Claims of papers": "claims.md"},
                {"Speed": "speed.md"},
                *plans,
                {"Forms of the primitives": "forms.md"},
                {"Forms on GPUs": "forms_gpu.md"},
                {"Rows over devices": "parallel.md"},
            ]
        },
        {
            "How it is built": [
                {"Design": "design.md"},
                {"Adding a mixer or an op": "adding.md"},
                {"Laws of use": "laws.md"},
                {"How it looks": "pictures.md"},
                *(page for page in _root() if page != "index.md"),
            ]
        },
    ]


def _root() -> dict[str, str]:
    """Page -> the file of the repository's root that it is."""
    pages = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
    pages |= {"changelog.md": "CHANGELOG.md"}
    return {page: name for page, name in pages.items() if (ROOT / name).exists()}


def generated() -> dict[str, Callable[[], str]]:
    """Address -> what makes the text of every page that is made while the site is built."""
    root = {page: functools.partial(moved, name) for page, name in _root().items()}
    return {**root, **mixers.pages(), **tasks.pages(), **reference.pages()}


def moved(name: str) -> str:
    """A page of the repository's root, its links as seen from docs/."""
    text = (ROOT / name).read_text()
    return re.sub(r"\]\((?!docs/|https?:|#)", "](../", text).replace("](docs/", "](")
