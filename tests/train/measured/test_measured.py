"""The report of a device: its order, that it goes on, that a wrong kernel is found and left out."""

import json

import numpy as np
import pytest

from seqzoo.models.ops.layout import backends as forms
from seqzoo.train.bench.options import Bench
from seqzoo.train.cli import bench as cli_bench
from seqzoo.train.cli.command import dispatch
from seqzoo.train.measured import checks as checks_module
from seqzoo.train.measured import report
from seqzoo.train.measured.checks import CHECKS, Check, checks, compared, failed, plainly
from seqzoo.train.measured.report import measured
from seqzoo.train.measured.row import answer

DEVICE = {"device": "NVIDIA H100 80GB HBM3", "platform": "gpu", "jax": "1"}
DEVICE |= {"peers": [], "absent": {"fla": "fla is not installed"}, "seconds": 1.0}
TIMED = {"best_seconds": 2e-3, "median_seconds": 3e-3, "tokens_per_second": 1e6, "seconds": 9.0}
TIMED |= {"bound_seconds": 5e-4, "bounds": {"products": 1e-4, "memory": 5e-4}, "launches": 1234}
TIMED |= {"peak_bytes": 3 * 2**20, "held_bytes": 5 * 2**20}


@pytest.fixture
def asked(monkeypatch):
    """Requests of processes, in which the walk of LSTM hangs and that of GRU is wrong."""
    seen = []

    def made(_, request, limit, work):
        if request["what"] == "device":
            return dict(DEVICE)
        seen.append(request)
        if request["what"] == "time":
            return dict(TIMED)
        if request["check"]["model"] == "lstm":
            return {"error": f"not {work} within {limit:.0f} s", "seconds": limit}
        right = request["check"]["model"] != "gru"
        found = {"float32": [1e-3 if right else 0.5, 1e-3]}
        return {"ok": right, "form": "triton", "distances": found, "seconds": 5.0}

    monkeypatch.setattr(report, "planned_apart", made)
    return seen


def bench(tmp_path, **changes):
    options = {"models": "lstm,gru,mamba", "lengths": (64,), "d_model": 16, "peers": False}
    return Bench(atlas=True, device_report=tmp_path / "d", **{**options, **changes})


def test_kernels_come_first_and_a_wrong_one_is_left_out(tmp_path, asked):
    rows = list(measured(bench(tmp_path)))
    assert [r["check"]["model"] for r in asked[:3]] == ["lstm", "gru", "mamba"]
    assert [r["cell"]["model"] for r in asked[3:6]] == ["attention", "lstm", "mamba"]
    assert all(r["forms"] == {"nonlinear_scan": "loop"} for r in asked[3:])
    assert len(rows) == len(asked) == 3 + 4 * 2
    page = (tmp_path / "d/device.md").read_text()
    assert "| `lstm` | nonlinear_scan |  | not done within 300 s |" in page
    assert "| `gru` | nonlinear_scan | triton | WRONG | float32 0.5 / 0.001 |" in page
    assert "| 2 | 1,000,000 | 0.5 | memory | 25% | 3 | 5 | 1,234 |" in page
    assert "No layers of fla: fla is not installed." in page


def test_it_goes_on_where_it_was_stopped(tmp_path, asked):
    rows = measured(bench(tmp_path))
    for _ in range(4):
        next(rows)
    rows.close()
    assert len(list(measured(bench(tmp_path)))) == 7
    assert len(asked) == 11
    with pytest.raises(ValueError, match="d_model: 16 there, 8 here"):
        next(measured(bench(tmp_path, d_model=8)))


def test_layers_of_others_are_beside_ours(tmp_path, asked):
    list(measured(bench(tmp_path, peers=True)))
    found = json.loads((tmp_path / "d/device.json").read_text())["rows"]
    for row in found:
        if row["name"].startswith("flax"):
            row |= {"peer": True, "best_seconds": 3e-3}
    page = report.page({"settings": DEVICE, "rows": found})
    assert "| `lstm` (plain nonlinear_scan) |" in page
    assert page.count("flax 1.50 |") == 2  # LSTM and GRU


def test_every_platform_checks_the_forms_that_it_has_of_its_own():
    names = tuple(check.model for check in CHECKS)
    assert not checks("cpu", names)
    for platform in ("tpu", "gpu"):
        ops = {c.op for c in checks(platform, names)}
        assert ops == {"attention", "nonlinear_scan", "selective_scan", "chunks"}
    assert failed({"lstm": False, "mamba": True}) == {"nonlinear_scan": "loop"}


@pytest.mark.of_the_day("forms checked", 3)
def test_a_right_form_passes_its_check_and_a_wrong_one_does_not(monkeypatch):
    check = Check("min_gru", "linear_scan", "sequential")
    monkeypatch.setattr(checks_module, "VARIANTS", (("float32", True),))
    with plainly({"linear_scan": "associative"}):
        row = compared(check, 40, 8)
    assert row["ok"]
    assert 0 < row["distances"]["float32, packed"][0] < 1e-5
    made = checks_module._results
    for wrong in (1.001, np.nan):

        def of(check, *args, wrong=wrong):
            found = made(check, *args)
            plain = forms.chosen(check.op, "cpu") == check.plain
            return found if plain else [a * wrong for a in found]

        monkeypatch.setattr(checks_module, "_results", of)
        with plainly({"linear_scan": "associative"}):
            assert not compared(check, 40, 8)["ok"]


@pytest.mark.of_the_day("a measured row", 3)
def test_a_row_says_what_its_program_would_take():
    cell = {"model": "lru", "what": "forward_backward", "length": 32, "batch": 2}
    request = {"what": "time", "cell": cell, "forms": {}}
    row = answer({**request, "bench": {"d_model": 16, "models": "lru", "rounds": 1}})
    assert row["median_seconds"] >= row["best_seconds"] > 0
    assert row["peak_bytes"] > 2 * 32 * 16 * 4
    assert json.dumps(row)


def test_forms_of_a_process_may_be_named(monkeypatch):
    monkeypatch.setenv(forms.VARIABLE, "attention=large blocks")
    assert {forms.chosen("attention", p) for p in forms.PLATFORMS} == {"large blocks"}
    with forms.forced("attention", "small blocks"):
        assert forms.chosen("attention", "gpu") == "small blocks"
    monkeypatch.setenv(forms.VARIABLE, "atention=blocks")
    with pytest.raises(ValueError, match="SEQZOO_FORMS is OP=FORM"):
        forms.chosen("attention", "cpu")


def test_a_report_is_of_the_atlas(capsys, tmp_path):
    assert dispatch(["bench", f"--device-report={tmp_path / 'x'}"]) == 2
    assert "give --atlas too" in capsys.readouterr().err


@pytest.mark.slow
def test_a_device_is_found_by_a_process_of_its_own(tmp_path, capsys):
    call = ["bench", "--atlas", "--models=min_gru", "--lengths=32", "--d-model=8", "--rounds=1"]
    assert dispatch([*call, "--no-peers", f"--device-report={tmp_path / 'd'}"]) == 0
    assert "min_gru train 32 8: done" in capsys.readouterr().out


def test_none_is_no_folder(monkeypatch, capsys):
    monkeypatch.setitem(cli_bench.MEASURES, "host", lambda bench: iter([{"seconds": 1}]))
    assert dispatch(["bench", "--what", "host", "--device-report", "None"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])["seconds"] == 1
