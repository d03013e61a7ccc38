"""The tree of the site, and the generated pages by their address."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent


def tree() -> list:
    """What stands in the navigation, in mkdocs' form."""
    return [
        {"Home": "index.md"},
        {
            "Guides": [
                {"Reuse a module": "reuse.md"},
                {"Bring your own mixer, task and data": "extend.md"},
                {"A first afternoon": "walk.md"},
                {"Tune fairly": "tuning.md"},
                {"Language modelling and pretraining": "language.md"},
                {"Weights in and out": "pretrained.md"},
                {"Pods and preemption": "pods.md"},
            ]
        },
        {"Tasks": ["tasks.md"]},
        {
            "Reference": [
                {"What a comparison leaves": "results_format.md"},
                {"What the numbers mean": "statistics.md"},
                {"Models that cost the same": "matching.md"},
                {"Places": "places.md"},
            ]
        },
        {
            "Measured": [
                {"Results": "results.md"},
                {"Speed": "speed.md"},
                {"Plans, TPU v5e": "plans.md"},
                {"Plans, a million tokens": "plans_long.md"},
                {"Plans, a pod": "plans_pod.md"},
                {"Forms of the primitives": "forms.md"},
                {"Rows over devices": "parallel.md"},
            ]
        },
        {"How it is built": [{"Design": "design.md"}, {"Laws of use": "laws.md"}]},
    ]


def generated() -> dict[str, str]:
    """Address -> text of every page that is made while the site is built."""
    return {"index.md": first()}


def first() -> str:
    """The README, its links as seen from docs/."""
    return (ROOT / "README.md").read_text().replace("](docs/", "](")
