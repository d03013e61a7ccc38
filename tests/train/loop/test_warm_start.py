"""Pretraining, then fine-tuning: what is taken, what is new, what is refused."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import tokenizers
from flax import nnx

from seqzoo.models import from_pretrained
from seqzoo.models.backbone import BackboneConfig
from seqzoo.models.pretrained.adapters import OWN
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks import build, kind
from seqzoo.tasks.synthetic.mqar import MQAR
from seqzoo.train.cli.command import dispatch
from seqzoo.train.compare.alike import check_models
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.door import load
from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.learned import fine_tuning, settled, tokenized
from seqzoo.train.loop.program import make_program
from seqzoo.train.loop.runner import run, run_program
from seqzoo.train.loop.state import seed_keys
from seqzoo.train.loop.warm_start import warm_start
from tests.helpers import assert_close
from tests.models.pretrained.published import folder

pytestmark = pytest.mark.of_the_day(days=7)

BACKBONE = BackboneConfig(d_model=8, depth=1, feedforward="none", scan=False)
TRAIN = TrainConfig(steps=1, batch_size=8)
MIXER = "encoder/backbone/stack/units/mixer"


def experiment(task, **train):
    return Experiment(
        task=task,
        model="indrnn",
        backbone=BACKBONE,
        train=dataclasses.replace(TRAIN, **train),
    )


def recall():
    return build("mqar", train_size=16, validation_size=4, test_size=4, length=32, num_pairs=2)


def wrapped(objective, **options):
    return build(f"{objective}:mqar", of=recall(), **options)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A run of one step of masked pretraining."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    run(experiment(wrapped("masked")), folder, devices=jax.devices()[:1])
    return folder


def learned(folder, program):
    checkpoints = Checkpoints(folder)
    state = checkpoints.restore(1, program.like)
    checkpoints.close()
    return state.params


def test_the_encoder_is_taken_and_the_head_is_new(before):
    program = make_program(experiment(recall()))
    state = program.init(seed_keys(3)[0])
    started, report = warm_start(program, state, before)
    masked = make_program(experiment(wrapped("masked")), devices=jax.devices()[:1])
    old = learned(before, masked)
    for path, value in started.params.items():
        if path.startswith("encoder/"):
            np.testing.assert_array_equal(value, np.asarray(old[path])[: len(value)])
            assert value.sharding == state.params[path].sharding
        else:
            np.testing.assert_array_equal(value, state.params[path])
    assert old["encoder/embed/embedding"].shape[0] == 81
    assert report.new == ("out_proj/bias", "out_proj/kernel")
    assert "encoder/embed/embedding" in report.taken
    assert "new: out_proj/bias, out_proj/kernel" in str(report)


def test_a_run_starts_from_another_and_resumes_as_itself(before, tmp_path, capsys):
    config = experiment(recall(), init_from=str(before), steps=2)
    program = make_program(config, devices=jax.devices()[:1])
    run_program(program, tmp_path / "run")
    assert "variables taken; new: out_proj/bias" in capsys.readouterr().err
    scratch = program._replace(experiment=experiment(recall(), steps=2))
    run_program(scratch, tmp_path / "scratch")
    path = "encoder/embed/embedding"
    checkpoints = [Checkpoints(tmp_path / name) for name in ("run", "scratch")]
    a, b = (c.restore(2, program.like).params[path] for c in checkpoints)
    assert not np.allclose(a, b)
    assert run_program(program, tmp_path / "run")["step"] == 2  # complete; nothing is read again


def test_a_head_of_the_same_kind_is_taken_too(before):
    program = make_program(experiment(wrapped("masked", rate=0.5)))
    _, report = warm_start(program, program.init(seed_keys(3)[0]), before)
    assert report.new == ()
    assert "out_proj/kernel" in report.taken


def test_another_encoder_is_refused_with_its_names(before):
    wide = dataclasses.replace(
        experiment(recall()), backbone=dataclasses.replace(BACKBONE, d_model=16)
    )
    deep = dataclasses.replace(experiment(recall()), model="min_gru")
    for other, words in (
        (wide, r"encoder/embed/embedding is \(81, 8\) there and \(80, 16\) here"),
        (deep, "mixer/decay is only there"),
    ):
        program = make_program(other)
        with pytest.raises(ValueError, match=words):
            warm_start(program, program.init(seed_keys(0)[0]), before)


def test_where_there_is_no_run_it_is_said(tmp_path):
    config = experiment(recall(), init_from=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="is no run"):
        run(config, tmp_path / "run", devices=jax.devices()[:1])


def test_a_comparison_does_not_start_from_a_run():
    with pytest.raises(ValueError, match="trains every model from scratch"):
        check_models({"a": experiment(recall(), init_from="runs/x")}, 1)


@pytest.mark.parametrize("objective", ["cpc", pytest.param("next_token", marks=pytest.mark.slow)])
def test_every_objective_trains_and_hands_on_its_encoder(objective, tmp_path):
    options = {"patch": 4, "steps": 2} if objective == "cpc" else {}
    result = run(
        experiment(wrapped(objective, **options)), tmp_path / "run", devices=jax.devices()[:1]
    )
    assert np.isfinite(result["train"]["loss"])
    program = make_program(experiment(recall()), devices=jax.devices()[:1])
    _, report = warm_start(program, program.init(seed_keys(0)[0]), tmp_path / "run")
    assert len(report.taken) >= 5


def test_a_model_that_sees_its_targets_is_refused():
    both_ways = dataclasses.replace(BACKBONE, causal=False)
    config = dataclasses.replace(experiment(wrapped("next_token")), backbone=both_ways)
    with pytest.raises(ValueError, match="sees what it should predict"):
        make_program(config)


@pytest.mark.of_the_day
@pytest.mark.parametrize(
    ("name", "vocab", "head"),
    [("mamba", 80, "lm"), ("llama", 37, "lm"), ("gpt2", 37, "lm"), ("bert_mlm", 37, "classify")],
)
def test_published_weights_are_taken_and_what_the_task_needs_is_new(name, vocab, head, monkeypatch):
    spec = ModelSpec(head=head, vocab_size=vocab, outputs=vocab, length=32)
    monkeypatch.setattr(MQAR, "spec", property(lambda self: spec))
    config = fine_tuning(folder(name), recall())
    program = make_program(config, devices=jax.devices()[:1])
    state = program.init(seed_keys(3)[0])
    started, report = warm_start(program, state, folder(name))
    model = from_pretrained(folder(name))
    old = {"/".join(map(str, p)): v for p, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    alike = vocab == model.encoder.embed.num_embeddings
    for path, value in started.params.items():
        if (alike and path not in report.new) or path.startswith("encoder/backbone/"):
            expected = np.asarray(old[path].get_value())
            rows = len(value) if path.endswith("position_embed") else None  # of the task's length
            np.testing.assert_array_equal(value, expected[:rows])
    assert (report.new == ()) == (alike and head == "lm")
    if head == "classify":
        assert report.new == ("out_proj/bias", "out_proj/kernel")
    assert ("encoder/embed/embedding" in report.taken) == alike
    assert "as published" in str(report)


@pytest.mark.of_the_day("adapters learn")
def test_an_adapter_alone_learns_and_starts_as_what_was_published(monkeypatch):
    spec = ModelSpec(head="lm", vocab_size=37, outputs=37, length=32)
    monkeypatch.setattr(MQAR, "spec", property(lambda self: spec))
    config = fine_tuning(folder("llama"), recall())
    train = dataclasses.replace(config.train, adapter="dora:rank=2", batch_size=8)
    config = settled(dataclasses.replace(config, train=train))
    program = make_program(config, devices=jax.devices()[:1])
    state, report = warm_start(program, program.init(seed_keys(3)[0]), folder("llama"))
    assert {*state.params} == {*report.new}
    assert all(OWN.fullmatch(path) for path in state.params)
    moments = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(moments) == sorted(2 * [value.shape for value in state.params.values()])
    kernel = np.asarray(state.rest[f"{MIXER}/q_proj/kernel"])
    magnitude = state.params[f"{MIXER}/q_proj/magnitude"]
    np.testing.assert_allclose(magnitude, np.linalg.norm(kernel, axis=-2), rtol=1e-6)
    tokens = np.arange(12).reshape(2, 6)
    started = program.plan.merge(state.params, state.rest)(tokens)
    np.testing.assert_allclose(started, from_pretrained(folder("llama"))(tokens), atol=2e-5)
    before = jax.tree.map(np.asarray, state.rest)
    batch = {"inputs": np.zeros((8, 32), np.int32), "targets": np.ones((8, 32), np.int32)}
    batch["weight"] = np.ones(8, np.float32)
    after, _ = program.step(state, batch, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, before, after.rest)
    assert np.abs(after.params[f"{MIXER}/q_proj/lora_b"]).min() > 0


def test_an_adapter_learns_what_is_new_or_says_that_it_does_not(monkeypatch):
    config = fine_tuning(folder("mamba"), recall())
    train = dataclasses.replace(config.train, adapter="lora:rank=2,whole=nothing")
    program = make_program(dataclasses.replace(config, train=train), devices=jax.devices()[:1])
    with pytest.raises(ValueError, match=r"the adapter holds .* encoder/embed/embedding; let it"):
        warm_start(program, program.init(seed_keys(3)[0]), folder("mamba"))
    train = dataclasses.replace(train, adapter="lora:rank=2")
    assert "whole=^encoder/embed" in settled(dataclasses.replace(config, train=train)).train.adapter
    with pytest.raises(ValueError, match="give --init FOLDER"):
        TrainConfig(adapter="lora")


@pytest.mark.of_the_day("published weights go on")
def test_a_run_of_published_weights_goes_on_and_knows_others(tmp_path, capsys):
    copy = tmp_path / "weights"
    shutil.copytree(folder("mamba"), copy)
    sizes = ["--data.length=32", "--data.num-pairs=2", "--data.train-size=16", "--batch-size=8"]
    sizes += ["--data.validation-size=4", "--data.test-size=4", "--threads=0"]
    argv = ["train", f"--init={copy}", "--task=mqar", *sizes, f"--out={tmp_path / 'run'}"]
    assert dispatch([*argv, "--steps=1"]) == 0
    assert "as published" in capsys.readouterr().err
    again = ["train", "--config", str(tmp_path / "run" / "run.toml"), argv[-1], "--steps=2"]
    assert dispatch([*again, "--change-steps"]) == 0
    assert "from step 1" in capsys.readouterr().err
    model = copy / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-4] + b"\0\0\0\0")
    assert dispatch([*argv, "--steps=3", "--change-steps"]) == 2
    assert "weights" in capsys.readouterr().err
    assert dispatch([*argv, "--model=lru"]) == 2
    assert "leave one of them out" in capsys.readouterr().err


@pytest.fixture
def weights(tmp_path):
    """A Llama with a tokenizer of fewer tokens than it has, and a text of these."""
    path, words = tmp_path / "llama", ["the", "sea", "at", "night", "is", "dark", "and", "cold"]
    shutil.copytree(folder("llama"), path)
    vocabulary = {"[UNK]": 0} | {word: i + 1 for i, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(path / "tokenizer.json"))
    (tmp_path / "text").write_text("the sea is cold at night\n" * 80)
    (tmp_path / "rows.csv").write_text("words,kind\n" + "the sea,0\nso cold,1\n" * 40)
    return path


@pytest.mark.of_the_day("the folder's tokenizer")
def test_texts_become_the_tokens_of_the_weights_and_the_run_is_written_back(weights, tmp_path):
    run = tmp_path / "run"
    argv = ["train", f"--init={weights}", "--task=bytes", f"--data.data={tmp_path / 'text'}"]
    argv += ["--data.length=8", "--batch-size=8", "--threads=0", "--steps=1"]
    assert dispatch([*argv, f"--out={run}", "--adapter=lora:rank=2"]) == 0
    task = RunFolder(run).experiment().task
    assert (task.spec.vocab_size, task.make_tokenizer().size) == (37, 9)
    assert task.make_tokenizer().bytes_of.tolist() == [5, 3, 3, 2, 5, 2, 4, 3, 4]
    for form in ("adapter", "published"):
        assert dispatch(["export", str(run), f"--form={form}", f"--out={tmp_path / form}"]) == 0
    tokens = np.arange(12).reshape(2, 6)
    expected = np.asarray(load(run)(tokens))
    assert np.abs(expected - from_pretrained(weights)(tokens)).max() > 1e-4
    for model in (
        from_pretrained(tmp_path / "published"),
        from_pretrained(weights, adapter=tmp_path / "adapter"),
    ):
        assert_close(model(tokens), expected, ratio=1e-5)
    assert (tmp_path / "published" / "tokenizer.json").exists()


def test_a_tokenizer_that_is_not_that_of_the_weights_is_refused(weights, tmp_path, capsys):
    rows = [f"--data.data={tmp_path / 'rows.csv'}", "--data.inputs=words", "--data.target=kind"]
    argv = ["train", f"--init={weights}", "--task=rows", *rows, f"--out={tmp_path / 'run'}"]
    assert dispatch([*argv, "--data.vocab=5"]) == 2
    assert "has 9 tokens and the model 5" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text((weights / "tokenizer.json").read_text().replace("night", "day"))
    assert dispatch([*argv, f"--data.tokens={other}", "--steps=1"]) == 2
    assert "the weights know other ones" in capsys.readouterr().err
    options = tokenized(weights, kind("rows")) | {"inputs": "words", "target": "kind"}
    config = fine_tuning(weights, build("rows", data=str(tmp_path / "rows.csv"), **options))
    assert (config.task.spec.vocab_size, config.task.spec.outputs) == (37, 2)
