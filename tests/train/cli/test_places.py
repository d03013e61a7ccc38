"""Any path is a good path, or refused before anything is written: through every verb."""

import pytest

from seqzoo.train.cli.command import dispatch
from tests.train import shared

TINY = ["--data.vocab-size=32", "--data.num-pairs=2", "--data.length=16", "--data.train-size=8"]
TINY += ["--data.validation-size=8", "--data.test-size=8", "--batch-size=8", "--steps=1"]
TINY += ["--backbone.d-model=8", "--backbone.depth=1", "--task=mqar"]
TRAIN = ["train", "--model=min_gru", *TINY]
COMPARE = ["compare", "--models=min_gru", "--seeds=1", *TINY]
GOOD = ["quo'te \"$x;", "ünï/日本", "~/run", "home/../dots", "link/run", "file://HERE/via%20url"]
REFUSED = ["lr[1]", "a[b]/x", "dangling/x", "file/x", "n" * 256, "s3://b/x", "new\nline", ""]


@pytest.fixture(scope="module", autouse=True)
def _shared_programs():
    with shared.programs():
        yield


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("home", "a[b]"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("home")
    (tmp_path / "dangling").symlink_to("nowhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", GOOD)
def test_a_place_serves_every_verb(here, capsys, name, monkeypatch):
    place = name.replace("HERE", str(here))
    assert dispatch([*TRAIN, f"--out={place}"]) == 0, capsys.readouterr().err
    assert dispatch([*TRAIN, "--out", place]) == 0
    assert "already complete" in capsys.readouterr().out
    for verb in ("show", "evaluate", "report"):
        assert dispatch([verb, place]) == 0, capsys.readouterr().err
    (page,) = here.rglob("report.html")
    run = page.parent
    monkeypatch.chdir("/")  # from elsewhere, by another spelling
    assert dispatch([*TRAIN, "--out", str(run)]) == 0
    assert dispatch([*COMPARE, "--out", str(run / "compared")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: ascii(name)[:20])
def test_what_is_no_place_is_refused_by_every_verb(here, capsys, name):
    there = sorted(here.rglob("*"))
    new = ([*TRAIN, f"--out={name}"], [*COMPARE, f"--out={name}"], ["demo", f"--out={name}"])
    given = ([*TRAIN, "--out=x", f"--init-from={name}"],) if name else ()
    for argv in (*new, *given, *([verb, name] for verb in ("show", "evaluate", "report"))):
        assert dispatch(argv) == 2, argv
        assert capsys.readouterr().err.count("\n") == 1, argv
    assert sorted(here.rglob("*")) == there
