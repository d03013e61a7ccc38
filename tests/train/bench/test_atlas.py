"""The atlas: its order, its fits, that it goes on where it was stopped, and that it is a page."""

import json
import math
import re

import pytest

from seqzoo.train.bench import atlas as module
from seqzoo.train.bench.atlas import Cell, atlas, cells, crossover, fits
from seqzoo.train.bench.options import Bench
from seqzoo.train.cli.command import dispatch

LENGTHS = (32, 64, 128)


def bench(tmp_path, **changes):
    options = {"models": "lru,gru", "lengths": LENGTHS, "d_model": 16, "rounds": 1, "batches": (2,)}
    return Bench(atlas=True, out=tmp_path / "atlas", **{**options, **changes})


@pytest.fixture
def measured(monkeypatch):
    """Times as laws would have them; the cells that were measured."""
    seen = []

    def row(_, cell, ceiling):
        seen.append(cell)
        if cell.model == "gru" and cell.length == 128:
            return {"error": "ValueError: <too long>"}
        power = 2 if cell.model == "attention" else 1
        seconds = 1e-6 * cell.length**power * (1 if power == 2 else 64)
        return {"seconds": 2 * seconds, "best_seconds": seconds, "flops": 1e6}

    monkeypatch.setattr(module, "_measured", row)
    monkeypatch.setattr(module, "_ceiling", lambda dtype: 1e9)
    return seen


def test_what_is_asked_for_most_comes_first(tmp_path):
    found = cells(bench(tmp_path, models="fnet,gru,mamba2", batches=(1, 4)))
    assert found[:2] == [Cell(name, "forward_backward", 32, 1) for name in ("attention", "mamba2")]
    places = {cell: place for place, cell in enumerate(found)}
    first = places[Cell("attention", "forward_backward", 128, 4)]
    assert first < places[Cell("attention", "decode", 32, 1)]
    assert places[Cell("gru", "forward", 128, 4)] < places[Cell("fnet", "forward_backward", 32, 1)]
    assert not any(cell.model == "fnet" and cell.what == "decode" for cell in found)
    assert {cell.what for cell in found if cell.model == "flax gru"} == {
        "forward_backward",
        "forward",
    }
    assert not any("flax" in cell.model for cell in cells(bench(tmp_path, peers=False)))


@pytest.mark.of_the_day("an atlas stopped", 3)
def test_it_goes_on_where_it_was_stopped(tmp_path, measured):
    rows = atlas(bench(tmp_path, peers=False))
    for _ in range(3):
        next(rows)
    rows.close()
    assert len(json.loads((tmp_path / "atlas/atlas.json").read_text())["rows"]) == 3
    assert len(list(atlas(bench(tmp_path, peers=False)))) == 3 * 4 * 3 - 3
    assert len(measured) == len(set(measured)) == 36
    assert not list(atlas(bench(tmp_path, peers=False)))
    assert len(list(atlas(bench(tmp_path, peers=False, batches=(2, 3))))) == 36  # it may grow
    with pytest.raises(ValueError, match=r"d_model: 16 there, 8 here\n.*another folder"):
        next(atlas(bench(tmp_path, d_model=8)))


def test_exponents_crossovers_and_failures_are_on_the_page(tmp_path, measured):
    list(atlas(bench(tmp_path, peers=False)))
    found = json.loads((tmp_path / "atlas/atlas.json").read_text())
    fitted = {fit["model"]: fit for fit in found["fits"] if fit["what"] == "train"}
    assert fitted["attention"]["exponent"] == pytest.approx(2)
    assert fitted["lru"]["exponent"] == pytest.approx(1)
    # They are equal at 64 tokens: behind or level there, ahead at 128.
    assert fitted["lru"]["crossover"] == pytest.approx(64)
    page = (tmp_path / "atlas/atlas.html").read_text()
    assert page.count("<svg") == 4
    assert "&lt;too long&gt;" in page
    assert "<too long>" not in page
    assert not re.search(r"(src|href)=", page)  # nothing from elsewhere
    assert "<td>64</td>" in page


def test_where_a_mixer_passes_attention():
    square = {n: n**2 for n in LENGTHS}
    assert crossover({n: n for n in LENGTHS}, square) == {"crossover": 32.0, "known": "at_most"}
    late = crossover({n: 256.0 * n for n in LENGTHS}, square)
    assert late == {"crossover": pytest.approx(256), "known": "extrapolated"}
    between = crossover({n: 90.5 * n for n in LENGTHS}, square)
    assert between == {"crossover": pytest.approx(90.5), "known": "measured"}
    assert crossover({n: n**3 for n in LENGTHS}, square) == {}
    assert crossover({32: 1.0}, square) == {}
    rows = [{"model": "lru", "what": "train", "batch": 1, "length": 8, "best_seconds": 1.0}]
    assert fits(rows) == []


@pytest.mark.of_the_day("cells of an atlas")
@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("lru", "decode"),
        ("lru", "forward_backward"),
        ("flax rnn", "forward_backward"),
        pytest.param("lru", "train", marks=pytest.mark.slow),
    ],
)
def test_a_cell_is_measured(tmp_path, model, what):
    row = module._measured(bench(tmp_path), Cell(model, what, 32, 2), 1e12)
    assert row["tokens_per_second"] == pytest.approx(
        (2 if what == "decode" else 64) / row["seconds"]
    )
    assert row["seconds"] >= row["best_seconds"] > 0
    assert row["compile_seconds"] > 0
    if model == "lru":
        assert row["utilisation"] == pytest.approx(row["flops"] / row["best_seconds"] / 1e12)
        assert row["mib"] >= row["temp_mib"] > 0


def test_a_cell_that_cannot_be_is_a_row_with_its_reason(tmp_path, monkeypatch):
    def broken(*_):
        raise MemoryError("no room\nfor this")

    monkeypatch.setattr(module, "_made", broken)
    row = module._measured(bench(tmp_path), Cell("lru", "train", 32, 2), math.nan)
    assert row == {"error": "MemoryError: no room"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--lengths", "8"], "lengths are at least that; got (8,)"),
        (["--batches", "0"], "at least 1; got (0,)"),
        (["--models", "grru"], "did you mean gru"),
        (["--options", '{"gru": {"hidden": 3}}', "--models", "gru"], "hidden"),
    ],
)
def test_an_atlas_that_cannot_be_is_refused_before_work(tmp_path, capsys, more, says):
    assert dispatch(["bench", "--atlas", "--out", str(tmp_path / "a"), *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
