import dataclasses
import json
import pickle

import numpy as np
import pytest

from seqzoo.tasks import TASKS, Task, build, names
from seqzoo.tasks.describe import check_example, describe
from tests.tasks import small

# Tasks with a size of their own choice; those of published files are tested with small files.
STORED = [n for n, kind in TASKS.items() if kind.needs != "nothing"]
SIZED = [n for n, kind in TASKS.items() if hasattr(kind, "train_size") and n not in STORED]


def slow_pictures(chosen):
    """The names, pictures of 128 x 128 that are drawn among the slow tests."""
    slow = {"path_x_generated": pytest.mark.slow}
    return [pytest.param(n, marks=slow.get(n, ())) for n in chosen]


def test_names_are_those_of_the_classes():
    assert names() == tuple(TASKS)
    for name, task in TASKS.items():
        assert task.name == name
        assert issubclass(task, Task)
        assert len(task.description) < 80


@pytest.mark.parametrize("name", SIZED)
def test_options_round_trip_through_json(name):
    task = build(name, test_size=7)
    options = json.loads(json.dumps(dataclasses.asdict(task)))
    # JSON has lists for tuples, which the configuration of a run turns back.
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    assert build(name, **options) == task
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.test_size = 8


@pytest.mark.parametrize("name", slow_pictures(SIZED))
def test_examples_fit_the_spec(name):
    task = build(name, train_size=3, validation_size=3, test_size=3)
    longest = 0
    for split in ("train", "validation", "test"):
        source = task.source(split)
        assert len(source) == 3
        rows = {example["inputs"].shape for example in source}
        assert len(rows) == 1, "rows of a split make a batch"
        ((length, *features),) = rows
        longest = max(longest, length)
        assert features == ([] if task.spec.features is None else [task.spec.features])
        for example in source:
            check_values(example, task.spec)
        for wrong in (-1, 3):
            with pytest.raises(IndexError):
                source[wrong]
    # MAD's rows lose a token that is only a label.
    assert longest in (task.spec.length, task.spec.length - 1)


def check_values(example, spec):
    if spec.vocab_size is not None:
        assert 0 <= example["inputs"].min() <= example["inputs"].max() < spec.vocab_size
    if example["targets"].dtype == np.int32:
        assert example["targets"].max() < spec.outputs
    else:
        assert np.isfinite(example["targets"]).all()


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", slow_pictures(SIZED))
def test_every_split_is_its_own_and_only_train_follows_the_seed(name):
    task = build(name, train_size=8, validation_size=8, test_size=8)

    def inputs(split, seed=0):
        return [task.source(split, seed)[i]["inputs"].tobytes() for i in range(8)]

    train = inputs("train")
    assert train == inputs("train")
    assert train != inputs("train", 1)
    assert len({*train, *inputs("validation"), *inputs("test")}) > 15
    for split in ("validation", "test"):
        assert inputs(split) == inputs(split, 1)


@pytest.mark.parametrize("name", [n for n in SIZED if "path" not in n])
def test_where_the_next_token_is_the_label_models_must_not_look_ahead(name):
    task = build(name, train_size=100)
    source = task.source("train")
    rows = [source[i] for i in range(100)]
    if task.spec.head != "lm" or rows[0]["inputs"].shape != rows[0]["targets"].shape:
        return
    inputs, targets = (np.stack([row[part] for row in rows]) for part in ("inputs", "targets"))
    common = np.bincount(targets[targets >= 0]).argmax()  # blanks before and after an answer
    counted = (targets >= 0) & (targets != common)
    told = counted[:, :-1] & (inputs[:, 1:] == targets[:, :-1])
    assert task.spec.causal == (told.sum() > 0.65 * counted.sum())


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", SIZED)
def test_examples_are_decoded_and_baselines_are_numbers(name):
    task = build(name, train_size=3, validation_size=3, test_size=3)
    assert task.decode(task.source("test")[0])
    baselines = task.baselines()
    assert baselines
    assert all(0 <= value <= 1 for value in baselines.values())
    source = pickle.loads(pickle.dumps(task.source("train")))
    assert np.array_equal(source[1]["inputs"], task.source("train")[1]["inputs"])


@pytest.mark.parametrize("name", SIZED)
def test_baselines_of_training_data_are_those_of_the_seed(name, monkeypatch):
    asked, source = [], Task.source

    def recorded(self, split, seed=0):
        asked.append((split, seed))
        return source(self, split, seed)

    monkeypatch.setattr(Task, "source", recorded)
    build(name, train_size=3, validation_size=3, test_size=3).baselines("train", 7)
    assert {seed for split, seed in asked if split == "train"} <= {7}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n == "path_x_generated" else []) for n in names()],
)
def test_every_task_is_described(name, tmp_path, monkeypatch):
    task = small.build(name, tmp_path, monkeypatch)
    for split in ("train", "validation", "test"):
        source = task.source(split)
        found = describe(task, source, 8)
        examples = [source[i] for i in range(found.looked)]
        for example in examples:
            check_example(task, example)
        assert found.lengths[0] == min(task.real_tokens(example) for example in examples)
        assert found.lengths[2] <= max(task.positions(example) for example in examples)
        targets = np.array([np.ravel(example["targets"])[0] for example in examples])
        classes = task.spec.head in ("classify", "two_tower") and targets.dtype != np.float32
        assert (found.classes is None) != classes
        if classes:
            assert found.classes == tuple(np.bincount(targets, minlength=task.spec.outputs))
            assert "classes, " in found.balance


def test_unknown_task_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"'listop'; did you mean listops\? \(valid: listops, "):
        build("listop")


def test_unknown_option_gets_the_nearest_name():
    with pytest.raises(ValueError, match=r"option of task mqar 'num_pair'.*mean num_pairs\?"):
        build("mqar", num_pair=3)


@pytest.mark.parametrize("size", [0, -5, 2.5, "100", True])
@pytest.mark.parametrize("name", SIZED)
def test_sizes_are_positive_integers(name, size):
    with pytest.raises(ValueError, match=f"task {name}: train_size must be an integer"):
        build(name, train_size=size)
