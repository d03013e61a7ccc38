"""Every reader of a run's files meets every wrong type, at every level of them."""

import copy
import dataclasses
import json
import random
import shutil

import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.checked import checked
from seqzoo.train.cli.errors import exit_code
from seqzoo.train.compare import results
from seqzoo.train.compare.page import render
from seqzoo.train.compare.run_page import comparison_of_run
from seqzoo.train.compare.units import TEST, Plan, Unit
from seqzoo.train.compare.work import SPEED, Work
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.differences import differences
from seqzoo.train.folder.checkpoint import FOLDER, MANIFEST, META, Checkpoints
from seqzoo.train.folder.lease import LOCK, Lease
from seqzoo.train.folder.metrics import FILE, read_lines, truncate
from seqzoo.train.folder.run_folder import CONFIG, RESULT, RunFolder
from seqzoo.train.loop.record import Record
from seqzoo.train.plan import forms, table

STRANGE = [None, [], {}, "", "x", -1, 0.5, 1e308, True, 10**30, [[]], [None], {"a": {}}, ["x"]]
SOME = 60  # wrong files of a kind that are tried every time
EXPERIMENT = Experiment(
    task=tasks.build("masked:mqar", of=tasks.build("mqar", num_pairs=2)),
    model="lru,gru",
    mixer={"lru": {"d_state": 8}},
    backbone=BackboneConfig(d_model=8, each=({"dropout": 0.1},)),
    train=TrainConfig(steps=7, replicas=2),
)
LINE = {"step": 3, "loss": 1.5, "validation/loss": [1.0, None]}
BEST = {"step": [3, None], "value": [0.5, None]}
META_ = {
    **{"step": 3, "position": 3, "seed": 0, "key": [0, 1], "seconds": 1.0, "compile_seconds": 2.0},
    **{"train": {"loss": [1.5, None]}, "validation": {"validation/loss": [1.0, None]}},
    **{"best": BEST, "skipped": [0, 1], "failure": [None, {"step": 2, "loss": None, "groups": []}]},
}


CURVE = {"step": [1, 2], "loss": [1.0, None]}
SEEDS = (
    results.SeedResult(seed=0, final={"loss": 1.0}, curves={"train": CURVE}, tested=2),
    results.SeedResult(seed=1, failure={"step": 2, "loss": None, "groups": ["a"], "skipped": 1}),
)
COMPARED = results.Comparison(
    title="mqar",
    main_metric="loss",
    models=(
        results.ModelResult(
            name="a",
            seeds=SEEDS,
            steps=2,
            config={"model": "lru"},
            trials=(
                results.Trial(values={"optim.peak_lr": 0.1}, scores=(1.0,), losses=(2.0,)),
                results.Trial(values={"optim.peak_lr": 0.2}, scores=(None,), failure="why"),
            ),
            chosen=0,
            hybrid={"family": "a+b", "mixer": "a", "share": 0.5},
        ),
    ),
    config={"task": {"name": "mqar"}, "train": {"steps": 2}, "data": {"test": {"a": "1"}}},
    baselines={"chance": 1.0},
    notes=("a",),
    labels=("a", "b"),
    controls={"shuffled": {"a": {"mean": 0.5, "low": None, "high": None, "seeds": 1}}},
)


def mutants(value):
    """The value with another one in one place, or with one thing less."""
    yield from (strange for strange in STRANGE if strange != value)
    if not isinstance(value, dict | list):
        return
    for key, part in list(value.items() if isinstance(value, dict) else enumerate(value)):
        for mutant in mutants(part):
            changed = copy.copy(value)
            changed[key] = mutant
            yield changed
        less = copy.copy(value)
        del less[key]
        yield less


def said(read):
    """Reads; the exception that says what is wrong, if it is the user's to mend."""
    try:
        read()
    except Exception as error:
        if exit_code(error) is None:
            raise
        return error
    return None


def config(folder):
    run = RunFolder(folder)
    yield lambda: run.experiment().to_dict()
    yield lambda: run.check(EXPERIMENT, {"train": {"a": "1"}})
    yield lambda: differences(run.config(), EXPERIMENT.to_dict())
    (folder / FILE).write_text(json.dumps(LINE) + "\n")
    yield lambda: render([comparison_of_run(folder)])


def result(folder):
    one, two = (dataclasses.replace(EXPERIMENT, train=TrainConfig(replicas=n)) for n in (1, 2))
    for experiment in (one, two):
        unit = Unit(label="a", experiment=experiment, path=folder)
        (folder / TEST).write_text(json.dumps({"step": None, "metrics": {}}))
        if (found := unit.result()) is not None:
            yield lambda found=found, unit=unit: model_of(unit, found)


def model_of(unit, found):
    plan = Plan(label="a", experiment=EXPERIMENT, out=unit.path, seeds=(0, 1), together=True)
    Work({"a": plan}, {"a": {}}, {}, lambda _: {}, {}, None, None)._model(plan, [unit], [found])


def of_test(folder):
    for name in (TEST, SPEED):
        if not (folder / name).exists():
            (folder / name).write_text(json.dumps(FILES[name][0](folder)))
    unit = Unit(label="a", experiment=EXPERIMENT, path=folder)
    whole = {"failure": [None, None], "skipped": [0, 0], "seconds": 1.0, "compile_seconds": 1.0}
    yield lambda: model_of(unit, whole)


def checkpoint(folder):
    checkpoints = Checkpoints(folder)
    where = folder / FOLDER / "3"
    where.mkdir(parents=True)
    for name in (META, MANIFEST):
        if (folder / name).exists():
            shutil.copy(folder / name, where)

    def resumed():
        meta = checkpoints.meta(3, 2)
        record = Record(EXPERIMENT)
        record.restore(meta)
        record.check()
        record.meta()

    yield resumed
    yield lambda: checkpoints.newest_whole(lambda _: None)
    checkpoints.close()
    shutil.rmtree(folder / FOLDER)


def lines(folder):
    yield lambda: read_lines(folder)
    yield lambda: truncate(folder / FILE, 2)


def owner(folder):
    lease = Lease(folder, lambda _: None)
    (folder / LOCK).mkdir(exist_ok=True)
    shutil.copy(folder / "1.json", folder / LOCK / "1.json")
    yield lambda: lease._alive(lease._newest())


def compared(folder):
    yield lambda: render([results.load(folder / results.FILE)])


def model(folder):
    where = folder / results.RUNS / "a"
    where.mkdir(parents=True, exist_ok=True)
    for name in (results.MODEL, results.TIMING, results.AXES):
        if (folder / name).exists():
            shutil.copy(folder / name, where)
    results.save(dataclasses.replace(COMPARED, models=()), folder)
    yield from compared(folder)


def rows(folder):
    yield lambda: table.page(table.rows_of(folder), {})


def row_of_forms(folder):
    yield lambda: forms.page(forms.rows_of(folder), forms.FormsOptions(out=folder))


def written(name):
    """What a file holds as the program writes it."""

    def write(folder):
        results.save(COMPARED, folder)
        results.save_model(COMPARED.models[0], folder)
        return json.loads((folder / name).read_text())

    return write


def owned(folder):
    with RunFolder(folder).owned():
        return json.loads((folder / LOCK / "1.json").read_text())


PLAN = {"model": "lru", "seconds": 1.0, "fits": True, "flops_per_token": 2.0, "bounds": {"a": 1.0}}
PLAN |= {"collectives": {"all-reduce": [1, 2.0]}, "peak_bytes": 1, "temporary_bytes": None}
FORM = {"op": "attention", "form": "whole", "topology": "v5e", "length": 8, "fits": True}
FORM |= {"flops": 1, "peak_bytes": 2, "cycles_seconds": None, "compiler_seconds": 1.0}
AXES = {"length=8,16": {"0": {"at": [8, 16], "accuracy": [0.5, None]}}}
FILES = {
    CONFIG: (lambda _: {**EXPERIMENT.to_dict(), "data": {"train": {"a": "1"}}}, config),
    RESULT: (lambda _: {**META_, "complete": True, "step": 7, "task": "mqar"}, result),
    META: (lambda _: META_, checkpoint),
    MANIFEST: (lambda _: {"version": 1, "files": {META: {"size": 1, "sha256": "x"}}}, checkpoint),
    FILE: (lambda _: LINE, lines),
    TEST: (lambda _: {"step": [3, None], "metrics": {"loss": [1.0, None]}}, of_test),
    SPEED: (lambda _: {"tokens_per_second": 1.0}, of_test),
    results.FILE: (written(results.FILE), compared),
    results.TIMINGS: (written(results.TIMINGS), compared),
    results.MODEL: (written(results.MODEL), model),
    results.TIMING: (written(results.TIMING), model),
    results.AXES: (lambda _: AXES, model),
    "1.json": (owned, owner),
    "lru.json": (lambda _: PLAN, rows),
    "v5e attention whole 8.json": (lambda _: FORM, row_of_forms),
}


@pytest.mark.of_the_day
@pytest.mark.parametrize("some", [SOME, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_a_wrong_type_anywhere_is_one_sentence(name, some, tmp_path):
    write, read = FILES[name]
    right = write(tmp_path)
    every = [*mutants(right)]
    random.Random(0).shuffle(every)
    for mutant in [right, *every[:some]]:
        (tmp_path / name).write_text(json.dumps(mutant) + "\n" * (name == FILE))
        for error in map(said, read(tmp_path)):
            assert "\n" not in str(error) or "different configuration" in str(error)


def test_what_is_wrong_is_named():
    form = EXPERIMENT.to_dict()
    form["optim"]["peak_lr"] = "x"
    with pytest.raises(ValueError, match=r'RUN, optim.peak_lr should be a number; it is "x"'):
        Experiment.from_dict(form, "RUN")
    form = EXPERIMENT.to_dict()
    form["task"]["of"]["num_pairs"] = "x"
    with pytest.raises(ValueError, match=r"RUN, task, of.num_pairs should be a whole number"):
        Experiment.from_dict(form, "RUN")


@pytest.mark.parametrize(
    ("value", "kind", "right"),
    [
        (1, float, True),
        (True, int, False),
        (1.5, int, False),
        (None, int | None, True),
        ("a", int | None, False),
        ([1, "a"], tuple[int, str], True),
        ([1], tuple[int, str], False),
        ([1, 2, "a"], tuple[int, ...], False),
        ({"steps": 3}, TrainConfig, True),
        ({"stpes": 3}, TrainConfig, False),
    ],
)
def test_types_are_told_apart(value, kind, right):
    if right:
        assert checked(value, kind, "x") is value
        return
    with pytest.raises(ValueError, match=r"^x"):
        checked(value, kind, "x")


@pytest.mark.parametrize("part", ["task", "model", "mixer", "backbone", "optim", "train"])
def test_a_run_whose_configuration_lacks_a_part_is_said_to_be_damaged(tmp_path, part):
    whole = Experiment(task="sdigits", model="lru").to_dict()
    (tmp_path / "config.json").write_text(json.dumps(whole))
    assert RunFolder(tmp_path).config()["model"] == "lru"
    del whole[part]
    (tmp_path / "config.json").write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=f"config.json: '{part}' is missing"):
        RunFolder(tmp_path).config()
