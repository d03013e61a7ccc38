import contextlib
import json

import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.train.cli.command import dispatch
from seqzoo.train.cli.compare import labelled
from seqzoo.train.compare import comparison as module
from seqzoo.train.compare import results, units, work
from seqzoo.train.compare.charts import ratios_in
from seqzoo.train.compare.comparison import digest_of
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost
from seqzoo.train.folder.run_folder import RunFolder

SMALL = [
    *("--task", "mqar", "--data.length", "16", "--data.num-pairs", "4", "--data.vocab-size", "18"),
    *("--data.train-size", "64", "--data.validation-size", "9", "--data.test-size", "11"),
    *("--backbone.d-model", "8", "--backbone.depth", "1", "--batch-size", "8", "--steps", "3"),
    *("--seeds", "2", "--eval-every", "0", "--threads", "0"),
]


def run(out, models, *more):
    return dispatch(["compare", *SMALL, "--models", models, "--out", str(out), *more])


@pytest.fixture
def trained(monkeypatch):
    """Units whose training takes no time: (model, seeds) of each."""
    calls = []

    def do(self, unit):
        train = unit.experiment.train
        calls.append((unit.experiment.model, train.seeds))
        finish(unit, 0.1 * len(calls))

    monkeypatch.setattr(work.Work, "_do", do)
    return calls


def finish(unit, accuracy, tested=None, failure=None):
    """Writes what a run of the unit leaves behind."""
    train = unit.experiment.train

    def each(value):
        return value if train.replicas == 1 else [value] * train.replicas

    result = {"step": train.steps, "complete": failure is None, "failure": each(failure)}
    result |= {"skipped": each(0), "seconds": 2.0, "compile_seconds": 1.0}
    result |= {"train": {}, "validation": {}}
    RunFolder(unit.path).finish(result)
    tests = {"step": tested, "metrics": {"accuracy": each(accuracy), "loss": each(1.0)}}
    (unit.path / units.TEST).write_text(json.dumps(tests))
    (unit.path / work.SPEED).write_text('{"tokens_per_second": 3.0}')


def names(out):
    return [m.name for m in results.load(out / results.FILE).models]


LRU = ("lru", "--mixer.lru.d-state", "4")


def test_the_command_trains_tabulates_and_reports(tmp_path, capsys):
    assert run(tmp_path, *LRU) == 0
    got = results.load(tmp_path / results.FILE)
    (lru,) = got.models
    assert [seed.seed for seed in lru.seeds] == [0, 1]
    assert lru.seeds[0].final != lru.seeds[1].final
    assert lru.config["mixer"]["d_state"] == 4
    assert (got.data["train"], got.data["validation"], got.data["test"]) == (64, 9, 11)
    assert "--mixer.lru.d-state 4" in got.command
    assert lru.tokens_per_second > 0
    printed = capsys.readouterr().out
    assert "lru" in printed
    assert "report.html" in printed
    assert "lru" in (tmp_path / "report.html").read_text()
    # The model's run is one like any other.
    assert dispatch(["show", str(tmp_path / results.RUNS / "lru")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("step        3 of 3") == 2
    assert "seed 1\n" in shown


@pytest.mark.of_the_day("axes of what was compared", 3)
def test_axes_and_streams_are_found_from_the_checkpoints_of_what_is_there(tmp_path, capsys):
    assert run(tmp_path, *LRU) == 0
    (lru,) = results.load(tmp_path / results.FILE).models
    assert run(tmp_path, *LRU, "--axes", "num-pairs=2,4", "position", "shuffle=4,15") == 0
    axes = [seed.axes for seed in results.load(tmp_path / results.FILE).models[0].seeds]
    assert axes[0]["num-pairs"]["at"] == [2, 4]
    for seed, own in zip(lru.seeds, axes, strict=True):
        np.testing.assert_allclose(own["num-pairs"]["loss"][1], seed.final["loss"], rtol=1e-5)
        assert own["num-pairs"]["loss"][0] != own["num-pairs"]["loss"][1]
        assert own["shuffle"]["at"] == [4, 15]
        assert len({seed.final["loss"], *own["shuffle"]["loss"]}) == 3
        assert len(own["position"]["at"]) == len(own["position"]["accuracy"])
    capsys.readouterr()
    assert dispatch(["evaluate", str(tmp_path / results.RUNS / "lru"), "--streaming"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["seeds"] == [0, 1]
    np.testing.assert_allclose(found["loss"], [seed.final["loss"] for seed in lru.seeds], rtol=1e-5)


def test_a_model_that_is_done_is_not_run_again(tmp_path, trained):
    assert run(tmp_path, "lru,gru") == 0
    assert run(tmp_path, "gru,lru,rnn") == 0
    assert [model for model, _ in trained] == ["lru", "gru", "rnn"]
    assert names(tmp_path) == ["lru", "gru", "rnn"]


class StopAfter:
    """Asks for a stop when some models have been trained, as a signal would."""

    def __init__(self, trained, count):
        self._trained, self._count = trained, count

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    interrupting = staticmethod(contextlib.nullcontext)

    @property
    def requested(self):
        return len(self._trained) >= self._count


def test_a_stopped_comparison_goes_on_to_the_same_results(tmp_path, trained, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(module, "StopRequest", lambda *_: StopAfter(trained, 1))
        assert run(tmp_path / "in_two", "lru,gru,rnn") == 75
    assert names(tmp_path / "in_two") == ["lru"]
    assert "without gru, rnn; the same command goes on" in capsys.readouterr().out
    assert run(tmp_path / "in_two", "lru,gru,rnn") == 0
    del trained[:]
    assert run(tmp_path / "at_once", "lru,gru,rnn") == 0
    found = {name: (tmp_path / name / results.FILE).read_text() for name in ("in_two", "at_once")}
    parts, whole = (text.replace(name, "") for name, text in found.items())  # in the command
    assert parts == whole
    assert not any(name in whole for name in (*results.TIMED, "created"))
    model = results.load(tmp_path / "at_once" / results.FILE).models[0]
    assert (model.tokens_per_second, model.train_seconds, model.compile_seconds) == (3, 2, 1)


def test_models_of_two_processes_are_all_there_and_each_is_trained_once(tmp_path, monkeypatch):
    """The other process has the first model; it finishes while this one trains the second."""
    monkeypatch.setattr(work, "POLL", 0.01)
    done = []
    others = RunFolder(tmp_path / results.RUNS / "lru")
    with others.owned():

        def do(self, unit):
            if not done:
                assert unit.label == "gru"
                (lru,) = self._plans["lru"].final_units({})
                others.adopt(lru.experiment)
                finish(lru, 0.5)
                others.release()
            done.append(unit.label)
            finish(unit, 0.25)

        monkeypatch.setattr(work.Work, "_do", do)
        assert run(tmp_path, "lru,gru") == 0
    assert done == ["gru"]
    got = results.load(tmp_path / results.FILE)
    assert [(m.name, m.seeds[0].final["accuracy"]) for m in got.models] == [
        ("lru", 0.5),
        ("gru", 0.25),
    ]


def test_a_model_that_another_process_finished_is_read_whoever_wrote_last(tmp_path, trained):
    run(tmp_path, "lru,gru")
    content = json.loads((tmp_path / results.FILE).read_text())
    content["models"] = content["models"][1:]
    (tmp_path / results.FILE).write_text(json.dumps(content))
    assert names(tmp_path) == ["lru", "gru"]


def test_a_folder_of_another_version_is_read_or_says_what_reads_it(tmp_path, trained, capsys):
    run(tmp_path, "lru")
    content = json.loads((tmp_path / results.FILE).read_text())
    new = ("step_flops", "state_bytes", "matched", "hybrid")
    (model,) = content["models"]
    old = {**model, "seeds": [{k: v for k, v in s.items() if k != "axes"} for s in model["seeds"]]}
    old = {k: v for k, v in old.items() if k not in new}
    (tmp_path / results.FILE).write_text(
        json.dumps({**content, "seqzoo_results": 1, "models": [old]})
    )
    (found,) = results.load(tmp_path / results.FILE).models
    assert (found.state_bytes, found.step_flops) == (None, None)
    capsys.readouterr()
    assert dispatch(["report", str(tmp_path)]) == 0
    assert "128 elements" in (tmp_path / "report.html").read_text()
    (tmp_path / results.FILE).write_text(json.dumps({**content, "seqzoo_results": 9}))
    assert dispatch(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "of version 9" in said
    assert "versions 1 to 2" in said
    assert said.count("\n") == 1


def test_a_folder_of_before_is_read_and_joined(tmp_path, trained):
    run(tmp_path, "lru")
    content = json.loads((tmp_path / results.FILE).read_text())
    (model,) = content["models"]
    model |= {"tokens_per_second": 7.0, "train_seconds": 8.0, "compile_seconds": 9.0}
    content |= {"created": "2026-01-01T00:00:00+00:00"}
    del content["labels"], model["seeds"][0]["skipped"]
    content["config"]["train"] |= {"save_every": 200}
    old = tmp_path / "old"
    old.mkdir()
    (old / results.FILE).write_text(json.dumps(content))
    assert "7.0" not in (tmp_path / results.FILE).read_text()
    assert results.load(old / results.FILE).created.startswith("2026-01-01")
    assert run(old, "lru,gru") == 0
    assert [model for model, _ in trained] == ["lru", "gru"]
    assert [m.tokens_per_second for m in results.load(old / results.FILE).models] == [7, 3]


def test_a_model_whose_seeds_fail_is_not_trained_again(tmp_path, monkeypatch, capsys):
    done = []

    def do(self, unit):
        done.append(unit.label)
        finish(unit, 0.5, failure={"step": 2, "groups": [], "loss": None, "skipped": 1})

    monkeypatch.setattr(work.Work, "_do", do)
    for _ in range(2):
        assert run(tmp_path, "lru") == 0
        assert "not finite at step 2" in capsys.readouterr().out
    assert done == ["lru"]


def test_another_configuration_is_refused_and_nothing_changes(tmp_path, trained, capsys):
    run(tmp_path, "lru,gru", "--mixer.lru.d-state", "4")
    before = (tmp_path / results.FILE).read_bytes()
    more = ["--steps", "5", "--mixer.lru.d-state", "8", "--seeds", "4", "--prefetch", "3"]
    assert run(tmp_path, "lru,rnn", *more) == 2
    said = capsys.readouterr().err
    assert "train.steps: 3 there, 5 here" in said
    assert "lru: mixer.d_state: 4 there, 8 here" in said
    assert "seeds: [0, 1] there, [0, 1, 2, 3] here" in said
    assert "prefetch" not in said, "it changes no result"
    assert (tmp_path / results.FILE).read_bytes() == before
    assert len(trained) == 2


@pytest.mark.parametrize("flags", [["--mesh.data", "5"], ["--batch-size", "3"]])
def test_what_the_devices_cannot_do_is_refused_before_anything_is_written(tmp_path, flags):
    assert run(tmp_path / "new", "lru", *flags) == 2
    assert not (tmp_path / "new").exists()


def test_a_training_run_is_no_place_for_a_comparison(tmp_path, trained, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert run(tmp_path, "lru") == 2
    assert "holds a training run" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("models", "more", "says"),
    [
        ("lru,atention", [], "did you mean attention"),
        ("lru,lru", [], "twice"),
        ("gru+lru,gru_lru=lru", [], "twice"),
        ("lru", ["--optim.trained", "[1]"], "nothing would learn"),
        ("with=lru,gru", [], "'with' is a word of Python's"),
        ("lru,,gru", [], "is no model"),
        ("lru", ["--mixer.gru.d-state", "4"], "--mixer.gru.d-state"),
        ("attention", ["--mixer.attention.num-heads", "3"], "num_heads must divide"),
        ("lru", ["--seeds", "0"], "seeds must be at least 1"),
        ("lru", ["--data.num-pairs", "40"], "length"),
        ("lru", ["--axes", "pairs=2"], "did you mean"),
        ("lru", ["--trackers", "tensorbord"], "unknown tracker"),
        ("lru", ["--optim.name", "adamv"], "unknown optimiser"),
        ("lru,gru", ["--optim.gru.name", "adamv"], "unknown optimiser"),
        ("lru", ["--axes", "position", "num-pairs=9"], "length must be"),
        ("lru", ["--axes", "length"], "has no values"),
        ("lru", ["--axes", "length=14,18", "--backbone.positions", "learned"], "length"),
        ("lru", ["--replicas", "2"], "leave out --replicas"),
        ("lru", ["--init-from", "runs/x"], "trains every model from scratch"),
        (f"{'a' * 300}=lru", [], "255 bytes for a name"),
        ("lru", ["--seed", "1" + "0" * 300], "255 bytes for a name"),
    ],
)
def test_a_request_that_cannot_be_writes_nothing(tmp_path, trained, capsys, models, more, says):
    out = tmp_path / "out"
    assert run(out, models, *more) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not out.exists()
    assert trained == []


def test_labels_tell_the_options_of_one_model_apart(tmp_path, trained):
    more = ["--mixer.one.num-heads", "1", "--mixer.two.num-heads", "2"]
    more += ["--backbone.depth", "2"]
    assert run(tmp_path, "one=attention,two=attention,attention+lru", *more) == 0
    got = results.load(tmp_path / results.FILE)
    assert [m.config["mixer"].get("num_heads") for m in got.models] == [1, 2, None]
    assert got.models[2].config["model"] == "attention,lru"


def test_a_ratio_makes_rows_and_a_curve(tmp_path, trained):
    more = ["--ratio", "attention=0,1/2,1", "--backbone.depth", "2"]
    assert run(tmp_path, "attention+lru,gru", *more) == 0
    found = results.load(tmp_path / results.FILE)
    names = [f"attention+lru-{share}" for share in ("0of1", "1of2", "1of1")]
    assert [m.name for m in found.models] == [*names, "gru"]
    assert [m.config["model"] for m in found.models] == ["lru", "lru,attention", "attention", "gru"]
    (ratio,) = ratios_in(found)
    (line,) = ratio["lines"]
    assert (ratio["mixer"], line["name"]) == ("attention", "attention+lru")
    assert line["curve"]["x"] == [0, 0.5, 1]
    assert line["curve"]["mean"] == pytest.approx([0.1, 0.2, 0.3])
    assert "Share of attention layers" in (tmp_path / "report.html").read_text()


def test_recipes_differ_by_label_and_the_page_says_where(tmp_path, trained):
    more = ["--optim.lru.peak-lr", "0.02", "--backbone.gru.positions", "sinusoidal"]
    assert run(tmp_path, "lru,gru", *more, "--optim.peak-lr", "0.01") == 0
    found = results.load(tmp_path / results.FILE)
    assert [m.config["optim"]["peak_lr"] for m in found.models] == [0.02, 0.01]
    assert [m.config["backbone"]["positions"] for m in found.models] == ["none", "sinusoidal"]
    page = (tmp_path / "report.html").read_text()
    assert "<li>optim.peak_lr: lru 0.02, gru 0.01</li>" in page
    assert "<li>backbone.positions: lru none, gru sinusoidal</li>" in page
    assert "<li>optim.b1" not in page


def test_labels_and_patterns():
    assert dict(labelled("lru, a=gru,lru+gru")) == {"lru": "lru", "a": "gru", "lru+gru": "lru,gru"}


def test_large_models_train_seed_by_seed(tmp_path, trained):
    assert run(tmp_path / "a", "lru") == 0
    assert run(tmp_path / "b", "lru", "--vectorise", "never") == 0
    assert [seeds for _, seeds in trained] == [(0, 1), (0,), (1,)]
    assert [s.seed for s in results.load(tmp_path / "b" / results.FILE).models[0].seeds] == [0, 1]


def test_a_preset_brings_its_block_options_unless_a_flag_says_otherwise(tmp_path, trained):
    assert run(tmp_path, "lru,transformer", "--backbone.depth", "2") == 0
    lru, transformer = results.load(tmp_path / results.FILE).models
    assert (lru.config["backbone"]["norm"], transformer.config["backbone"]["norm"]) == (
        "rms",
        "layer",
    )
    assert lru.config["backbone"]["depth"] == transformer.config["backbone"]["depth"] == 2


def test_a_growing_state_is_counted_at_the_tasks_length():
    task = tasks.build("mqar")
    got = cost(Experiment(task=task, model="attention", mixer={"num_heads": 4}))
    kept = 2 * task.length * 64 + 1  # keys and values of 64 channels, and a count
    assert got["state_size"] == 2 * kept  # two layers
    assert got["state_growth"] == "linear"
    pattern = Experiment(task=task, model="attention,lru", mixer={"attention": {"num_heads": 4}})
    assert cost(pattern)["state_size"] < 2 * kept


def test_digest_sees_every_value():
    class Source(list):
        pass

    a = Source({"inputs": np.arange(4), "targets": np.int32(i)} for i in range(3))
    b = Source({k: v.copy() for k, v in row.items()} for row in a)
    assert digest_of(a) == digest_of(b)
    b[2]["inputs"][3] += 1
    assert digest_of(a) != digest_of(b)
    assert digest_of(a, 2) == digest_of(b, 2)


def test_results_are_strict_json(tmp_path, trained):
    run(tmp_path, "lru")
    text = (tmp_path / results.FILE).read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))


@pytest.mark.of_the_day("matched models", 3)
def test_matched_models_keep_their_sizes_and_their_target(tmp_path, trained, capsys):
    assert run(tmp_path, "lru,attention", "--match", "state") == 0
    first = results.load(tmp_path / results.FILE)
    lru, attention = first.models
    assert lru.state_bytes == pytest.approx(attention.state_bytes, rel=0.03)
    assert "as it is" in attention.matched
    assert f"lru: {lru.matched}" in capsys.readouterr().err
    assert lru.matched in (tmp_path / "report.html").read_text()
    # A larger model comes to what is there, and nothing else is made anew.
    more = ["--match", "state", "--mixer.mamba2.d-state", "64"]
    assert run(tmp_path, "lru,attention,mamba2", *more) == 0
    again = results.load(tmp_path / results.FILE)
    assert again.models[:2] == first.models
    assert again.models[2].state_bytes == pytest.approx(attention.state_bytes, rel=0.03)
    assert [model for model, _ in trained] == ["lru", "attention", "mamba2"]
    assert run(tmp_path, "lru,attention", "--match", "parameters") == 2
    assert "holds models matched in state" in capsys.readouterr().err


@pytest.fixture
def selecting(monkeypatch, trained):
    """The task of a protocol that tests each seed at its best validation result."""
    monkeypatch.setattr(tasks.TASKS["mqar"], "selection", "best")

    def do(self, unit):
        trained.append(unit.label)
        steps = [1 + i for i in range(unit.experiment.train.replicas)]
        finish(unit, 0.5, tested=steps)

    monkeypatch.setattr(work.Work, "_do", do)


def test_the_table_says_which_step_was_tested_also_after_an_interruption(
    tmp_path, selecting, capsys
):
    assert run(tmp_path, "lru", "--eval-every", "2") == 0
    assert "best validation accuracy" in " ".join(capsys.readouterr().out.split())
    assert run(tmp_path, "lru,gru", "--eval-every", "2") == 0
    got = results.load(tmp_path / results.FILE)
    assert [[seed.tested for seed in m.seeds] for m in got.models] == [[1, 2], [1, 2]]
    assert got.notes[0].endswith("its step of the best validation accuracy, of 2 evaluations.")
    page = (tmp_path / "report.html").read_text()
    assert "at the step of its best validation accuracy" in page
    assert "tested at 1  2" in page
    assert "last training step" not in page


def test_one_table_never_has_two_selections(tmp_path, trained, monkeypatch, capsys):
    assert run(tmp_path, "lru") == 0
    assert "at the last training step" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(tasks.TASKS["mqar"], "selection", "best")
    assert run(tmp_path, "lru,gru") == 2
    assert "model selection: 'last' there, 'best' here" in capsys.readouterr().err
    assert names(tmp_path) == ["lru"]
