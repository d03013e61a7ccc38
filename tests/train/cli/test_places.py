"""Any path is a good path, or refused before anything is written: by every verb and option."""

import os
from pathlib import Path

import pytest

from seqzoo.train.cli.command import dispatch
from tests.train import shared
from tests.train.cli import places
from tests.train.cli.places import BAD, COMPARE, GOOD, NAMES, OPTIONS, TRAIN

# Right ones, which compile programs of their own or start a process.
DEAR = {"bench --out", "bench --device-report", "compare --data.data"}
DOCS = Path(__file__).parents[3] / "docs" / "places.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a home, a text, a run."""
    folder, here = tmp_path_factory.mktemp("places").resolve(), Path.cwd()
    with pytest.MonkeyPatch.context() as patch, shared.programs():
        patch.setenv("HOME", os.environ.get("HOME", ""))
        patch.chdir(folder)
        places.made(folder)
        patch.chdir(here)
        yield folder


def test_every_option_that_names_a_place_is_tried(monkeypatch):
    assert places.unlisted() == set()
    monkeypatch.delitem(OPTIONS, "bench --out")
    assert places.unlisted() == {"bench --out"}


def each(names, step):
    """Every option with some of the names, all names with some option."""
    for i, option in enumerate(OPTIONS):
        for name in list(names)[i % step :: step]:
            if names is BAD or option not in DEAR:
                yield option, name


@pytest.mark.of_the_day
@pytest.mark.parametrize(("option", "name"), [*each(GOOD, len(GOOD)), *each(BAD, 4)])
def test_a_place_is_right_or_refused(model, option, name):
    with places.fresh(model) as root:
        wanted = "right" if places.is_right(OPTIONS[option], name) else "refused"
        assert places.cell(OPTIONS[option], name, root) == wanted


@pytest.mark.slow
def test_the_table_of_the_documentation_is_what_happens(model):
    cells = {}
    for option, name in ((option, name) for option in OPTIONS for name in NAMES):
        with places.fresh(model) as root:
            cells[option, name] = places.cell(OPTIONS[option], name, root)
    assert places.table(cells) in DOCS.read_text()


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", ["~/run", "link/run"])
def test_a_run_goes_on_by_another_spelling_from_elsewhere(model, name, capsys):
    with places.fresh(model) as root:
        assert dispatch([*TRAIN, f"--out={name}"]) == 0
        data = f"--data.data={root}/text"
        os.chdir(root / "home")
        assert dispatch([*TRAIN, data, "--out", str(root / "home" / "run")]) == 0
        assert "already complete" in capsys.readouterr().out
        assert dispatch([*COMPARE, "--steps=1", data, "--out=~/compared"]) == 0
        assert (root / "home" / "compared" / "report.html").exists()
