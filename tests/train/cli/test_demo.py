import pytest

from seqzoo.models.registry import MIXERS
from seqzoo.train.cli import demo
from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare import alike, work
from seqzoo.train.compare.comparison import cost
from seqzoo.train.compare.results import Comparison
from tests.train.compare.test_comparison import finish

TASKS = ("mqar", "parity", "sdigits")


@pytest.mark.parametrize("name", TASKS)
def test_at_least_five_architectures_of_four_families(name):
    models = demo.sections()[name].experiments(demo.MODELS)
    families = {MIXERS[model].__module__.split(".")[2] for model in models}
    assert len(models) >= 5
    assert len(families) >= 4


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", TASKS)
def test_models_of_a_section_can_be_compared_fairly(name):
    experiments = demo.sections()[name].experiments(demo.MODELS)
    alike.check_models(experiments, 3)
    assert {e.backbone.short_conv for e in experiments.values()} == {4}
    parameters = [cost(e)["parameters"] for e in experiments.values()]
    assert max(parameters) < 2.5 * min(parameters)


def test_a_demo_that_was_stopped_exits_75(tmp_path, monkeypatch, capsys):
    nothing = Comparison(title="mqar", main_metric="accuracy", models=())
    monkeypatch.setattr(demo, "compare", lambda *_, **__: nothing)
    assert dispatch(["demo", "--out", str(tmp_path)]) == 75
    assert "stopped and saved" in capsys.readouterr().out


@pytest.mark.of_the_day("the demo", 3)
def test_the_command_reports_all_tasks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(work.Work, "_do", lambda self, unit: finish(unit, 0.5))
    monkeypatch.setattr(demo, "axes_of", lambda axes: ())  # nothing is trained
    assert dispatch(["demo", "--out", str(tmp_path), "--steps-scale", "0.01"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<section") == 3
    assert page.index("no model is told apart") < page.index("<section")  # all are the same here
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*TASKS, *demo.MODELS))


def test_digits_are_left_out_where_their_package_is_not_there(tmp_path, monkeypatch, capsys):
    asked = []

    def compare(experiments, out, **_):
        asked.append(out.name)
        return Comparison(title=out.name, main_metric="accuracy", models=())

    monkeypatch.setattr(demo, "compare", compare)
    monkeypatch.setattr(demo, "MODELS", {})
    monkeypatch.setattr(demo, "DIGITS", "a_package_that_is_not_there")
    monkeypatch.setattr(demo, "write_report", lambda out: out)
    monkeypatch.setattr(demo, "comparisons_in", lambda out: [])
    assert dispatch(["demo", "--out", str(tmp_path)]) == 0
    assert "pip install 'seqzoo[digits]'" in capsys.readouterr().out
    assert asked == ["mqar", "parity"]
