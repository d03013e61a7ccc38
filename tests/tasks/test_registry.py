import dataclasses
import json

import pytest

from seqzoo.tasks import TASKS, Task, build, names


def test_names_are_those_of_the_classes():
    assert names() == tuple(TASKS)
    for name, task in TASKS.items():
        assert task.name == name
        assert issubclass(task, Task)
        assert len(task.description) < 80


@pytest.mark.parametrize("name", TASKS)
def test_options_round_trip_through_json(name):
    task = build(name, test_size=7)
    options = json.loads(json.dumps(dataclasses.asdict(task)))
    assert build(name, **options) == task
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.test_size = 8


@pytest.mark.parametrize("name", TASKS)
def test_examples_fit_the_spec(name):
    task = build(name, train_size=3, validation_size=3, test_size=3)
    for split in ("train", "validation", "test"):
        source = task.source(split)
        assert len(source) == 3
        for example in source:
            assert example["inputs"].shape == (task.spec.length,)
            assert example["inputs"].max() < task.spec.vocab_size
            assert example["targets"].max() < task.spec.outputs
        for wrong in (-1, 3):
            with pytest.raises(IndexError):
                source[wrong]


def test_unknown_task_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"'listop'; valid: listops, .*did you mean 'listops'\?"):
        build("listop")


def test_unknown_option_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"option of task mqar: 'num_pair'.*mean 'num_pairs'\?"):
        build("mqar", num_pair=3)


@pytest.mark.parametrize("size", [0, -5, 2.5, "100", True])
@pytest.mark.parametrize("name", TASKS)
def test_sizes_are_positive_integers(name, size):
    with pytest.raises(ValueError, match=f"task {name}: train_size must be an integer"):
        build(name, train_size=size)
