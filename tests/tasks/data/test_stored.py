import dataclasses
import json

import pytest

from seqzoo.tasks import TASKS, build
from seqzoo.tasks.data.stored import StoredTask
from seqzoo.tasks.protocols import PROTOCOLS, ProtocolTask

STORED = [n for n, kind in TASKS.items() if issubclass(kind, StoredTask)]
LRA = [n for n, kind in TASKS.items() if issubclass(kind, ProtocolTask)]


@pytest.mark.parametrize("name", STORED)
def test_options_round_trip_through_json(name):
    task = build(name, test_size=7)
    assert build(name, **json.loads(json.dumps(dataclasses.asdict(task)))) == task
    assert task.spec.length > 0  # known before there are any data
    with pytest.raises(ValueError, match=f"task {name}: train_size must be an integer"):
        build(name, train_size=0)


@pytest.mark.parametrize("name", [n for n in STORED if "digits" not in n])
def test_without_data_every_task_says_what_to_fetch(name):
    with pytest.raises(FileNotFoundError, match=rf"task {name}: .*\d+ [MG]B.*--data\.data FOLDER"):
        build(name).prepare("test")


@pytest.mark.parametrize("name", LRA)
def test_every_protocol_settles_what_the_task_says(name):
    for protocol, settings in PROTOCOLS.items():
        task = build(name, protocol=protocol)
        assert set(getattr(settings, task.family)) == set(task.settled)
        assert task.spec.pooling in ("mean", "first")
        given = {field: task.setting(field) for field in task.settled}
        assert build(name, protocol=protocol, **given).spec == task.spec
        assert task.notes
        assert task.selection == ("last" if protocol == "google2020" else "best")


def test_published_sizes():
    sizes = {
        "text": (25_000, 25_000, 25_000),
        "retrieval": (147_086, 18_090, 17_437),
        "image": (45_000, 5_000, 10_000),
        "scifar": (45_000, 5_000, 10_000),
        "smnist": (54_000, 6_000, 10_000),
        "pathfinder": (160_000, 20_000, 20_000),
        "speech_commands": (84_843, 9_981, 11_005),
        "sdigits": (1_257, 180, 360),
    }
    for name, expected in sizes.items():
        task = build(name)
        assert (task.train_size, task.validation_size, task.test_size) == expected
        for part, counts in task.balance.items():
            assert sum(counts) == task.expected(part)[0]
