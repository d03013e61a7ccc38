"""The command line: fixed spellings, one-line errors, exit codes."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys

import pytest

from seqzoo.models.registry import MIXERS, PRESETS
from seqzoo.tasks import TASKS
from seqzoo.train.cli import command as cli
from seqzoo.train.cli import evaluate
from seqzoo.train.cli.experiment import experiment_fields, experiment_of
from seqzoo.train.cli.flags import flags_of, parse, read
from seqzoo.train.config import Experiment
from seqzoo.train.folder.metrics import NonFiniteError, read_lines

SMALL = [
    f"--{option}"
    for option in (
        "data.vocab-size=32",
        "data.num-pairs=2",
        "data.length=16",
        "data.train-size=64",
        "data.validation-size=10",
        "data.test-size=11",
        "backbone.d-model=16",
        "backbone.depth=1",
        "mixer.num-heads=2",
        "batch-size=8",
    )
]
TRAIN = ["train", "--task", "mqar", "--model", "attention"]


def call(capsys, *argv):
    code = cli.dispatch([str(arg) for arg in argv])
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["trian"], ["trian", "did you mean train?", "evaluate"]),
        (["train", "--task", "listop", "--model", "attention"], ["listop'", "listops?", "mqar"]),
        (
            ["train", "--task", "mqar", "--model", "atention"],
            ["atention", "attention?", "roformer"],
        ),
        (["train", "--task", "mqar", "--model", "attention,gruu"], ["gruu", "linear_attention"]),
        ([*TRAIN, "--stepz", "3"], ["--stepz", "--steps?", "--batch-size"]),
        ([*TRAIN, "--backbone.norm", "rsm"], ["'rsm'", "rms?", "layer, batch"]),
        ([*TRAIN, "--steps", "ten"], ["--steps must be an integer; got 'ten'"]),
        ([*TRAIN, "--steps"], ["--steps needs a value"]),
        ([*TRAIN, "--steps", "0"], ["steps must be at least 1; got 0"]),
        ([*TRAIN, "7"], ["unexpected argument '7'"]),
        ([*TRAIN, "--mesh.data", "3"], ["mesh sizes must multiply", "got MeshConfig"]),
        ([*TRAIN, "--mixer.num-heads", "3"], ["num_heads", "d_model=64"]),
        (["train", "--model", "attention"], ["--task is needed"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_a_wrong_request_gets_one_line_and_writes_nothing(capsys, tmp_path, argv, words):
    out = ["--out", tmp_path / "run"] if argv[0] == "train" else []
    # Before what is tested, so that a flag without its value stays last.
    code, said, error = call(capsys, argv[0], *out, *argv[1:])
    assert (code, said) == (2, "")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error
    assert list(tmp_path.iterdir()) == []


def test_out_is_needed(capsys):
    assert call(capsys, *TRAIN)[::2] == (2, "seqzoo train: --out is needed\n")


@pytest.mark.parametrize("verb", ["show", "evaluate"])
def test_a_folder_that_is_no_run_is_named(capsys, tmp_path, verb):
    code, said, error = call(capsys, verb, tmp_path / "nothing")
    assert (code, said) == (2, "")
    assert "is no run" in error


@pytest.mark.of_the_day("a reader gone", 3)
def test_a_reader_that_is_gone_is_no_fault():
    """As with `seqzoo list | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "seqzoo.train.cli", "list"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_list_has_a_line_for_everything(capsys):
    code, said, _ = call(capsys, "list")
    assert code == 0
    for name in (*MIXERS, *PRESETS, *TASKS):
        lines = [line for line in said.splitlines() if line.split()[:1] == [name]]
        assert len(lines) == 1
        assert len(lines[0].split()) > 1


def test_every_field_of_a_configuration_has_a_flag():
    kind = dataclasses.make_dataclass("Flags", experiment_fields("mqar", "attention"))
    names = {flag.name for flag in flags_of(kind)}
    data = experiment_of(kind(), "attention").to_dict()
    prefixes = {"task": "data.", "train": ""}
    for part in ("task", "mixer", "backbone", "optim", "train", "mesh"):
        for field in set(data[part]) - {"name"}:
            flag = f"--{prefixes.get(part, part + '.')}{field.replace('_', '-')}"
            assert any(name == flag or name.startswith(f"{flag}.") for name in names)


def test_a_pattern_has_options_for_each_of_its_mixers():
    kind = dataclasses.make_dataclass(
        "Flags", experiment_fields("mqar", "attention,linear_attention")
    )
    names = {flag.name for flag in flags_of(kind)}
    assert {"--mixer.attention.num-heads", "--mixer.linear-attention.num-heads"} <= names


def parsed(*argv, model="attention"):
    """What flags make of a model's options."""
    kind = dataclasses.make_dataclass("Flags", experiment_fields("mqar", model))
    return experiment_of(parse(kind, read(argv), "seqzoo"), model).mixer


def test_positions_are_a_flag_and_so_are_their_options_as_they_once_were():
    today = parsed("--mixer.positions", "rope:base=5e5,fraction=0.5", "--mixer.num-heads", "2")
    former = (
        "--mixer.rope-base",
        "5e5",
        "--mixer.rope-fraction",
        "0.5",
        "--mixer.max-distance",
        "9",
    )
    assert today == parsed(*former, "--mixer.num-heads", "2")
    assert today["positions"] == "rope:base=500000.0,fraction=0.5"
    several = parsed("--mixer.attention.rope-base", "7", model="rg_lru,attention")
    assert several["attention"]["positions"] == "rope:base=7.0"
    assert parsed("--mixer.num-buckets", "6", model="reformer")["num_buckets"] == 6
    for wrong, words in (("rope:bass=1", "did you mean base"), ("t6", "unknown positions='t6'")):
        with pytest.raises(ValueError, match=words):
            parsed("--mixer.positions", wrong)
    with pytest.raises(ValueError, match=r"unknown option '--mixer\.rope-bass'") as error:
        parsed("--mixer.rope-bass", "1")
    assert "--mixer.rope-base," not in str(error.value)
    assert "--mixer.positions" in str(error.value)
    assert "--data" not in str(error.value)  # of some hundred flags those of its part


@pytest.mark.smoke
def test_train_show_evaluate_and_train_again(capsys, tmp_path, monkeypatch):
    run = tmp_path / "run"
    train = [*TRAIN, "--steps", "4", "--seed", "3", "--out", run, *SMALL, "--eval-every", "2"]
    code, said, error = call(capsys, *train)
    assert code == 0, error
    assert [line.step for line in read_lines(run)] == [1, 2, 3, 4]
    config = Experiment.from_dict(json.loads((run / "config.json").read_text()))
    assert (config.train.steps, config.train.seed, config.task.num_pairs) == (4, 3, 2)

    code, said, _ = call(capsys, *train)
    assert code == 0
    assert "already complete at step 4" in said

    code, said, error = call(capsys, *train, "--optim.peak-lr", "0.5")
    assert (code, said) == (2, "")
    assert "optim.peak_lr: 0.001 there, 0.5 here" in error

    code, said, error = call(capsys, "evaluate", run)
    assert code == 0, error
    result = json.loads(said.splitlines()[-1])
    assert (result["examples"], result["split"], result["step"]) == (11, "test", 4)

    best = json.loads((run / "result.json").read_text())["best"]["step"]
    monkeypatch.setattr(TASKS["mqar"], "selection", "best")
    _, said, _ = call(capsys, "evaluate", run)
    assert json.loads(said.splitlines()[-1])["step"] == best == 2

    more = ("--data.test-size", "7", "--mixer.window", "3", "--checkpoint", "4")
    code, said, error = call(capsys, "evaluate", run, *more)
    assert code == 0, error
    changed = json.loads(said.splitlines()[-1])
    assert (changed["examples"], changed["step"]) == (7, 4)
    assert changed["changes"] == {"mixer.window": 3, "task.test_size": 7}
    code, said, error = call(capsys, "evaluate", run, "--mixer.d-head", "4")
    assert (code, said) == (2, "")
    assert "no arrays for these options" in error

    code, said, error = call(capsys, "show", run)
    assert code == 0, error
    shown = {line.split()[0]: line for line in said.splitlines()}
    assert len(shown["sha256"].split()[1]) == 64
    assert "4 of 4" in shown["step"]
    assert "num_pairs 2" in said
    assert [*shown][:4] == ["run", "task", "model", "differs"]
    kind = dataclasses.make_dataclass("Flags", experiment_fields("mqar", "attention"))
    flags = shlex.split(shown["differs"])[1:]
    assert experiment_of(parse(kind, read(flags), "seqzoo"), "attention") == config


def test_a_metric_that_no_example_counts_for_is_null_in_strict_json(capsys, monkeypatch):
    found = {"step": 4, "accuracy_64_at_0": float("nan"), "baselines": {"chance": 0.5}}
    monkeypatch.setattr(evaluate, "evaluate_run", lambda *_, **__: found)
    code, said, _ = call(capsys, "evaluate", "run")
    last = json.loads(said.splitlines()[-1], parse_constant=pytest.fail)
    assert (code, last["accuracy_64_at_0"]) == (0, None)


def test_a_step_that_is_not_finite_exits_3(capsys, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise NonFiniteError(12, float("nan"), ("dynamics",))

    monkeypatch.setattr("seqzoo.train.loop.runner.run", broken)
    code, _, error = call(capsys, *TRAIN, "--out", tmp_path / "run")
    assert code == 3
    assert "step 12" in error
    assert "dynamics" in error
    assert error.count("\n") == 1


def test_a_run_that_was_stopped_exits_75_and_one_that_is_through_0(capsys, tmp_path, monkeypatch):
    def stopped(*_, **__):
        return {"step": 3, "complete": False}

    monkeypatch.setattr("seqzoo.train.loop.runner.run", stopped)
    code, said, _ = call(capsys, *TRAIN, "--out", tmp_path / "run")
    assert code == 75
    assert "stopped and saved at step 3 of 1000" in said


def test_help_shows_the_flags_of_the_chosen_parts(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.dispatch([*TRAIN, "--help"])
    assert stop.value.code == 0
    said = capsys.readouterr().out
    assert "--data.num-pairs" in said
    assert "--mixer.num-heads" in said
    assert "optimiser steps" in said
    assert "none, rope, xpos" in said
