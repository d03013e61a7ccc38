"""How much needs long range: two more rows, rows out of order, and the share that is left."""

import dataclasses
import json

import pytest

from seqzoo.train.compare import comparison as module
from seqzoo.train.compare import controls, results
from seqzoo.train.compare.page import render
from seqzoo.train.compare.statistics import interval
from seqzoo.train.evaluation.axes import axes_of
from tests.train.compare.test_comparison import names, run, trained

__all__ = ["trained"]


def model(name, *pairs):
    """Seeds with an accuracy each on rows as they are and shuffled."""
    seeds = tuple(
        results.SeedResult(
            seed=i,
            final={"accuracy": whole},
            axes={"shuffle": {"at": [4.0, 16.0], "accuracy": [left, 0.99]}},
        )
        for i, (whole, left) in enumerate(pairs)
    )
    return results.ModelResult(name=name, seeds=seeds, steps=9)


COMPARED = results.Comparison(
    title="digits",
    main_metric="accuracy",
    baselines={"majority class": 0.1, "other": None},
    models=(
        model("lru", (0.9, 0.5), (0.8, 0.4)),
        model("free_conv", (0.95, 0.2), (0.9, 0.1)),
        model("window16", (0.5, 0.5), (0.6, 0.6)),
        model("idle", (0.15, 0.1), (0.9, 0.8)),
    ),
)


def test_shares_are_above_the_trivial_rule_and_seed_by_seed():
    found = controls.controls_of(COMPARED)
    expected = {"lru": [0.4 / 0.8, 0.3 / 0.7], "free_conv": [0.1 / 0.85, 0], "window16": [1, 1]}
    for name, shares in expected.items():
        own = interval(shares)
        assert found["shuffled"][name] == pytest.approx(
            {"mean": own.mean, "low": own.low, "high": own.high, "seeds": 2}
        )
    # A seed that has learned nothing has nothing to share, and then the model has no share.
    assert found["shuffled"]["idle"] == {"mean": None, "low": None, "high": None, "seeds": 0}
    of_best = {"window16": [0.4 / 0.8, 0.5 / 0.7], "free_conv": [0.85 / 0.8, 0.8 / 0.7]}
    assert found["of_best"].keys() == of_best.keys()
    for name, shares in of_best.items():
        assert found["of_best"][name]["mean"] == pytest.approx(interval(shares).mean)


def test_the_page_and_the_terminal_show_them():
    page = render([COMPARED])
    assert "How much needs long range" in page
    assert "46.4 ± 45.4%" in page
    assert "Against shuffle" in page
    one = {"shuffle": {"at": [16.0], "accuracy": [0.3]}}  # a line has two points
    seeds = tuple(dataclasses.replace(run, axes=one) for run in COMPARED.models[0].seeds)
    alone = dataclasses.replace(COMPARED.models[0], seeds=seeds)
    page = render([dataclasses.replace(COMPARED, models=(alone,))])
    assert "Against shuffle" not in page
    assert "How much needs long range" in page
    lines = controls.lines(COMPARED)
    assert lines[0].startswith("free_conv: 15.0 ")
    assert "5.9 ± 74.7% left; 110.3 ± 51.1% of the best" in lines[0]
    assert any(line.startswith("idle: ") and line.endswith("– left") for line in lines)
    bare = [results.ModelResult(name=m.name, seeds=(), steps=9) for m in COMPARED.models[:1]]
    plain = results.Comparison(title="digits", main_metric="accuracy", models=tuple(bare))
    assert controls.controls_of(plain) == {}
    assert "long range" not in render([plain])
    losses = results.Comparison(title="text", main_metric="loss", models=COMPARED.models)
    assert controls.controls_of(losses) == {}


def test_the_flag_adds_two_models_and_tests_all_out_of_order(tmp_path, trained, monkeypatch):
    asked = []

    def measure(models, folder, axes):
        asked.append((list(models), [str(axis) for axis in axes]))
        for label in models:
            curve = {"at": [16.0], "accuracy": [0.05]}
            found = {"shuffle=16": {"0": curve, "1": curve}}
            (folder / label / results.AXES).write_text(json.dumps(found))

    monkeypatch.setattr(module, "measure", measure)
    more = ["--controls", "--mixer.window16.num-heads", "2", "--axes", "position"]
    long = ["--data.length", "32", "--data.vocab-size", "40"]
    assert run(tmp_path, "lru", *more, *long) == 0
    labels = ["lru", *controls.MODELS]
    assert names(tmp_path) == labels
    assert asked == [(labels, ["position", "shuffle=16"])]
    found = results.load(tmp_path / results.FILE)
    window = found.model("window16").config
    assert (window["model"], window["mixer"]["window"]) == ("attention", 16)
    assert window["mixer"]["num_heads"] == 2
    assert found.model("free_conv").config["model"] == "long_conv"
    kept = json.loads((tmp_path / results.FILE).read_text())["controls"]
    assert kept == found.controls == controls.controls_of(found)
    assert list(kept["shuffled"]) == labels
    assert kept["of_best"]["window16"]["mean"] is None  # lru is worse than the trivial rule
    assert "How much needs long range" in (tmp_path / "report.html").read_text()


def test_what_cannot_be_is_said(tmp_path, trained, capsys):
    assert run(tmp_path / "a", "window16=lru", "--controls") == 2
    assert "controls add a model window16; give yours another label" in capsys.readouterr().err
    assert run(tmp_path / "b", "lru", "--controls") == 2  # rows of 16 steps
    assert "shuffle takes blocks of at least 1 step" in capsys.readouterr().err
    assert run(tmp_path / "c", "lru", "--axes", "shuffle=x") == 2
    assert "shuffle takes numbers of tokens" in capsys.readouterr().err
    assert [str(a) for a in controls.with_shuffle(axes_of(["shuffle=4,8"]))] == ["shuffle=4,8"]
