"""One sentence and one picture of several tasks."""

import dataclasses
import xml.etree.ElementTree as ET

import pytest

from seqzoo.train.compare.overview import drawing, picture, sentence, standings
from seqzoo.train.compare.page import alone, render
from seqzoo.train.compare.results import Comparison, ModelResult, SeedResult


def comparison(title, values, **changes):
    models = tuple(
        ModelResult(
            name=name,
            seeds=tuple(
                SeedResult(seed=i, final={} if v is None else {"accuracy": v, "loss": v})
                if v is not None
                else SeedResult(seed=i, failure={"step": 3, "groups": [], "loss": None})
                for i, v in enumerate(seeds)
            ),
            steps=9,
        )
        for name, seeds in values.items()
    )
    fields = {"title": title, "main_metric": "accuracy", "baselines": {"chance": 0.1}}
    return Comparison(models=models, **{**fields, **changes})


RECALL = comparison(
    "recall",
    {"gru": (0.11, 0.13, 0.12, 0.1, 0.12), "attention": (1.0, 0.99, 1.0, 0.99, 0.995)},
)
STATE = comparison(
    "parity",
    {
        "gru": (1.0, 0.99, 0.999, 0.998, 1.0),
        "lstm": (0.999, 0.996, 1.0, 1.0, 0.99),
        "attention": (0.6, 0.62, 0.61, 0.6, 0.63),
        "mamba": (0.9, None, 0.9, 0.9, 0.9),  # not ranked by those that finished
    },
)


def test_the_sentence_says_in_numbers_who_wins_what():
    assert sentence([RECALL, STATE]) == (
        "on recall attention (99.5%) before gru (11.6%); "
        "on parity gru (99.7%), not told apart from lstm (99.7%), before attention (61.2%)."
    )


FEW = comparison(
    "few",
    {"a": (1.0, 1.0, 0.985), "b": (0.71, 0.08, 0.12), "c": (1.0, 0.2, 0.3), "d": (0.1, 0.1, 0.09)},
)


def test_what_too_few_seeds_cannot_tell_is_not_called_level():
    """30.3% beside 99.5% is behind in every seed, whatever three of them prove."""
    said = sentence([FEW, RECALL])
    assert said.startswith(
        "on few a (99.5%), not told apart from c (50.0%), ahead of b (30.3%) in each of 3 seeds "
        "(too few to tell), before d (9.7%); on recall attention (99.5%) before gru"
    )
    one = comparison("one", {"a": (0.9,), "b": (0.4,)})
    assert "on one a (90.0%), ahead of b (40.0%) in its one seed (too few to tell)." in sentence(
        [RECALL, one]
    )
    lower = dataclasses.replace(FEW, main_metric="loss", higher_is_better=False)
    (standing,) = standings([lower])
    assert (standing.names[0], standing.behind) == ("d", {"c"})
    svg = ET.fromstring(picture([FEW, RECALL])).find("svg")
    assert sum(c.get("class") == "behind" for c in svg.findall(".//circle")) == 1


def test_one_task_needs_no_overview():
    assert sentence([RECALL]) == picture([RECALL]) == ""


def test_nobody_wins_where_no_model_is_told_apart():
    even = comparison("even", {"a": (0.4, 0.6), "b": (0.5, 0.3)})
    assert "on even no model is told apart from a (50.0%)" in sentence([RECALL, even])


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_picture_has_every_seed_and_fills_the_winners(metric):
    both = [dataclasses.replace(c, main_metric=metric) for c in (RECALL, STATE)]
    svg = ET.fromstring(picture(both)).find("svg")
    circles = svg.findall(".//circle")
    count = [sum(c.get("class") == kind for c in circles) for kind in ("seed", "level", "other")]
    assert count == [25, 3, 2]
    assert {s.comparison.title: len(s.level) for s in standings(both)} == {"recall": 1, "parity": 2}
    for text in svg.iter("circle"):
        assert 0 <= float(text.get("cx")) <= float(svg.get("viewBox").split()[2])


def test_the_page_opens_with_both():
    page = render([RECALL, STATE])
    assert '<p class="lead">On recall attention (99.5%) before gru (11.6%);' in page
    assert page.index('<figure class="overview">') < page.index("<main>")
    assert '<figure class="overview">' not in render([RECALL])


def test_the_picture_is_a_file_of_its_own_with_all_its_colours():
    text = alone(drawing([RECALL, STATE]))
    svg = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert len(svg.findall(f".//{space}circle")) == picture([RECALL, STATE]).count("<circle")
    classes = {name for node in svg.iter() for name in node.get("class", "").split()}
    style = svg.find(f"{space}style").text
    assert all(f".{name}" in style for name in classes - {"end"})
    assert "text-anchor: end" in style.partition(".end {")[2]
    assert "var(" not in style
    assert "overview" not in style
