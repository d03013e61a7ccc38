import json
import runpy
import shutil

import jax
import numpy as np
import pytest
import tokenizers

from seqzoo.models.backbone import BackboneConfig
from seqzoo.tasks import build
from seqzoo.train.cli.command import dispatch
from seqzoo.train.config import Experiment, OptimConfig, TrainConfig
from seqzoo.train.loop.runner import run
from tests.models.pretrained import published

pytestmark = pytest.mark.of_the_day(days=5)


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


@pytest.mark.of_the_day("by heart")
def test_a_text_learned_by_heart_is_continued(trained, capsys):
    more = ["--prompt", "cdefg", "--length", "40", "--temperature", "0"]
    assert dispatch(["generate", str(trained), *more]) == 0
    out, err = capsys.readouterr()
    assert out == "cdefg" + ("habcdefg" * 5) + "\n"
    assert "tokens a second" in err
    assert "first token after" in err


@pytest.mark.of_the_day("prompts of a file")
def test_prompts_of_a_file_stop_each_at_its_own_place(trained, capsys, tmp_path):
    (tmp_path / "prompts").write_text("cdefg\n\nab\n")
    more = ["--file", str(tmp_path / "prompts"), "--lines", "--stop", "gha", "efx", "fghab"]
    more += ["--length", "30", "--temperature", "0"]
    assert dispatch(["sample", str(trained), *more]) == 0  # by its former name
    assert capsys.readouterr().out == "-- 0\ncdefghabcdef\n-- 1\nabcdef\n"


def test_each_continuation_and_seed_draws_anew(trained, capsys):
    said = []
    for seed in "001":
        more = ["--temperature", "3", "--length", "12", "--count", "2", "--seed", seed]
        assert dispatch(["generate", str(trained), "--prompt", "a", *more]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]
    one, two = said[0].split("-- 1\n")
    assert one.removeprefix("-- 0\n") != two


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--prompt", ""], "empty prompt"),
        (["--file", "nowhere"], "nowhere"),
        (["--chat"], "chat templates are programs"),
        (["--top-p", "2"], r"top_p is in (0, 1]"),
        (["--count", "0"], "at least 1"),
        (["--length", "x"], "--length must be an integer"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(trained, capsys, more, says):
    assert dispatch(["generate", str(trained), *more]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1


def test_a_folder_is_needed(capsys, tmp_path):
    assert dispatch(["generate", "--length", "3"]) == 2
    assert "seqzoo generate RUN" in capsys.readouterr().err


def test_a_run_is_exported_with_what_it_learned(trained, tmp_path, capsys):
    how = ["--out", str(tmp_path / "new"), "--length", "4", "--platforms", "cpu"]
    assert dispatch(["export", str(trained), *how]) == 0
    assert "run it by load.py" in capsys.readouterr().out
    model = runpy.run_path(str(tmp_path / "new" / "load.py"))["Model"]()
    tokens = np.frombuffer(b"defg", np.uint8).astype(np.int32)[None]
    logits, state = model.prefill(model.start(tokens[:, 0]), tokens, np.ones_like(tokens))
    assert logits[0, -1].argmax() == ord("h")
    logits, _ = model.step(state, np.full(1, ord("h"), np.int32))
    assert logits[0].argmax() == ord("a")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A published model with a tokenizer of its 37 tokens, the letters and their marks."""
    made = tmp_path_factory.mktemp("published") / "llama"
    shutil.copytree(published.folder("llama"), made)
    words = {c: i for i, c in enumerate("_</ abcdefghijklmnopqrstuvwxyz0123456")}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="_"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    tokenizer.save(str(made / "tokenizer.json"))
    return made


def test_published_weights_continue_as_they_are(folder, capsys):
    from seqzoo.models import from_pretrained, sample

    more = ["--prompt", "some text", "and", "--length", "9", "--temperature", "0"]
    assert dispatch(["generate", str(folder), *more]) == 0
    parts = capsys.readouterr().out
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    model, expected = from_pretrained(folder), ""
    for i, text in enumerate(("some text", "and")):
        prompt = jax.numpy.array([[words[c] for c in text]])
        tokens = sample(model, prompt, 9, jax.random.key(0), temperature=0)[0].tolist()
        tokens = tokens[: tokens.index(2) if 2 in tokens else None]  # </s> of its config
        expected += f"-- {i}\n{text}" + "".join(list(words)[t] for t in tokens) + "\n"
    assert parts == expected


def test_a_folder_without_tokenizer_says_so(capsys):
    assert dispatch(["generate", str(published.folder("llama"))]) == 2
    assert "has no tokenizer.json" in capsys.readouterr().err
