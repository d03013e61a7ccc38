import dataclasses

import numpy as np
import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.config import Experiment
from seqzoo.train.cost import match, times
from seqzoo.train.cost.cost import cost, step_flops
from seqzoo.train.cost.knobs import turned, width
from seqzoo.train.cost.match import TOLERANCE, matched
from seqzoo.train.loop.program import make_program

pytestmark = pytest.mark.of_the_day(days=7)

TASK = tasks.build("mqar", length=16, num_pairs=4, vocab_size=18)


def experiments(*names, **changes):
    backbone = BackboneConfig(**{"depth": 1, "d_model": 16, **changes})
    return {name: Experiment(task=TASK, model=name, backbone=backbone) for name in names}


def sizes(found):
    return {label: m.size for label, m in found.items()}


def test_feedforwards_come_to_the_parameters_of_the_largest():
    models = experiments("lstm", "lru", "attention", d_model=64)
    before = [cost(e)["parameters"] for e in models.values()]
    found = matched(models, "parameters")
    after = [cost(m.experiment)["parameters"] for m in found.values()]
    assert min(before) < 0.9 * max(before)
    assert after == pytest.approx([max(before)] * 3, rel=TOLERANCE)
    assert {m.experiment.backbone.d_model for m in found.values()} == {64}
    assert list(sizes(found).values()) == after


def test_without_a_feedforward_the_width_of_the_model_is_turned():
    models = experiments("lstm", "lru", feedforward="none")
    found = matched(models, "parameters")
    assert found["lstm"].turned[0][0] == "d_model"
    assert abs(found["lstm"].difference) <= TOLERANCE


def test_states_are_matched_in_bytes_at_the_tasks_length():
    models = experiments("attention", "lru")
    half = dataclasses.replace(models["attention"].backbone, dtype="bfloat16")
    models["half"] = dataclasses.replace(models["attention"], backbone=half)
    bytes_ = {label: cost(e)["state_bytes"] for label, e in models.items()}
    assert bytes_["attention"] == 4 * (2 * 16 * 16 + 1)  # keys, values and a count
    assert bytes_["half"] == 4 + 2 * 2 * 16 * 16
    found = matched(models, "state")
    goal = max(bytes_.values())
    assert all(abs(m.difference) <= TOLERANCE for m in found.values()), found
    assert all(cost(m.experiment)["state_bytes"] / goal - 1 == m.difference for m in found.values())


def test_where_one_size_is_too_little_others_are_turned_too():
    own = {"block_size": 4, "memory": 4, "num_codes": 16}
    vq = experiments("transformer_vq", d_model=4)["transformer_vq"]
    (found,) = matched({"vq": dataclasses.replace(vq, mixer=own)}, "state", 250).values()
    assert abs(found.difference) <= TOLERANCE
    assert len(found.turned) == 3


@pytest.mark.parametrize("name", ["s4", "s4d", "s5", "hippo"])
def test_what_a_model_would_cost_needs_no_eigenvectors(name, monkeypatch):
    options = {"d_state": 64, **({"init": "legs"} if name == "s4d" else {})}
    experiment = dataclasses.replace(*experiments(name).values(), mixer=options)
    real = cost(experiment)
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: pytest.fail("decomposed"))
    assert cost(experiment) == real


def test_operations_are_matched_and_loops_count_as_often_as_they_run():
    models = experiments("gru", "lru")
    found = matched(models, "flops")
    after = [step_flops(make_program(m.experiment)) for m in found.values()]
    assert after[0] == pytest.approx(after[1], rel=TOLERANCE)
    one, three, five = (
        step_flops(make_program(turned(models["lru"], {"depth": n}))) for n in (1, 3, 5)
    )
    assert three - one == five - three > 0


def test_times_are_matched_by_few_compilations(monkeypatch):
    probes = []

    class Times:
        def __init__(self, reference):
            pass

        def __call__(self, experiment):
            probes.append(experiment.model)
            noise = 1 + 0.01 * (-1) ** len(probes)
            fixed = {"lru": 1.0, "lstm": 5.0}[experiment.model]
            return noise * (fixed + 0.4 * experiment.backbone.expansion)

    monkeypatch.setattr(match, "Times", Times)
    found = matched(experiments("lru", "lstm"), "time")
    assert abs(found["lru"].difference) <= TOLERANCE
    assert probes.count("lru") <= 4
    assert probes.count("lstm") == 1


def test_what_all_are_timed_against_is_compiled_once(monkeypatch):
    made = []

    class Timed:
        batch = None

        def __init__(self, experiment, batch=None):
            made.append(experiment.model)

        def step(self):
            return {"lru": 1.0, "lstm": 3.0}[made[-1]]

    monkeypatch.setattr(times, "_Timed", Timed)
    first, second = experiments("lru", "lstm").values()
    measure = times.Times(first)
    assert [measure(first), measure(dataclasses.replace(first)), measure(second)] == [1, 1, 1]
    assert made == ["lru", "lstm"]


def test_widths_go_in_the_steps_that_heads_allow():
    (model,) = experiments("local_attention", feedforward="none").values()
    wide = dataclasses.replace(model, mixer={"num_heads": 8})
    (knob,) = width(wide, lambda e: bool(cost(e)))
    assert knob.step == 16  # of eight heads each has an even width, for its positions
    # What lies between two steps gets the nearest, and the difference is said.
    goal = 0.9 * cost(knob.turned(48))["parameters"]
    found = matched({"a": wide}, "parameters", goal)["a"]
    assert found.turned == (("d_model", 48),)
    assert f"{found.difference:+.1%}" in found.words("parameters")


def test_what_comes_nowhere_near_is_refused():
    with pytest.raises(ValueError, match="lru comes nowhere near the 10 parameters"):
        matched(experiments("lru"), "parameters", 10)
    with pytest.raises(ValueError, match="fnet has no state"):
        matched(experiments("fnet", "lru", causal=False), "state")


def test_a_pattern_is_matched_by_the_options_of_its_mixers():
    models = experiments("attention", depth=2) | {
        "both": Experiment(
            task=TASK,
            model="attention,lru",
            mixer={"lru": {"d_state": 4}},
            backbone=BackboneConfig(d_model=16),
        )
    }
    found = matched(models, "state")["both"]
    assert abs(found.difference) <= TOLERANCE
    assert cost(turned(models["both"], dict(found.turned)))["state_bytes"] == found.size
