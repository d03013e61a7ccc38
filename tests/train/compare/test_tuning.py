"""Sweeps: what is tried, for whom, and what is chosen; with a model that compiles in a second."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare import comparison as module
from seqzoo.train.compare import results, tables, tuning, units, work
from seqzoo.train.compare.charts import chart_data
from seqzoo.train.compare.comparison import compare
from seqzoo.train.compare.page import render, write_report
from seqzoo.train.compare.results import Trial
from seqzoo.train.compare.sweep import Range, Sweep, trials_of
from seqzoo.train.compare.trials import edge_warning, tuned
from seqzoo.train.compare.tuning import affordable, choose, operations_of
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.loop.program import make_program
from seqzoo.train.out.tables import csv_text
from tests.helpers import assert_close
from tests.train.compare import browser
from tests.train.compare.test_comparison import finish, run
from tests.train.compare.test_work import models
from tests.train.loop.test_replicas import make_model
from tests.train.loop.test_runner import StopAfter
from tests.train.tiny import Tiny

RATES = (1e-3, 1e-2, 0.1)
PEAK, DECAY = "optim.peak_lr", "optim.weight_decay"


def test_a_grid_has_every_combination_in_its_order():
    sweep = Sweep(fields={PEAK: (1e-3, 1e-2), DECAY: [0.0, 0.1]})
    want = [(1e-3, 0.0), (1e-3, 0.1), (1e-2, 0.0), (1e-2, 0.1)]
    assert [tuple(trial.values()) for trial in sweep.all()] == want
    cut = dataclasses.replace(sweep, budget="trials=3").all()
    assert len(cut) == 3
    assert cut == dataclasses.replace(sweep, budget="trials=3").all()
    assert cut != sweep.all()[:3], "a cut grid is no corner of it"
    assert dataclasses.replace(sweep, budget="trials=4").all() == sweep.all()
    assert sorted(map(str, dataclasses.replace(sweep, budget="seconds=1").all())) == sorted(
        map(str, sweep.all())
    )


def test_values_are_plain():
    with pytest.raises(ValueError, match="over numbers, texts and switches"):
        Sweep(fields={"mixer.sizes": ((1, 2), (3,))})
    with pytest.raises(ValueError, match="needs a field"):
        Sweep(fields={})


def test_draws_follow_their_seed_and_are_uniform_in_the_logarithm():
    sweep = Sweep(fields={PEAK: Range(1e-4, 1.0), DECAY: (0.0, 0.1)}, trials="random:400")
    drawn = sweep.all()
    assert drawn == sweep.all() != dataclasses.replace(sweep, trials="random:400:1").all()
    logs = np.log10([trial[PEAK] for trial in drawn])
    assert -4 <= logs.min() < -3.9
    assert -0.1 < logs.max() <= 0
    assert abs(np.mean(logs) + 2) < 0.2
    assert {trial[DECAY] for trial in drawn} == {0.0, 0.1}
    whole = Sweep(fields={"backbone.depth": Range(1, 4)}, trials="random:50").all()
    assert {trial["backbone.depth"] for trial in whole} <= {1, 2, 3, 4}
    assert len(whole) <= 4, "none is tried twice"


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--sweep", "optim.peak-rl=1,2"], "did you mean optim.peak_lr?"),
        (["--sweep", "optm.peak-lr=1,2"], "did you mean optim.peak_lr?"),
        (["--sweep", "mixer.d-stat=1,2"], "unknown field in a sweep of lru 'mixer.d_stat'"),
        (["--sweep", "mixer.d-state=8,16"], "gru has no mixer.d_state, which lru has: sweep"),
        (["--sweep", "mixer.lru.d-stat=8,16"], "did you mean mixer.lru.d_state?"),
        (["--sweep", "mixer.lr.d-state=8,16"], "did you mean mixer.lru.d_state?"),
        (["--sweep", "mixer.gru.d-state=8,16"], "did you mean mixer.lru.d_state?"),
        (["--sweep", "optim.gro.peak-lr=1,2"], "did you mean optim.gru.peak_lr?"),
        (["--sweep", "optim.gru.peak-rl=1,2"], "did you mean optim.gru.peak_lr?"),
        (["--sweep", "optim.gru.peak-lr=fast"], "optim.gru.peak_lr must be a number; got 'fast'"),
        (["--sweep", "train.gru.steps=10,20"], "steps is the same for all models and trials"),
        (["--sweep", "optim.peak-lr=fast,slow"], "optim.peak_lr must be a number; got 'fast'"),
        (["--sweep", "backbone.depth=1,1.5"], "must be an integer"),
        (["--sweep", "optim.schedule=cosine,cosin"], "did you mean cosine?"),
        (["--sweep", "optim.peak-lr=1e-3,-1"], "peak_lr must be positive"),
        (["--sweep", "optim.peak-lr="], "needs values"),
        (["--sweep", "optim.peak-lr"], "no FIELD=A,B,C"),
        (["--sweep", "optim.peak-lr=1e-3,1e-3"], "0.001 twice"),
        (["--sweep", "optim.peak-lr=1,2", "--sweep", "optim.peak-lr=3"], "optim.peak_lr twice"),
        (["--sweep", "optim.peak-lr=1e-2..1e-3"], "a positive number to a larger one"),
        (["--sweep", "optim.weight-decay=0..0.1"], "a positive number to a larger one"),
        (["--sweep", "optim.peak-lr=1e-3..1e-2"], "has no grid"),
        (["--sweep", "steps=10,20"], "steps is the same for all models and trials"),
        (["--sweep", "train.seed=1,2"], "seed is the same for all models"),
        (["--sweep", "data.length=16,32"], "all models learn the same task"),
        (["--sweep", "mesh.data=1,2"], "it changes no result"),
        (["--sweep", "optim.peak-lr=1,2", "--trials", "all"], "grid, random:N or random:N:SEED"),
        (["--sweep", "optim.peak-lr=1,2", "--trials", "random:0"], "grid, random:N"),
        (["--sweep", "optim.peak-lr=1,2", "--budget", "hours=1"], "unknown budget 'hours'"),
        (["--sweep", "optim.peak-lr=1,2", "--budget", "trials=1.5"], "a whole number"),
        (["--sweep", "optim.peak-lr=1,2", "--budget", "flops=-1"], "a positive number"),
        (["--sweep", "optim.peak-lr=1,2", "--budget", "flops=10"], "pays for no trial of lru"),
        (["--sweep", "optim.peak-lr=1,2", "--tuning-seeds", "0"], "--tuning-seeds must be 1 to"),
        (["--sweep", "backbone.d-model=8,9", "--match", "parameters"], "what was matched"),
        (["--budget", "trials=3"], "--budget: of which trials?"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_anything_is_written(tmp_path, capsys, flags, says):
    assert run(tmp_path / "new", "lru,gru", *flags) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_best_mean_is_chosen_and_no_trial_for_its_survivors():
    trials = [
        Trial(values={}, scores=(0.9, 0.1), losses=(1.0, 1.0)),
        Trial(values={}, scores=(0.6, 0.6), losses=(2.0, 0.5)),
        Trial(values={}, scores=(1.0, None), losses=(0.1, None), failure="seed 7: not finite"),
        Trial(values={}, scores=(0.6, 0.6), losses=(1.0, 1.0)),
        Trial(values={}, scores=(0.6, 0.6), losses=(1.0, 1.0)),
    ]
    assert choose(trials, higher_is_better=True) == 3
    assert choose(trials, higher_is_better=False) == 0
    assert choose(trials[2:3], higher_is_better=True) is None


def train(unit, calls):
    """What a unit whose training takes no time leaves behind: it is best at a rate of 0.1."""
    experiment = unit.experiment
    several = [experiment.alone(place).optim.peak_lr for place in range(len(experiment.seeds))]
    calls.append((unit.label, unit.trials, experiment.seeds, tuple(several)))
    finish(unit, 0.5)
    if unit.trials:
        (unit.path / units.TEST).unlink()
        path = unit.path / "result.json"
        result = json.loads(path.read_text())
        scores = [0.9 - abs(np.log10(rate) + 1) / 10 for rate in several]
        found = {"validation/accuracy": scores, "validation/loss": [1.0] * len(scores)}
        if len(scores) == 1:
            found = {name: value[0] for name, value in found.items()}
        path.write_text(json.dumps({**result, "validation": found}))


@pytest.fixture
def trained(monkeypatch):
    """Units whose training takes no time: (label, trials, seeds, rates) of each."""
    calls = []
    monkeypatch.setattr(work.Work, "_do", lambda self, unit: train(unit, calls))
    return calls


@pytest.fixture
def room(monkeypatch):
    """The same, of which two runs fit into a program, and a deep one never does."""
    calls = []

    def _train(self, unit, program, data, folder):
        train(unit, calls)  # the last thing that is done may be what has no memory
        if unit.experiment.train.replicas > 2 or unit.experiment.backbone.depth > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(work.Work, "_train", _train)
    for name in ("_program", "_data_of"):
        monkeypatch.setattr(work.Work, name, lambda *_: None)
    return calls


SWEEP = ["--sweep", "optim.peak-lr=1e-3,1e-2,0.1", "--tuning-seeds", "2"]


@pytest.mark.of_the_day("the same trials", 2)
def test_every_model_has_the_same_trials_and_fresh_seeds_after_them(tmp_path, trained, capsys):
    assert run(tmp_path, "lru,gru", *SWEEP) == 0
    rates = tuple(rate for rate in RATES for _ in range(2))
    final = (0.1, 0.1)
    want = [((0, 1, 2), (2, 3) * 3, rates), ((), (0, 1), final)]
    assert sorted(trained) == sorted((label, *row) for label in ("lru", "gru") for row in want)
    found = results.load(tmp_path / results.FILE)
    for model in found.models:
        assert [trial.values for trial in model.trials] == [{PEAK: rate} for rate in RATES]
        assert model.chosen == 2
        assert model.config["optim"]["peak_lr"] == 0.1
        assert [seed.seed for seed in model.seeds] == [0, 1]
        assert model.tuning_seconds == 2.0
    printed = " ".join(capsys.readouterr().out.split())
    assert "tuned: lru: optim.peak_lr 0.1 (highest tried), of 3 trials" in printed
    assert "At the edge of what was tried" in printed
    assert not list((tmp_path / units.TRIALS).rglob(units.TEST)), "the test split is not read"
    # What came of the trials may be looked at again, and is no other thing.
    path = tmp_path / units.TRIALS / "lru" / tuning.TUNED
    model_file = tmp_path / results.RUNS / "lru" / results.MODEL
    kept = path.read_text(), model_file.read_text()
    for file in (model_file, tmp_path / results.FILE):
        file.unlink()
    path.write_text(kept[0].replace('"chosen": 2', '"chosen": 9'))
    assert run(tmp_path, "lru,gru", *SWEEP) == 2
    assert "has no such trials: the file is damaged, remove it" in capsys.readouterr().err
    path.unlink()
    assert run(tmp_path, "lru,gru", *SWEEP) == 0
    assert (path.read_text(), model_file.read_text()) == kept
    # The same command trains nothing again, another sweep is another comparison.
    del trained[:]
    assert run(tmp_path, "lru,gru", *SWEEP) == 0
    assert trained == []
    assert run(tmp_path, "lru,rnn", *SWEEP[:1], "optim.peak-lr=1e-3,1e-2") == 2
    assert "sweep.fields.optim.peak_lr: [0.001, 0.01, 0.1] there" in capsys.readouterr().err
    assert run(tmp_path, "lru") == 2
    assert trained == []


@pytest.mark.of_the_day("a field of one model")
def test_a_field_of_one_model_is_tried_for_it_alone(tmp_path, trained):
    flags = ["--sweep", "mixer.wide.d-state=4,8", "optim.wide.peak-lr=1e-3,0.1"]
    assert run(tmp_path, "wide=lru,gru", *flags) == 0
    found = results.load(tmp_path / results.FILE)
    wide, gru = found.models
    want = [{"mixer.d_state": n, PEAK: rate} for n in (4, 8) for rate in (1e-3, 0.1)]
    assert [trial.values for trial in wide.trials] == want
    assert wide.tuned_values == {"mixer.d_state": 4, PEAK: 0.1}
    assert (wide.config["mixer"]["d_state"], wide.config["optim"]["peak_lr"]) == (4, 0.1)
    assert (gru.trials, gru.chosen) == ((), None)
    counts = "as many trials as a model has values for, wide 4, gru none (grid), mixer.wide.d_state"
    assert counts in found.notes[1]
    assert counts in (tmp_path / "report.html").read_text()
    head, *rows = csv_text([found]).splitlines()
    assert head.split(",")[-4:-2] == ["mixer.d_state", PEAK]
    assert [row.split(",")[-4:-2] for row in rows[::2]] == [["4", "0.1"], ["", ""]]
    del trained[:]
    assert run(tmp_path, "wide=lru,gru", *flags) == 0
    assert trained == []


def test_what_is_drawn_for_all_is_drawn_whatever_one_has_beside_it():
    sweep = Sweep(fields={PEAK: Range(1e-4, 1.0)}, trials="random:8")
    more = dataclasses.replace(sweep, fields={**sweep.fields, "mixer.a.d_state": Range(4, 64)})
    both = models(Tiny(), "a", "b")
    assert trials_of(more, "b", both) == trials_of(sweep, "b", both) == sweep.all()
    own = trials_of(more, "a", both)
    assert [{PEAK: trial[PEAK]} for trial in own] == sweep.all()
    assert len({trial["mixer.d_state"] for trial in own}) > 4
    # A pattern's mixers have names in their fields, which all models have.
    pattern = {k: dataclasses.replace(m, model="lru,gru") for k, m in both.items()}
    names = {"mixer.lru.d_state": (4, 8), "mixer.a.gru.d_hidden": (4,)}
    assert [len(trials_of(Sweep(fields=names), label, pattern)) for label in "ab"] == [2, 2]
    assert trials_of(Sweep(fields=names), "a", pattern)[1] == {
        "mixer.lru.d_state": 8,
        "mixer.gru.d_hidden": 4,
    }


@pytest.mark.of_the_day("trials laid out", 3)
def test_trials_are_laid_out_as_they_were_and_as_large_models_need(tmp_path, trained):
    flags = [*SWEEP, "--vectorise", "never"]
    assert run(tmp_path / "a", "lru", *flags) == 0
    assert [call[1:3] for call in trained] == [
        *(((trial,), (seed,)) for trial in range(3) for seed in (2, 3)),
        *(((), (seed,)) for seed in (0, 1)),
    ]
    assert units.laid_out_in_groups(tmp_path / "a", "lru", 3) == 0
    del trained[:]
    assert run(tmp_path / "b", "mlp=lru", *SWEEP[:2], "--sweep", "backbone.depth=1,2") == 0
    assert [call[1] for call in trained] == [*((i,) for i in range(6)), ()]
    assert units.laid_out_in_groups(tmp_path / "b", "mlp", 3) == 1
    (model,) = results.load(tmp_path / "b" / results.FILE).models
    assert [trial.values["backbone.depth"] for trial in model.trials] == [1, 2] * 3
    assert model.trials[model.chosen].values == {PEAK: 0.1, "backbone.depth": 1}
    assert model.config["backbone"]["depth"] == 1


@pytest.mark.of_the_day("the same budget", 3)
def test_a_budget_is_the_same_for_every_model(tmp_path, trained):
    task = tasks.build("mqar", length=16, num_pairs=4, vocab_size=18)
    small = BackboneConfig(d_model=8, depth=1)
    train = TrainConfig(steps=3, batch_size=8)
    one = Experiment(task=task, model="gru", backbone=small, train=train)
    large = dataclasses.replace(one, backbone=dataclasses.replace(small, depth=2))
    own, more = operations_of(one), operations_of(large)
    assert own < more < 2 * own + 1e9
    sweep = Sweep(fields={PEAK: RATES}, budget=f"flops={2.5 * own:g}")
    assert len(affordable(sweep, "gru", one, sweep.all())) == 2
    assert len(affordable(sweep, "gru", large, sweep.all())) == int(2.5 * own // more)
    # Each unit has taken two seconds, and the first one begins in any case.
    assert run(tmp_path / "a", "lru,gru", *SWEEP, "--budget", "seconds=3") == 0
    for model in results.load(tmp_path / "a" / results.FILE).models:
        assert len(model.trials) == 2
    assert run(tmp_path / "b", "lru", *SWEEP, "--budget", "seconds=0.1") == 0
    assert len(results.load(tmp_path / "b" / results.FILE).models[0].trials) == 1


@pytest.fixture
def tiny(monkeypatch):
    """Programs of the tiny model; each is made once."""
    made = {}

    def program(experiment):
        key = experiment.to_dict() | {"task": type(experiment.task).__name__}
        key["train"] = {**key["train"], "seed": 0}
        key = json.dumps(key)
        if key not in made:
            made[key] = make_program(experiment, make_model=make_model)
        return made[key].given(experiment)

    for user in (module, work):
        monkeypatch.setattr(user, "make_program", program)


def test_seeds_train_in_the_program_of_their_trials(tmp_path, monkeypatch, tiny):
    made, make = [], work.make_program
    monkeypatch.setattr(work, "make_program", lambda e: made.append(e.train.replicas) or make(e))
    sweep = Sweep(fields={PEAK: (1e-4, 3e-2)}, seeds=1)
    found = compare(
        models(Tiny(), "a"), tmp_path / "tuned", seeds=2, sweep=sweep, vectorise="always"
    )
    (tuned_model,) = found.models
    assert made == [2, 1]  # both trials, then both seeds, and one alone to be timed
    (experiment,) = models(Tiny(), "a").values()
    optim = dataclasses.replace(experiment.optim, peak_lr=tuned_model.tuned_values[PEAK])
    plain = {"a": dataclasses.replace(experiment, optim=optim)}
    (model,) = compare(plain, tmp_path / "plain", seeds=2, vectorise="always").models
    for one, two in zip(tuned_model.seeds, model.seeds, strict=True):
        assert_close(one.final["loss"], two.final["loss"])


@pytest.mark.of_the_day("tuning side by side")
def test_trials_side_by_side_and_one_after_another_find_the_same(tmp_path, tiny):
    sweep = Sweep(fields={PEAK: (1e-4, 3e-2)}, seeds=2)
    one, two = (
        compare(models(Tiny(), "a"), tmp_path / how, seeds=2, sweep=sweep, vectorise=how)
        for how in ("always", "never")
    )
    (a,), (b,) = one.models, two.models
    assert (a.chosen, b.chosen) == (1, 1)
    for x, y in zip(a.trials, b.trials, strict=True):
        assert_close(np.array(x.scores), np.array(y.scores))
        assert_close(np.array(x.losses), np.array(y.losses))
    for x, y in zip(a.seeds, b.seeds, strict=True):
        assert_close(x.final["loss"], y.final["loss"])


@pytest.mark.of_the_day("tuning stopped")
def test_tuning_that_is_stopped_goes_on_to_the_same_results(tmp_path, tiny, monkeypatch):
    sweep, wanted = Sweep(fields={PEAK: (1e-3, 3e-2)}), models(Tiny(), "a", save_every=3)
    options = {"seeds": 2, "sweep": sweep, "vectorise": "always"}
    compare(wanted, tmp_path / "whole", **options)
    for _ in range(20):
        with monkeypatch.context() as patch:
            patch.setattr(module, "StopRequest", lambda *_: StopAfter(5))
            found = compare(wanted, tmp_path / "parts", **options)
        if not found.missing:
            break
    files = [(tmp_path / name / results.FILE).read_bytes() for name in ("parts", "whole")]
    assert files[0] == files[1]


@pytest.mark.of_the_day("a failed trial")
def test_a_failed_trial_is_a_trial_and_a_model_of_failed_ones_a_failed_row(tmp_path, tiny, capsys):
    sweep = Sweep(fields={PEAK: (1e-2, 1e38)})
    wanted = models(Tiny(), "a", "b", max_skipped=0.0)
    never = dataclasses.replace(wanted["b"].optim, eps=1e-8)
    (a, _) = compare(wanted, tmp_path / "one", seeds=2, sweep=sweep).models
    assert a.chosen == 0
    assert a.trials[1].failure.startswith("seed 5: not finite at step")
    assert a.trials[1].scores == [None]
    hopeless = Sweep(fields={PEAK: (1e37, 1e38)})
    wanted = {"a": dataclasses.replace(wanted["a"], optim=never)}
    found = compare(wanted, tmp_path / "two", seeds=2, sweep=hopeless)
    (model,) = found.models
    assert model.chosen is None
    assert tables.failures(found) == [f"a, seed {s}: each of its 2 trials failed" for s in (3, 4)]
    assert tables.rows(found)[1][0][1].text == "2 of 2 failed"
    assert "each of 2 trials failed" in render([found])


def test_a_group_that_does_not_fit_is_halved_and_then_every_seed_is_alone(tmp_path, room, capsys):
    flags = [*SWEEP, "--seeds", "3", "--vectorise", "always"]
    assert run(tmp_path, "lru", *flags) == 0
    low, middle, high = ((rate, rate) for rate in RATES)
    assert [call[1:] for call in room] == [
        ((0, 1, 2), (3, 4) * 3, (*low, *middle, *high)),
        ((0, 1), (3, 4) * 2, (*low, *middle)),
        ((0,), (3, 4), low),
        ((1,), (3, 4), middle),
        ((2,), (3, 4), high),
        ((), (0, 1, 2), (*high, 0.1)),
        *(((), (seed,), (0.1,)) for seed in range(3)),
    ]
    assert capsys.readouterr().err.splitlines() == [
        f"lru{what}: the devices have too little memory for {runs} runs in one program; smaller "
        "programs take its place"
        for what, runs in ((" trials 1 to 3", 6), (" trials 1 to 2", 4), ("", 3))
    ]
    (model,) = results.load(tmp_path / results.FILE).models
    assert [trial.values for trial in model.trials] == [{PEAK: rate} for rate in RATES]
    assert model.chosen == 2
    assert [seed.final["accuracy"] for seed in model.seeds] == [0.5] * 3
    # What was divided stays so, for whoever comes next.
    del room[:]
    trials, final = (tmp_path / name / "lru" for name in (units.TRIALS, results.RUNS))
    assert units.laid_out_in_groups(tmp_path, "lru", 1) == 3
    for file in (trials / tuning.TUNED, final / results.MODEL, final / "seed1/result.json"):
        file.unlink()
    (tmp_path / results.FILE).unlink()
    assert run(tmp_path, "lru", *flags) == 0
    assert [call[2] for call in room] == [(1,)]
    assert results.load(tmp_path / results.FILE).models == (model,)


def test_a_trial_that_does_not_fit_is_a_failed_trial(tmp_path, room, monkeypatch, capsys):
    flags = ["--sweep", "backbone.depth=1,2", "--tuning-seeds", "2"]
    assert run(tmp_path / "a", "lru", *flags) == 0
    assert [(call[1], len(call[2])) for call in room] == [
        *(((0,), 2), ((1,), 2), ((1,), 1), ((1,), 1), ((), 2))
    ]
    (model,) = results.load(tmp_path / "a" / results.FILE).models
    assert model.chosen == 0
    assert model.trials[1].failure == "; ".join(
        f"seed {seed}: the devices have too little memory" for seed in (2, 3)
    )
    # A final run that is alone has to be, and another error is none of memory.
    assert run(tmp_path / "b", "lru", "--backbone.depth", "2") == 2
    assert "there is not enough memory for this" in capsys.readouterr().err
    monkeypatch.setattr(work, "NO_MEMORY", "another")
    assert run(tmp_path / "c", "lru", *flags) == 2


def test_what_another_process_has_divided_is_nobodys(tmp_path, monkeypatch):
    """Whether that was before this one looks, or between its look and its lock."""
    own = models(Tiny(), "a")["a"]
    plan = units.Plan(label="a", experiment=own, out=tmp_path, seeds=(3, 4), together=True)
    (unit,) = plan.final_units({})
    real = work.RunFolder.owned

    @contextlib.contextmanager
    def owned(folder, *, wait=True):
        with real(folder, wait=wait):
            folder.adopt(unit.experiment)
            unit.divide()
            yield

    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(work.RunFolder, "owned", owned)
        idle = work.Work({}, {}, {}, None, {}, None, None)
        assert idle._claimed([unit], stack) is None
        assert (unit.path / units.DIVIDED).exists()
        assert idle._claimed([unit], stack) is None
    assert not work.RunFolder(unit.path).exists()
    assert [one.path.name for one in plan.final_units({})] == ["seed3", "seed4"]


def swept(name, *scores, chosen):
    trials = tuple(
        Trial(values={PEAK: rate, DECAY: 0.1}, scores=(score,), losses=(1.0,))
        for rate, score in zip(RATES, scores, strict=True)
    )
    run = results.SeedResult(seed=0, final={"accuracy": 0.5})
    return results.ModelResult(name=name, seeds=(run,), steps=3, trials=trials, chosen=chosen)


def test_the_page_shows_all_trials_and_who_stands_at_an_edge():
    found = results.Comparison(
        title="mqar",
        main_metric="accuracy",
        models=(swept("gru", 0.1, 0.7, 0.2, chosen=1), swept("<b>", 0.1, 0.2, 0.345, chosen=2)),
    )
    assert tuned(found)[0] == "gru: optim.peak_lr 0.01, optim.weight_decay 0.1, of 3 trials"
    assert edge_warning(found).startswith(
        "At the edge of what was tried, so that more may be better: <b> (optim.peak_lr, the highest"
    )
    page = render([found])
    for shown in ("34.5%", "&lt;b&gt; (optim.peak_lr, the highest tried)", 'data-plot="tuning"'):
        assert shown in page
    assert edge_warning(found) in tables.caption(found)
    first, second = chart_data(found, "s0")["models"]
    assert [point["chosen"] for point in first["tuning"][PEAK]] == [False, True, False]
    assert [point["mean"] for point in second["tuning"][PEAK]] == [0.1, 0.2, 0.345]
    head, first, _ = csv_text([found]).splitlines()
    assert (head.split(",")[-3:], first.split(",")[-3:]) == (
        [PEAK, DECAY, "accuracy"],
        ["0.01", "0.1", "0.5"],
    )
    plain = dataclasses.replace(found.models[0], trials=(), chosen=None)
    alone = dataclasses.replace(found, models=(plain,))
    assert 'data-plot="tuning"' not in render([alone])
    assert edge_warning(alone) == ""


@pytest.mark.of_the_day("browser draws", 2)
def test_the_browser_draws_validation_against_what_was_swept(tmp_path):
    if not (browser.CHROMIUM and browser.DRIVER):
        pytest.skip(browser.MISSING)
    found = results.Comparison(
        title="mqar",
        main_metric="accuracy",
        models=(swept("gru", 0.1, 0.7, 0.2, chosen=1), swept("<b>", 0.1, None, 0.345, chosen=2)),
    )
    results.save(found, tmp_path)
    with browser.Browser() as window:
        window.open(write_report(tmp_path).as_uri())
        drawn = window.run(
            "return [...document.querySelectorAll('[data-plot=tuning] > div')].map(b => "
            "[b.querySelectorAll('circle').length, b.querySelectorAll('[data-tuning]').length])"
        )
        # One plot, as the other field has one value; a trial without a score is no dot.
        assert drawn == [[5, 2]]
        assert window.log("browser") == []


@pytest.mark.of_the_day("tuning by the command")
def test_the_command_tunes(tmp_path, capsys):
    flags = ["--sweep", "optim.peak-lr=1e-3,1e-2", "--sweep", "optim.weight-decay=0,0.1"]
    assert run(tmp_path, "gru", *flags) == 0
    (model,) = results.load(tmp_path / results.FILE).models
    assert len(model.trials) == 4
    assert model.chosen is not None
    assert "chosen" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert dispatch(["show", str(tmp_path / units.TRIALS / "gru" / "000-003")]) == 0
    assert "\nseed 2, peak_lr 0.01, weight_decay 0.1\n" in capsys.readouterr().out
    assert tuning.TUNED in {path.name for path in (tmp_path / units.TRIALS / "gru").iterdir()}
