"""The fuzzer must be able to find something."""

import random
import signal
import time

import pytest

from tests.fuzz import cases, running, world
from tests.fuzz.cases import Case
from tests.fuzz.verdict import Disk, Ended, verdict

TRAIN, SHOW = Case(("train", "--out=run")), Case(("show", "HERE/base"), base="done")
EMPTY = Disk({}, {})


@pytest.mark.parametrize(
    ("case", "ended", "before", "after", "says"),
    [
        (TRAIN, Ended(1, "", "seqzoo: x"), EMPTY, EMPTY, "not documented"),
        (TRAIN, Ended(-11, "", ""), EMPTY, EMPTY, "not documented"),
        (TRAIN, Ended(-9, "", ""), EMPTY, EMPTY, "not documented"),
        (TRAIN, Ended(2, "", ""), EMPTY, EMPTY, "without a word"),
        (TRAIN, Ended(2, "", "Traceback (most\nseqzoo"), EMPTY, EMPTY, "a traceback"),
        (TRAIN, Ended(2, "", "line\n" * 11), EMPTY, EMPTY, "11 lines"),
        (TRAIN, Ended(0, "", "seqzoo train: no"), EMPTY, EMPTY, "code 0 with an error"),
        (TRAIN, Ended(-9, "", "", hung=True), EMPTY, EMPTY, "hangs"),
        (TRAIN, Ended(2, "", "seqzoo: no"), EMPTY, Disk({"run/config.json": ""}, {}), "but wrote"),
        (TRAIN, Ended(0, "", ""), Disk({"x": "1"}, {}), Disk({"x": "2"}, {}), "changed x"),
        (SHOW, Ended(0, "", ""), Disk({"base/x": "1"}, {}), EMPTY, "changed base/x"),
        (TRAIN, Ended(4, "", "no"), Disk({}, {4: "a"}), Disk({}, {2: "b"}), "checkpoint 4 is gone"),
    ],
)
def test_what_is_wrong_is_found(case, ended, before, after, says):
    assert any(says in fault for fault in verdict(case, ended, before, after))


@pytest.mark.parametrize(
    ("case", "ended"),
    [
        (TRAIN, Ended(0, "", "step 3: loss 1\nnote: x\n" * 20)),
        (TRAIN, Ended(75, "", "stopping: this step\n")),
        (TRAIN._replace(signals=((1.0, signal.SIGKILL),)), Ended(-9, "", "")),
        (Case(("doctor",)), Ended(1, "wrong", "seqzoo doctor: x")),
    ],
)
def test_what_is_right_is_not(case, ended):
    assert verdict(case, ended, EMPTY, EMPTY) == []


def test_a_number_is_always_the_same_case():
    drawn = [cases.draw(3, i) for i in range(200)]
    assert drawn == [cases.draw(3, i) for i in range(200)]
    assert len({case.argv[0] for case in drawn if case.argv}) >= 12
    assert sum(case.alone for case in drawn) < len(drawn) / 2


def test_faults_change_what_is_there(tmp_path):
    for kind, harm in world.FAULTS.items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "x.json").write_text('{"a": {"b": 1}}\r\n')
        before = world.contents(folder), [p.stat().st_mtime for p in folder.rglob("*")]
        harm(folder / "x.json", random.Random(1))
        paths = [p for p in folder.rglob("*") if not p.is_symlink()]
        assert (world.contents(folder), [p.stat().st_mtime for p in paths]) != before, kind


@pytest.mark.slow
def test_a_case_that_hangs_and_one_that_ends_its_process_are_found(tmp_path, monkeypatch):
    argvs = {0: ("list",), 1: ("hang",), 2: ("end",), 3: ("list",)}
    monkeypatch.setattr(cases, "draw", lambda _, i: Case(argvs[i]))
    monkeypatch.setattr(running, "LIMIT", 5.0)
    real = running.command
    acts = {"hang": lambda: time.sleep(60), "end": lambda: running.os._exit(3)}
    monkeypatch.setattr(
        running, "command", lambda argv: acts.get(argv[0], lambda: real(argv))() or 0
    )
    results = list(running.run(0, [0, 1, 2, 3], tmp_path, tmp_path, 1))
    assert [__file__ in result.get("err", "") for result in results] == [False, True, False, False]
    found = {result["index"]: result["found"] for result in results}
    assert found == {0: [], 1: ["hangs"], 2: ["ended its process: 3"], 3: []}
