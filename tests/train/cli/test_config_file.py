"""A file of flags beside flags, and the one that a run's folder has, which makes the run again."""

import dataclasses

import pytest

from seqzoo.models import BackboneConfig
from seqzoo.tasks import build
from seqzoo.train.cli.experiment import experiment_fields, experiment_of
from seqzoo.train.cli.flags import parse, read
from seqzoo.train.config import Experiment, MeshConfig, OptimConfig, TrainConfig
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.published import PUBLISHED, published
from seqzoo.train.toml import as_toml, flags_in


def made(argv, task="mqar", model="attention"):
    fields = experiment_fields(task, model)
    fields += [("task", str, dataclasses.field(default=task))]
    fields += [("model", str, dataclasses.field(default=model))]
    kind = dataclasses.make_dataclass("Flags", fields, kw_only=True)
    return experiment_of(parse(kind, read(argv), "test"), model)


CASES = {
    "plain": Experiment(task="mqar", model="attention"),
    "changed": Experiment(
        task=build("mqar", length=32),
        model="griffin",
        optim=OptimConfig(name="lion", peak_lr=3e-4, schedule="wsd"),
        train=TrainConfig(steps=7, keep_best=False, save_seconds=1.5),
        backbone=BackboneConfig(head_bias=True),
        mesh=MeshConfig(fsdp=1, tensor=2),
    ),
    "pattern": Experiment(
        task="listops_short", model="lru,attention", mixer={"lru": {"d_state": 6}, "attention": {}}
    ),
    "published": published(next(iter(PUBLISHED))).experiment(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_file_of_a_run_makes_it_again(tmp_path, name):
    experiment = CASES[name]
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with folder.owned():
        folder.adopt(experiment)
    file = tmp_path / "run" / "run.toml"
    again = made(["--config", str(file)], experiment.task.name, experiment.model).to_dict()
    # Options of a mixer may be written or left to their defaults.
    default = made([], experiment.task.name, experiment.model).to_dict()["mixer"]
    expected = experiment.to_dict()
    for key in set(expected) - {"mixer"}:
        assert again[key] == expected[key], key
    for mixer, own in expected["mixer"].items():
        part = again["mixer"][mixer]
        assert part == (default[mixer] | own if isinstance(own, dict) else own)


def test_flags_win_and_switches_are_switched(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(
        'steps = 7\nkeep_best = false\nseed = 5\n[optim]\n"peak-lr" = 0.5\n[data]\nlength = 70\n'
    )
    found = made(["--seed", "3", "--config", str(file), "--keep-best"])
    assert (found.train.steps, found.train.seed, found.train.keep_best) == (7, 3, True)
    assert (found.optim.peak_lr, found.task.length) == (0.5, 70)
    assert made(["--config", str(file)]).train.keep_best is False
    more = tmp_path / "more.toml"
    more.write_text("\ufeffsteps = 9\n")  # as some editors begin a file
    assert made(["--config", str(file), "--config", str(more)]).train.steps == 9


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps = ", "is no TOML file"),
        ("stepz = 3", "--stepz; did you mean --steps"),
        ("steps = 'ten'", "--steps must be an integer; got 'ten'"),
        ("when = 2020-01-01", "when = 2020-01-01 is no text"),
        ("[optim]\npeak_lr = [[1]]", "a list of words or numbers"),
    ],
)
def test_a_fault_of_a_file_is_one_sentence(tmp_path, text, words):
    (tmp_path / "my.toml").write_text(text)
    with pytest.raises(ValueError, match=r".") as caught:
        made(["--config", str(tmp_path / "my.toml")])
    assert words in str(caught.value).replace("'--stepz'", "--stepz")
    with pytest.raises(ValueError, match="there is no file"):
        made(["--config", str(tmp_path / "gone.toml")])


def test_addresses_lead_to_where_the_files_lay():
    names = ("EMA", "First", "rule")
    config = {
        **CASES["plain"].to_dict(),
        "task": {"name": "mine.py:First"},
        "model": "mine.py:EMA,lru",
        "mixer": {"mine.py:EMA": {"rate": 0.5}},
        "optim": {"name": "mine.py:rule"},
        "code": {f"mine.py:{name}": {"file": "/home/me/mine.py", "sha256": "0"} for name in names},
    }
    text = as_toml(config)
    assert 'task = "/home/me/mine.py:First"' in text
    assert 'model = "/home/me/mine.py:EMA,lru"' in text
    assert "[mixer.EMA]\nrate = 0.5" in text
    assert '[optim]\nname = "/home/me/mine.py:rule"' in text


def test_any_text_is_read_as_it_was(tmp_path):
    place = 'a "b" \\c\t\u00fc'
    config = CASES["plain"].to_dict()
    config |= {"task": {"name": "rows", "data": place}, "mixer": {"my ema": {"rate": 0.5}}}
    (tmp_path / "run.toml").write_text(as_toml(config), encoding="utf-8")
    flags = dict(flags_in(tmp_path / "run.toml"))
    assert flags["--data.data"] == (place,)
    assert flags["--mixer.my ema.rate"] == ("0.5",)
