"""What tables and the page say of the trials before the final runs."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from seqzoo.train.compare.formats import show
from seqzoo.train.compare.results import Comparison, ModelResult, Trial, plain
from seqzoo.train.compare.tuning import at_edge


def tuning_words(model: ModelResult) -> str:
    """The chosen values, and where they are the last that were tried."""
    if not model.trials:
        return ""
    if model.chosen is None:
        return f"each of {len(model.trials)} trials failed"
    edges = at_edge(model)
    words = (
        f"{name} {_word(value)}{f' ({edges[name]} tried)' if name in edges else ''}"
        for name, value in model.tuned_values.items()
    )
    return ", ".join(words)


def tuned(comparison: Comparison) -> list[str]:
    """One line a model: what was chosen of how many trials."""
    return [
        f"{model.name}: {tuning_words(model)}, of {len(model.trials)} trials"
        for model in comparison.models
        if model.chosen is not None
    ]


def edge_warning(comparison: Comparison) -> str:
    """A sentence where a model's best value is the last that was tried; empty where none is."""
    found = [
        f"{model.name} ({name}, the {end} tried)"
        for model in comparison.models
        for name, end in at_edge(model).items()
    ]
    if not found:
        return ""
    return (
        f"At the edge of what was tried, so that more may be better: {', '.join(found)}; widen the "
        "sweep in another folder."
    )


def tuning_data(model: ModelResult) -> dict[str, list[dict[str, Any]]]:
    """Of each numeric field that was swept the points that the script draws, by its value.

    Of several trials with one value of a field the best is the curve's; all are dots.
    """
    tried: dict[str, list[Any]] = {}
    for trial in model.trials:
        for name, value in trial.values.items():
            tried.setdefault(name, []).append(value)
    names = [n for n, own in tried.items() if all(map(_is_number, own)) and len({*own}) > 1]
    places = range(len(model.trials))
    points = {name: [_point(model, place, name) for place in places] for name in names}
    return {name: sorted(own, key=lambda point: point["x"]) for name, own in points.items()}


def _point(model: ModelResult, place: int, name: str) -> dict[str, Any]:
    trial = model.trials[place]
    return plain(
        {
            "x": trial.values[name],
            "mean": _mean(trial),
            "seeds": [score for score in trial.scores if score is not None],
            "chosen": place == model.chosen,
        }
    )


def trials_html(comparison: Comparison) -> str:
    """The section of the page; empty where nothing was tried."""
    if not any(model.trials for model in comparison.models):
        return ""
    warning = edge_warning(comparison)
    said = f'<p class="failed" role="alert">{escape(warning)}</p>' if warning else ""
    metric = escape(comparison.main_metric)
    return f"""<figure><h3>Tuning: validation {metric} against what was swept</h3>{said}
<div class="plots" data-plot="tuning"></div>
<figcaption>One dot a trial, the mean of its seeds; a ring is the chosen one, a line joins the best
of each value. The final runs have other seeds, and the test split was read by these
alone.</figcaption></figure>
<details><summary>All trials</summary><div class="scroll">{_table(comparison)}</div></details>"""


def _table(comparison: Comparison) -> str:
    names = list(dict.fromkeys(n for m in comparison.models for t in m.trials for n in t.values))
    metric = comparison.main_metric
    titles = ["model", *names, f"validation {metric}", "each seed", "loss", "reading"]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = ""
    for model in comparison.models:
        for place, trial in enumerate(model.trials):
            losses = [loss for loss in trial.losses if loss is not None]
            cells = [
                model.name,
                *(_word(trial.values.get(name, "–")) for name in names),
                show(_mean(trial), metric),
                "  ".join(show(score, metric) for score in trial.scores),
                f"{sum(losses) / len(losses):.4g}" if losses else "–",
                "chosen" if place == model.chosen else trial.failure,
            ]
            body += "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _mean(trial: Trial) -> float:
    scores = [score for score in trial.scores if score is not None]
    return sum(scores) / len(scores) if scores and not trial.failure else math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _word(value: Any) -> str:
    return f"{value:g}" if _is_number(value) else str(value)
