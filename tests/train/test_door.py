"""Training from Python: ten lines that train, stop, go on, compare, and hand the model back."""

import dataclasses
import importlib.util
import json
import pathlib
from unittest import mock

import jax.numpy as jnp
import pytest
from flax import nnx

from seqzoo import tasks
from seqzoo.models import BackboneConfig, SequenceModel
from seqzoo.train import Experiment, OptimConfig, TrainConfig, compare, door, evaluate, load, run
from seqzoo.train.cost.cost import cost

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"
SMALL = {
    "task": tasks.build(
        "mqar",
        vocab_size=16,
        num_pairs=2,
        length=8,
        train_size=32,
        validation_size=8,
        test_size=9,
    ),
    "backbone": BackboneConfig(d_model=8, depth=1),
    "train": TrainConfig(steps=4, batch_size=8, eval_every=2),
}


class Sums(nnx.Module):
    def __init__(self, d_model: int, *, rate: float = 0.5, rngs: nnx.Rngs):
        self.proj, self.rate = nnx.Linear(d_model, d_model, rngs=rngs), rate

    def __call__(self, x):
        return jnp.cumsum(self.proj(x), axis=1) * self.rate


@pytest.mark.of_the_day("own module by the door", 3)
def test_a_run_of_ones_own_module_stops_when_asked_goes_on_and_hands_the_model_back(tmp_path):
    experiment = Experiment(model=Sums, mixer={"rate": 0.25}, **SMALL)
    told = []

    def once(step, validation):
        told.append((step, validation))
        return True

    stopped = run(experiment, tmp_path / "run", callback=once, progress=False)
    assert (stopped.step, stopped.complete) == (2, False)
    assert told == [(2, stopped.validation)]
    assert all(isinstance(value, int | float) for value in stopped.validation.values())
    result = run(experiment, tmp_path / "run", progress=False)
    assert (result.step, result.complete) == (4, True)
    assert [line["step"] for line in result.history] == [1, 2, 3, 4]
    assert "validation/accuracy" in result.history[-1]

    assert isinstance(result.model, SequenceModel)
    found = evaluate(tmp_path / "run")
    assert found == result.test()
    assert (found["examples"], found["step"]) == (9, 4)
    assert json.dumps(found)
    again = Experiment.from_dict(experiment.to_dict())
    assert again.to_dict() == experiment.to_dict()


def test_names_classes_and_tuples_are_models():
    assert Experiment(task="mqar", model="lru").task == tasks.build("mqar")
    own = Experiment(task=type(SMALL["task"]), model=(Sums, "lru"))
    assert own.model == f"{__file__}:Sums,lru"
    with pytest.raises(ValueError, match="a name or a class"):
        Experiment(task="mqar", model=(7,))
    with pytest.raises(ValueError, match="did you mean mqar"):
        Experiment(task="mqra")


def test_claims_are_tried_before_training_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    asked = []

    def sound(experiments, *, allow):
        asked.append((len(list(experiments)), allow))
        raise ValueError("broken")

    monkeypatch.setattr(door, "sound", sound)
    for more in ({}, {"allow_broken": True}):
        with pytest.raises(ValueError, match="broken"):
            run(Experiment(model="lru", **SMALL), tmp_path / "run", **more)
        with pytest.raises(ValueError, match="broken"):
            compare({"a": "lru", "b": "gru"}, tmp_path / "compared", **more, **SMALL)
    assert asked == [(1, False), (2, False), (1, True), (2, True)]
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_for_is_handed_on(tmp_path, monkeypatch):
    asked = {}

    def note(name, result=None):
        return lambda *args, **options: asked.update({name: (args, options)}) or result

    monkeypatch.setattr(door, "evaluate_run", note("evaluate"))
    monkeypatch.setattr(door, "load_run", note("load", (mock.MagicMock(), mock.MagicMock(), None)))
    monkeypatch.setattr(door.code, "accept", note("accept"))
    monkeypatch.setattr(door, "RunFolder", lambda folder: mock.Mock(config=lambda: str(folder)))
    monkeypatch.setattr(door.comparison, "compare", note("compare"))
    evaluate(tmp_path, split="validation", checkpoint="best", code_at="mine.py:EMA")
    along = {"axes": [], "chunk": 0}
    assert asked["evaluate"] == ((tmp_path,), {"split": "validation", "which": "best", **along})
    assert asked.pop("accept") == (("mine.py:EMA", str(tmp_path)), {})
    load(tmp_path, checkpoint="3")
    assert asked["load"] == ((tmp_path,), {"which": "3"})
    assert "accept" not in asked
    sweep = {"optim.peak_lr": (1e-3, 1e-2)}
    compare({"lru": "lru"}, tmp_path, seeds=2, sweep=sweep, progress=False, **SMALL)
    (experiments, out), options = asked["compare"]
    assert (set(experiments), out, options["seeds"]) == ({"lru"}, tmp_path, 2)
    assert options["sweep"].fields == sweep


@pytest.mark.slow
def test_own_modules_are_compared_and_each_can_be_loaded(tmp_path):
    found = compare({"own": Sums, "lru": "lru"}, tmp_path, seeds=2, progress=False, **SMALL)
    assert [(row["model"], row["seed"]) for row in found.rows()] == [
        ("own", 0),
        ("own", 1),
        ("lru", 0),
        ("lru", 1),
    ]
    assert set(found.model("own").claims) == {"causal", "padding", "behind"}
    assert isinstance(load(tmp_path / "runs" / "own"), SequenceModel)


@pytest.mark.of_the_day("matched by the door", 3)
def test_models_are_matched_and_made_hybrids_as_by_the_command(tmp_path, monkeypatch):
    asked = mock.Mock()
    monkeypatch.setattr(door.comparison, "compare", asked)
    models = {"gru": "gru", "attention+lru": ("attention", "lru")}
    terms = {"ratio": "attention=0", "match": "parameters", "axes": ["length=8,16"]}
    compare(models, tmp_path, progress=False, **terms, **SMALL)
    (experiments, _), given = asked.call_args
    labels = ["gru", "attention+lru-0of1"]
    assert list(experiments) == labels
    sizes = [cost(one)["parameters"] for one in experiments.values()]
    assert max(sizes) < 1.03 * min(sizes)
    assert given["matching"].experiments == experiments
    assert list(given["families"]) == labels[1:]
    assert [str(axis) for axis in given["axes"]] == ["length=8,16"]


def test_controls_are_added_as_by_the_command(tmp_path, monkeypatch):
    asked = mock.Mock()
    monkeypatch.setattr(door.comparison, "compare", asked)
    compare({"lru": "lru"}, tmp_path, progress=False, controls=True, **SMALL)
    (experiments, _), given = asked.call_args
    assert list(experiments) == ["lru", "window16", "free_conv"]
    assert experiments["window16"].model == "attention"
    assert dict(experiments["window16"].mixer) == {"window": 16}
    assert experiments["free_conv"].backbone == experiments["lru"].backbone
    assert [str(axis) for axis in given["axes"]] == ["shuffle=16"]


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"ratio": "gru=1/2"}, "no model is a pattern of gru"),
        ({"axes": ["length"]}, "has no values"),
        ({"match": "parametres"}, "parameters, flops, state, time"),
    ],
)
def test_terms_that_cannot_be_are_one_sentence_before_anything_is_written(tmp_path, terms, says):
    with pytest.raises(ValueError, match=says):
        compare({"lru": "lru"}, tmp_path / "c", progress=False, **terms, **SMALL)
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_an_outer_loop_needs_no_more_than_run():
    """What the examples do, with nothing installed: choices, a bound, the best."""
    losses = {}
    for rate in (1e-3, 1e-2):
        experiment = Experiment(model="lru", optim=OptimConfig(peak_lr=rate), **SMALL)
        result = run(experiment, callback=lambda _, found: found["loss"] > 99, progress=False)
        assert result.complete
        losses[rate] = result.validation["loss"]
    assert len(set(losses.values())) == 2


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_example_for_optuna():
    pytest.importorskip("optuna")
    module = example("optuna_search")
    study = module.search(dataclasses.replace(module.EXPERIMENT, **SMALL), trials=2)
    assert set(study.best_params) == {"peak_lr", "d_state"}
    assert len(study.trials[0].intermediate_values) == 2


@pytest.mark.slow
def test_the_example_for_ray():
    pytest.importorskip("ray.tune")
    module = example("ray_search")
    found = module.search(dataclasses.replace(module.EXPERIMENT, **SMALL), samples=1)
    assert set(found) == {"peak_lr"}
