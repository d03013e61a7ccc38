"""Mixers and tasks of one's own from the command line: trained, taken up, never run unasked."""

import json
import shutil
import sys

import pytest

from seqzoo.models.foreign import address
from seqzoo.train import code
from seqzoo.train.cli import command as cli

MINE = '''
import jax.numpy as jnp
from flax import nnx
print("mine was run")


class Sum(nnx.Module):
    """Sums so far."""

    def __init__(self, d_model: int, *, rate: float = 0.5, rngs: nnx.Rngs):
        self.proj, self.rate = nnx.Linear(d_model, d_model, rngs=rngs), rate

    def __call__(self, x):
        return self.proj(jnp.cumsum(x, axis=1) * self.rate)
'''
TASK = """
import dataclasses
from typing import ClassVar
import numpy as np
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.task import Task, measure_classes


@dataclasses.dataclass(frozen=True, kw_only=True)
class First(Task):
    name: ClassVar[str] = "first"
    description: ClassVar[str] = "the first token"
    cite: ClassVar[str] = "none"
    size: int = 16

    @property
    def spec(self):
        return ModelSpec(head="classify", vocab_size=4, outputs=4, length=5)

    def _source(self, split, seed):
        rows = np.random.default_rng(0).integers(0, 4, (self.size, 5)).astype(np.int32)
        return [{"inputs": row, "targets": row[0]} for row in rows]

    def measure(self, outputs, batch):
        return measure_classes(outputs, batch)

    def baselines(self, split="test", seed=0):
        return {"chance": 0.25}

    def decode(self, example):
        return str(example["inputs"])
"""
SMALL = ["--backbone.d-model", "8", "--backbone.depth", "1", "--batch-size", "8", "--steps", "2"]
OWN = ["--task", "tasks_of_mine.py:First", "--model", "mine.py:Sum", "--mixer.rate", "0.25"]
TRAIN = ["train", *OWN, "--data.size", "8", *SMALL]


def fresh(monkeypatch):
    """As in another process: nothing is loaded, nothing was named but what the cache remembers."""
    for name in ("_objects", "_names", "_sources", "_places"):
        monkeypatch.setattr(address, name, {})
    for name in ("_named", "_accepted", "_said"):
        monkeypatch.setattr(code, name, set())
    for name in ("mine", "tasks_of_mine"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with code, a run made of it, and the cache of whoever trained it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        prepare(folder, patch)
        found = cli.dispatch([*TRAIN, "--out", "run"])
    return folder, found


@pytest.fixture
def run(here, trained):
    """The run in a folder of the test's own, as if it had been made there."""
    folder, found = trained
    assert found == 0
    shutil.copytree(folder, here, dirs_exist_ok=True)
    config = here / "run" / "config.json"
    config.write_text(config.read_text().replace(str(folder), str(here)))
    return here


@pytest.fixture
def here(tmp_path, monkeypatch):
    prepare(tmp_path, monkeypatch)
    return tmp_path


def prepare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEQZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    fresh(monkeypatch)
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "tasks_of_mine.py").write_text(TASK)


def call(capsys, *argv):
    found = cli.dispatch([str(arg) for arg in argv])
    said = capsys.readouterr()
    return found, said.out, said.err


def train(capsys, out="run"):
    return call(capsys, *TRAIN, "--out", out)


@pytest.mark.of_the_day("own code by every verb", 3)
def test_a_run_of_ones_own_is_taken_up_by_every_verb(run, capsys, monkeypatch):
    here = run
    config = json.loads((here / "run" / "config.json").read_text())
    assert (config["model"], config["task"]["name"]) == ("mine.py:Sum", "tasks_of_mine.py:First")
    assert (config["mixer"], config["task"]["size"]) == ({"rate": 0.25}, 8)
    assert set(config["code"]) == {"mine.py:Sum", "tasks_of_mine.py:First"}
    assert (here / "run" / "code" / "Sum" / "mine.py").read_text() == MINE

    fresh(monkeypatch)
    found, said, _ = train(capsys)
    assert (found, "already complete" in said) == (0, True)

    fresh(monkeypatch)
    found, said, error = call(capsys, "train", "--config", "run/run.toml", "--out", "run")
    assert (found, "already complete" in said) == (0, True), error

    fresh(monkeypatch)
    found, said, error = call(capsys, "show", "run")
    assert found == 0, error
    assert "mine was run" not in said
    assert "parameters" in said
    found, said, _ = call(capsys, "report", "run")
    assert (found, "mine was run" in said) == (0, False)

    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")  # evaluated from another folder
    found, said, error = call(capsys, "evaluate", "../run")
    assert found == 0, error
    assert f"runs Sum of {here / 'mine.py'}" in error
    assert json.loads(said.splitlines()[-1])["examples"] == 8

    monkeypatch.chdir(here)
    fresh(monkeypatch)
    (here / "moved").mkdir()
    for name in ("mine.py", "tasks_of_mine.py"):
        (here / name).rename(here / "moved" / name)
    monkeypatch.chdir(here / "moved")
    found, said, _ = train(capsys, here / "run")
    assert (found, "already complete" in said) == (0, True)


@pytest.mark.of_the_day("own code planned", 3)
def test_what_is_not_trained_yet_is_planned_and_what_cannot_stream_says_so(
    run, capsys, monkeypatch
):
    fresh(monkeypatch)
    local = ["--topology", "local"]
    found, said, error = call(capsys, "plan", *OWN, "--data.size", "8", *SMALL[:6], *local)
    assert found == 0, error
    plan = json.loads(said.splitlines()[-1])
    assert plan["model"] == "mine.py:Sum"
    assert plan["parameters"] > 8 * 8
    fresh(monkeypatch)
    found, _, error = call(capsys, "generate", "run", "--prompt", "1", "--length", "2")
    assert (found, "first" in error) == (2, True)
    assert len(error.strip().splitlines()) <= 3  # whose code is run is said


def test_changed_code_is_refused_with_what_has_changed(run, capsys, monkeypatch):
    (run / "mine.py").write_text(MINE.replace("* self.rate", "* self.rate + 1"))
    found, said, error = train(capsys)
    assert (found, "code.mine.py:Sum" in error) == (2, True)
    assert "+        return self.proj(jnp.cumsum(x, axis=1) * self.rate + 1)" in error
    fresh(monkeypatch)
    found, said, error = call(capsys, "evaluate", "run")
    assert (found, "mine was run" in said) == (2, False)
    assert "--code" in error
    assert "is not what the run was made with" in error
    found, said, error = call(capsys, "evaluate", "run", "--code", "mine.py:Sum")
    assert found == 0, error
    assert "not that of the run" in error


def test_a_folder_from_elsewhere_runs_nothing_unasked(run, capsys, monkeypatch):
    monkeypatch.setenv("SEQZOO_CACHE", str(run / "of somebody else"))
    for verb in ("evaluate", "sample"):
        found, said, error = call(capsys, verb, "run")
        assert (found, "mine was run" in said) == (2, False), error
        assert "which nobody has named here" in error
    assert call(capsys, "show", "run")[0] == 0
    found, said, error = call(capsys, "train", "--task", "first", "--model", "sum", "--out", "x")
    assert found == 2
    found, said, error = call(capsys, "evaluate", "run", "--code", "mine.py:Other")
    assert "the run has no such code" in error


def test_models_of_a_comparison_are_labelled_by_their_name(here):
    from seqzoo.train.cli.compare import labelled

    found = dict(labelled("mine.py:Sum,b=mine.py:Sum+lru,lru"))
    assert found == {"Sum": "mine.py:Sum", "b": "mine.py:Sum,lru", "lru": "lru"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("def measure(", "def measures(", ["lacks measure", "did you mean measure?"]),
        ("class First(Task)", "class First", ["is no task"]),
        ("    cite: ClassVar", "    site: ClassVar", ["lacks cite"]),
    ],
)
def test_a_task_that_lacks_something_is_one_sentence(here, capsys, old, new, words):
    (here / "tasks_of_mine.py").write_text(TASK.replace(old, new))
    found, _, error = train(capsys)
    assert (found, error.count("\n")) == (2, 1)
    assert all(word in error for word in words), error


def test_what_results_keep_of_a_configuration_can_be_compared_again():
    own = {"file": "/there/mine.py", "sha256": "0"}
    data = {"model": "there/mine.py:Sum,lru", "code": {"there/mine.py:Sum": own}}
    once = code.comparable(data)
    assert once == {"model": "mine.py:Sum,lru", "code": {"mine.py:Sum": "0"}}
    assert code.comparable(once) == once
