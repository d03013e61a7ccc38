"""The site of docs/: every page stands in the navigation once, and what it names exists."""

import json
import sys
import xml.etree.ElementTree as ElementTree

import pytest

from seqzoo.models import MIXERS
from seqzoo.tasks import TASKS
from tests.scripts import DOCS, script


@pytest.fixture(scope="module", autouse=True)
def importable():
    sys.path.insert(0, str(DOCS))
    yield
    sys.path.remove(str(DOCS))


def test_every_page_stands_in_the_navigation_once():
    from pages import navigation

    named = list(navigation.targets(navigation.tree()))
    written = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert len(named) == len(set(named))
    assert set(named) == written | navigation.generated().keys()


def test_a_mixer_has_its_page():
    from pages import mixers

    page = mixers.page("gla", MIXERS["gla"])
    for part in (
        "S_t = diag(α_t) S_{t-1} + k_t v_tᵀ",
        "| `temperature` | `float` | `16.0` |",
        "H K V",
        "state, elements: 512; growth: constant",
        "| `gla` | fits |",
        "Where ours differs",
        "tests/models/linear_attention/test_gla.py",
        "| `steps` |",
    ):
        assert part in page


def test_a_picture_has_what_reaches_what():
    from pages.flow import flow
    from pages.picture import picture

    found = flow(MIXERS["gla"], 16)
    at = {box.name: number for number, box in enumerate(found.boxes)}
    op = found.boxes[at["gated_linear_attention"]]
    assert {name: own for name, own in op.ports.items() if own} == {
        "q": {at["q_proj"]},
        "k": {at["k_proj"]},
        "v": {at["v_proj"]},
        "log_decay": {at["decay_proj"], ".decay"},
    }
    assert found.boxes[at["norm"]].ports == {
        "o": {at["gated_linear_attention"]},
        "z": {at["gate_proj"]},
    }
    assert found.output == {at["out_proj"]}
    drawn = ElementTree.fromstring(picture("gla", found))
    assert {*at, "x", "y"} <= {text.text for text in drawn.iter() if text.tag.endswith("text")}


def test_tasks_have_their_pages():
    from pages import tasks

    page = tasks.page("listops", TASKS["listops"])
    for part in (
        "Tay et al. 2020, arXiv 2011.04006",
        "| root operator | 0.3525 |",
        "| `pretrain-finetune` | length 2048, end True, pooling mean |",
        "| `s4d/listops` |",
        "| `data` | `'generated'` | or the folder of the official archive |",
    ):
        assert part in page
    assert "seqzoo data show --task rows" in tasks.page("rows", TASKS["rows"])


@pytest.mark.parametrize("name", ["parity", "mqar", "dyck"])
def test_examples_of_pages_are_those_of_the_code(name):
    kept = json.loads((DOCS / "samples.json").read_text())
    assert {**kept[name], **script("samples")["sampled"](name, baselines=False)} == kept[name]


def test_every_task_that_needs_nothing_shows_an_example():
    kept = json.loads((DOCS / "samples.json").read_text())
    missing = [n for n, kind in TASKS.items() if kind.needs == "nothing" and n not in kept]
    assert not missing, f"run: python docs/samples.py --names {','.join(missing)}"


def test_the_reference_has_every_public_name():
    from pages import reference

    import seqzoo.models

    listed = "\n".join(reference.page(package) for package in reference.PACKAGES)
    for name in ("whole.build.build_model", "mixer.Mixer", "ops.scan.linear.linear_scan"):
        assert f"::: seqzoo.models.{name}\n" in listed
    assert "::: seqzoo.train.door.compare\n" in listed
    assert "| `peak_lr` | `0.001` |" in listed
    assert not hasattr(seqzoo.models, "page")
