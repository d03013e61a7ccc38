import csv
import dataclasses
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare import results
from seqzoo.train.compare.charts import chart_data
from seqzoo.train.compare.page import render
from seqzoo.train.compare.results import ModelResult, SeedResult
from seqzoo.train.out.tables import latex_escaped
from tests.train.compare.test_page import SCRIPT_NAME, comparison

AXES = {"length": {"at": [64, 128, 1024], "accuracy": [0.9, 0.5, 0.2], "loss": [0.1, 1, 2]}}


def with_axes(model):
    return dataclasses.replace(
        model, seeds=tuple(dataclasses.replace(run, axes=AXES) for run in model.seeds)
    )


@pytest.fixture
def folder(tmp_path):
    models = tuple(with_axes(m) for m in comparison().models)
    results.save(comparison(models=models), tmp_path)
    return tmp_path


def test_every_run_is_a_line_of_csv(folder, capsys):
    assert dispatch(["report", str(folder), "--csv", "--latex"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2] for line in printed] == [
        "report.html",
        "results.csv",
        "results.tex",
    ]
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == 9
    first = rows[0]
    assert (first["task"], first["model"], first["seed"]) == ("mqar", "lru", "0")
    assert float(first["accuracy"]) == 0.2
    assert float(first["step_flops"]) == 1.1194e12
    failed = [row for row in rows if row["failed_at"]]
    assert [(row["model"], row["failed_at"]) for row in failed] == [(SCRIPT_NAME, "7")]


def test_latex_has_balanced_lines_and_inert_names(folder):
    dispatch(["report", str(folder), "--latex"])
    text = (folder / "results.tex").read_text()
    body = text[text.index("\\begin") :]
    lines = [line for line in body.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\{tabular\}\{(l r*|lr*)\}", body)[1]
    assert {len(re.split(r"(?<!\\)&", line)) for line in lines} == {len(columns)}
    assert r"98.0 (" in body
    assert not re.search(r"(?<!\\)%", body)
    assert latex_escaped(r"a_b & 5% \x") == r"a\_b \& 5\% \textbackslash{}x"


def test_figures_are_svg_with_a_line_for_each_model(folder):
    dispatch(["report", str(folder), "--svg"])
    made = sorted(path.name for path in (folder / "figures").iterdir())
    assert made == ["mqar-curves.svg", "mqar-length.svg"]
    for name in made:
        root = ET.fromstring((folder / "figures" / name).read_text())
        space = "{http://www.w3.org/2000/svg}"
        assert len(root.findall(f"{space}polyline")) == 3
        assert SCRIPT_NAME in [text.text for text in root.findall(f"{space}text")]


def test_hybrids_are_drawn_over_the_share_of_a_mixer(folder):
    found, shares = results.load(folder / results.FILE), (0.0, 0.5, 1.0)
    hybrids = [{"family": "a+lru", "mixer": "a", "share": share} for share in shares]
    pairs = zip(found.models, hybrids, strict=True)
    models = tuple(dataclasses.replace(m, hybrid=one) for m, one in pairs)
    results.save(dataclasses.replace(found, models=models), folder)
    dispatch(["report", str(folder), "--svg"])
    root = ET.fromstring((folder / "figures" / "mqar-share_of_a_layers.svg").read_text())
    space = "{http://www.w3.org/2000/svg}"
    (line,) = root.findall(f"{space}polyline")
    assert len(line.get("points").split()) == 2  # a seed of the third has failed
    words = [text.text for text in root.findall(f"{space}text")]
    assert {"a+lru", "share of a layers", "0.5"} <= set(words)


def test_png_names_its_extra(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    assert dispatch(["report", str(folder), "--png", "--csv"]) == 2
    assert "pip install 'seqzoo[png]'" in capsys.readouterr().err
    assert not (folder / "results.csv").exists()


def test_png_is_drawn(folder):
    pytest.importorskip("resvg_py")
    assert dispatch(["report", str(folder), "--png"]) == 0
    drawn = (folder / "figures" / "mqar-curves.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")


def test_axes_are_drawn_with_their_intervals(folder):
    data = chart_data(results.load(folder / results.FILE), "s0")
    assert data["axes"] == [{"name": "length", "metrics": ["accuracy", "loss"]}]
    line = data["models"][0]["axes"]["length"]["accuracy"]
    assert (line["x"], line["mean"]) == ([64, 128, 1024], pytest.approx([0.9, 0.5, 0.2]))
    assert data["models"][0]["costs"]["FLOPs a step"] == 1.1194e12


@pytest.mark.of_the_day("a small page", 3)
def test_a_large_comparison_is_a_small_page():
    rng = np.random.default_rng(0)
    steps = list(range(100, 100_001, 100))

    def curves():
        names = ("accuracy", "loss", *(f"accuracy_at_{i}" for i in range(6)))
        curve = {name: rng.random(len(steps)).tolist() for name in names}
        return {"train": {"step": steps, **curve}, "validation": {"step": steps, **curve}}

    models = tuple(
        ModelResult(
            name=f"model{i}",
            seeds=tuple(
                SeedResult(seed=s, final={"accuracy": rng.random()}, curves=curves())
                for s in range(10)
            ),
            steps=100_000,
        )
        for i in range(20)
    )
    assert len(render([comparison(models=models)])) <= 2_000_000
