"""One command starts processes that share a comparison, stops them, and says what came of them."""

import os
import subprocess
import sys
import threading

import pytest

from seqzoo.train.cli import compare as cli
from seqzoo.train.compare import members, results
from seqzoo.train.devices.processes import Processes

HELLO = "import os, sys; open(sys.argv[1] + '/' + str(os.getpid()), 'w').write(os.environ.get"
TINY = (
    *("--task", "mqar", "--models", "lru,gru", "--seeds", "1", "--steps", "4", "--batch-size", "4"),
    *("--data.length", "16", "--data.num-pairs", "2", "--data.vocab-size", "18"),
    *("--data.train-size", "20", "--data.validation-size", "4", "--data.test-size", "4"),
    *("--backbone.d-model", "8", "--backbone.depth", "1", "--eval-every", "0"),
)


def test_each_gpu_has_its_member(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    command = ["-c", HELLO + "('CUDA_VISIBLE_DEVICES') + os.environ['SEQZOO_MEMBER'])"]
    assert members.on_host([*command, str(tmp_path)], 0) == 0
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["41", "71"]
    assert members._share(["4"], 1, 3) == {
        "CUDA_VISIBLE_DEVICES": "4",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.300",
    }
    assert members._share([], 1, 3) == {}


def test_the_others_faults_are_said(capfd):
    script = "import os, sys; print('why', file=sys.stderr); sys.exit(2)"
    assert members.on_host(["-c", script], 2) == 2
    assert "process 1 ended with 2: why" in capfd.readouterr().err
    assert [members.joint(codes) for codes in ([75, 0], [75, 75], [75, -9], [2, 75])] == [
        0,
        75,
        137,
        2,
    ]


def test_a_stop_reaches_every_member(monkeypatch):
    script = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(75)); time.sleep(60)"
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), 15))
    timer.start()
    assert members.on_host(["-c", script], 2) in (75, 143)  # 143: not yet ready for it
    timer.join()


def test_what_cannot_be_is_refused(monkeypatch):
    several = Processes(coordinator="a:1", num_processes=2, process_id=0)
    for args, message in (
        ((-1, 0, Processes()), "--workers counts processes; got -1"),
        ((2, 2, Processes()), "give one of the two"),
        ((2, 0, several), "choose one"),
    ):
        with pytest.raises(ValueError, match=message):
            members.wanted(*args)
    assert members.wanted(0, 0, Processes())
    assert not members.wanted(1, 0, Processes())
    monkeypatch.setenv(members.MEMBER, "1")
    assert not members.wanted(2, 0, Processes())
    monkeypatch.delenv(members.MEMBER)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'seqzoo\[ray\]'"):
        members.on_ray([], 1)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--workers", "--ray"])
def test_two_members_share_a_comparison(tmp_path, flag, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    if flag == "--ray":
        ray = pytest.importorskip("ray")
        ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    out = tmp_path / "out"
    try:
        assert cli.main([*TINY, flag, "2", "--out", str(out)]) == 0
    finally:
        if flag == "--ray":
            ray.shutdown()
    found = results.load(out / results.FILE)
    assert sorted(model.name for model in found.models) == ["gru", "lru"]
    assert "--workers 2" in found.command or "--ray 2" in found.command
    again = [sys.executable, "-m", "seqzoo.train.cli", "compare", *TINY, "--out", str(out)]
    assert subprocess.run(again, capture_output=True).returncode == 0  # and nothing is left
