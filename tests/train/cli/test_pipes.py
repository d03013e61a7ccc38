"""A pipe where a file was is no file: who waits for what comes out of it waits for ever."""

import contextlib
import os
import shutil
import signal

import pytest
import tokenizers

from seqzoo.train.cli.command import dispatch
from tests.models.pretrained import published
from tests.train import shared

pytestmark = pytest.mark.of_the_day(days=5)

PATIENCE = 30  # seconds for a command that is refused at once, or trains a step
SMALL = ("--task=mqar", "--data.length=16", "--data.num-pairs=2", "--data.vocab-size=32")
SMALL += ("--data.train-size=32", "--data.validation-size=8", "--data.test-size=8")
SMALL += ("--backbone.d-model=8", "--backbone.depth=1", "--batch-size=8", "--threads=0")
TRAIN = ("train", *SMALL, "--model=min_gru", "--save-every=1")
VERBS = {
    "show": ("show", "base"),
    "evaluate": ("evaluate", "base"),
    "report": ("report", "base"),
    "generate": ("generate", "base", "--length=2"),
    "export": ("export", "base", "--out=new"),
    "continue": (*TRAIN, "--steps=3", "--out=base"),
    "begin from": (*TRAIN, "--steps=1", "--init-from=base", "--out=new"),
    "compare": ("compare", *SMALL, "--models=min_gru", "--steps=1", "--out=base"),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "base"
    with shared.programs():
        assert dispatch([*TRAIN, "--steps=2", f"--out={folder}"]) == 0
        yield folder


@contextlib.contextmanager
def impatient():
    def late(*_):
        pytest.fail("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(verb, base, file, tmp_path, monkeypatch):
    """The exit code of a verb on a copy of a folder in which a file is a pipe."""
    here = tmp_path / "here"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(base, here / "base")
    (here / "base" / file).unlink()
    os.mkfifo(here / "base" / file)
    monkeypatch.chdir(here)
    with impatient():
        return dispatch([*VERBS[verb]])


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_waits_for_a_configuration(verb, run, tmp_path, monkeypatch):
    refused = 0 if verb == "report" else 2  # which shows what there is
    assert tried(verb, run, "config.json", tmp_path, monkeypatch) == refused


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_nothing_waits_for_any_file_of_a_run(verb, run, tmp_path, monkeypatch):
    files = {p.relative_to(run) for p in run.rglob("*") if p.is_file()}
    arrays = {path.parent: path for path in files if path.parent.name == "d"}  # alike
    for file in sorted({p for p in files if p.parent.name != "d"} | {*arrays.values()}):
        assert tried(verb, run, file, tmp_path, monkeypatch) in (0, 2, 3, 4), file


@pytest.mark.parametrize("verb", ["generate", "begin from"])
def test_nothing_waits_for_any_file_of_published_weights(verb, tmp_path, monkeypatch):
    base = tmp_path / "published"
    shutil.copytree(published.folder("llama"), base)
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(base / "tokenizer.json"))
    for file in sorted(p.name for p in base.iterdir()):
        assert tried(verb, base, file, tmp_path, monkeypatch) in (0, 2, 3), file
