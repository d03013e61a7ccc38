"""The table of forms: what is compiled, kept, continued and shown."""

import json

import jax
import pytest

from seqzoo.models.ops.layout import backends as forms
from seqzoo.train.cli.command import dispatch
from seqzoo.train.plan import forms as module
from seqzoo.train.plan.forms import FormsOptions, measure, page
from seqzoo.train.plan.hlo import KERNEL, Module
from seqzoo.train.plan.primitives import FORMS, form_of
from seqzoo.train.plan.topology import Plan, devices_of

DONE = {
    "fits": True,
    "flops": 2e9,
    "peak_bytes": 3 * 2**20,
    "cycles_seconds": 0.004,
    "compiler_seconds": None,
    "seconds": 1.0,
}


@pytest.mark.of_the_day("plan forms", 3)
def test_every_form_takes_its_arguments():
    for form in FORMS:
        shapes = form.arguments(256)
        assert jax.tree.leaves(jax.eval_shape(form.call, *shapes))[0].shape[:2] == (1, 256)


def test_a_forced_form_is_what_is_counted():
    rows = {f.name: measure(f, 64, "local") for f in FORMS if f.op == "linear_scan"}
    # A prefix multiplies decays too; a loop does one product and one sum an element, both ways.
    assert rows["associative"]["flops"] > 1.5 * rows["sequential"]["flops"]
    assert rows["sequential"]["peak_bytes"] > 4 * 64 * 1024 * 4
    assert forms.chosen("linear_scan", "cpu") == "sequential"  # afterwards as the table says


def test_a_table_continues_and_keeps_failures(tmp_path, monkeypatch, capsys):
    made = []

    def planned(_, request, limit):
        made.append(request["form"])
        return {"error": "too | slow", "seconds": limit} if "dense" in made[-1] else dict(DONE)

    monkeypatch.setattr(module, "planned_apart", planned)
    call = ["plan", "--forms", "--out", str(tmp_path / "rows"), "--lengths", "512", "--ops"]
    assert dispatch([*call, "linear_scan"]) == 0
    page = tmp_path / "page.md"
    assert dispatch([*call, "linear_scan,attention", "--page", str(page)]) == 0
    assert made[:2] == ["linear_scan/sequential", "linear_scan/associative"]
    assert len(made) == 6
    text = page.read_text()
    assert "    seqzoo plan --forms --topology v5e:1x1 --out DIR" in text
    assert "## attention, v5e:1x1\n\n| form | L = 512 |\n|---|---|\n" in text
    assert "| sequential | 4 (?) / ? / 3 / 2 |" in text
    assert "| dense | too / slow |" in text
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 6, "missing": 0}


def test_rows_of_gpus_are_launches():
    row = {"op": "attention", "form": "dense", "topology": "h100:1", "length": 512}
    text = page([{**row, **DONE, "launches": 1234.0, "bound_seconds": 0.002}], FormsOptions())
    assert text.startswith("# Forms of the primitives on GPUs and TPUs")
    assert "| dense | 1,234 / 2 / 3 / 2 |" in text


def test_no_row_is_begun_after_the_time(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module, "planned_apart", lambda *_: dict(DONE))
    call = ["plan", "--forms", "--out", str(tmp_path), "--total-seconds", "15"]
    assert dispatch([*call, "--ops", "linear_scan"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"rows": 1, "missing": 5}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--ops", "linear_scam"], "did you mean linear_scan?"),
        (["--row", "linear_scan/sequentia"], "linear_scan/sequential"),
        ([], "--forms needs --out DIR"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(more, says, capsys):
    assert dispatch(["plan", "--forms", *more]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("op", ["dplr_delta_rule", "gated_delta_rule"])
def test_a_tpu_walks_over_chunks_in_two_kernels(op):
    pytest.importorskip("libtpu", reason="libtpu compiles for TPUs; the extra `tpu` installs it")
    device = devices_of(Plan(topology="v5e:1x1"))[0]
    found = {}
    for name in ("walk", "mosaic"):
        lowered, _ = module.lowered_form(form_of(f"{op}/chunks, {name}"), 256, device)
        found[name] = Module(lowered.compile().as_text())
    kernels = [KERNEL in i.rest for i, *_ in found["mosaic"].operations()]
    assert sum(kernels) == 2
    assert found["mosaic"].cycles() == 0 < found["walk"].cycles()
