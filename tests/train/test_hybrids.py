import pytest

from seqzoo import tasks
from seqzoo.models.backbone import BackboneConfig
from seqzoo.train.config import Experiment
from seqzoo.train.cost.cost import cost
from seqzoo.train.hybrids import hybrids


def family(depth=8, model="attention,lru", **mixer):
    task = tasks.build("mqar", length=16, num_pairs=4, vocab_size=18)
    backbone = BackboneConfig(d_model=8, depth=depth)
    return Experiment(task=task, model=model, mixer=mixer, backbone=backbone)


@pytest.mark.of_the_day("hybrid layers", 3)
def test_layers_of_a_share_stand_as_far_apart_as_they_can():
    models = {"attention+lru": family(lru={"d_state": 4}, num_heads=2), "gru": family(model="gru")}
    assert hybrids(models, "") == (models, {})
    every, found = hybrids(models, "attention=0,1/8,3/8,1/2,1")
    assert list(every) == [
        *(f"attention+lru-{name}" for name in ("0of1", "1of8", "3of8", "1of2", "1of1")),
        "gru",
    ]
    assert every.pop("gru") is models["gru"]
    assert every == {label: one.experiment for label, one in found.items()}
    patterns = [one.experiment.model.split(",") for one in found.values()]
    assert [p.count("attention") for p in patterns] == [0, 1, 3, 1, 1]
    assert [len(p) for p in patterns] == [1, 8, 8, 2, 1]
    places = [i for i, name in enumerate(patterns[2]) if name == "attention"]
    assert places == [2, 5, 7]
    # Options go where they belong, and all can be built.
    none, eighth, *_, every = (one.experiment for one in found.values())
    assert none.mixer["d_state"] == eighth.mixer["lru"]["d_state"] == 4
    assert every.mixer["num_heads"] == eighth.mixer["attention"]["num_heads"] == 2
    states = [cost(one.experiment)["state_size"] for one in found.values()]
    assert states == sorted(states)
    assert states[1] - states[0] == pytest.approx((states[4] - states[0]) / 8)


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        ("attention=1/3", "give a --backbone.depth that 3 divides"),
        ("attention=2", "'2' is no share"),
        ("attention=", "'' is no share"),
        ("attention=1/0", "is no share"),
        ("gru=1/2", "no model is a pattern of gru and one other mixer"),
    ],
)
def test_what_is_no_share_is_one_sentence(ratio, says):
    with pytest.raises(ValueError, match=says):
        hybrids({"attention+lru": family()}, ratio)
