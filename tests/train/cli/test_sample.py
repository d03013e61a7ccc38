import jax
import pytest

from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks import build
from seqzoo.train.cli.command import dispatch
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.loop.runner import run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has learned a text by heart, with Transformer-VQ's two caches."""
    folder = tmp_path_factory.mktemp("sampling")
    (folder / "text").write_bytes(b"abcdefgh" * 500)
    experiment = Experiment(
        task=build("bytes", data=str(folder / "text"), length=32),
        model="transformer_vq",
        mixer={"num_heads": 2, "num_codes": 16, "block_size": 4, "memory": 4},
        backbone=BackboneConfig(d_model=16, depth=1),
        optim=OptimConfig(peak_lr=2e-2),
        train=TrainConfig(steps=80, batch_size=8, eval_every=0, save_every=0, threads=0),
    )
    run(experiment, folder / "run", devices=jax.devices()[:1])
    return folder / "run"


def test_a_text_learned_by_heart_is_continued(trained, capsys):
    more = ["--prompt", "cdefg", "--length", "40", "--temperature", "0"]
    assert dispatch(["sample", str(trained), *more]) == 0
    assert capsys.readouterr().out == "cdefg" + ("habcdefg" * 5) + "\n"


def test_each_continuation_and_seed_draws_anew(trained, capsys):
    said = []
    for seed in "001":
        more = ["--temperature", "3", "--length", "12", "--count", "2", "--seed", seed]
        assert dispatch(["sample", str(trained), "--prompt", "a", *more]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    one, two = said[0].split("-- 1\n")
    assert one.removeprefix("-- 0\n") != two


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--prompt", ""], "empty prompt"),
        (["--top-p", "2"], r"top_p is in (0, 1]"),
        (["--count", "0"], "at least 1"),
        (["--length", "x"], "--length must be an integer"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(trained, capsys, more, says):
    assert dispatch(["sample", str(trained), *more]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_folder_is_needed(capsys, tmp_path):
    assert dispatch(["sample", "--length", "3"]) == 2
    assert "seqzoo sample RUN" in capsys.readouterr().err
