"""Objectives around tasks: what is hidden, what is asked, and what it costs to look away."""

import dataclasses
import json
import pickle

import jax
import numpy as np
import pytest

from seqzoo.models.spec import ModelSpec
from seqzoo.tasks import build, kind
from seqzoo.tasks.pretraining import wrap
from seqzoo.tasks.synthetic.mqar import MQAR
from seqzoo.tasks.task import Task

IDS = np.array([1] * 10 + [2] * 6 + [0] * 4, np.int32)
ROWS = np.random.default_rng(0).integers(0, 7, (2, 2, 20)).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given(Task):
    """Two rows with two segments and padding, as tokens, vectors or pairs."""

    name = "given"
    description = cite = "rows"

    form: str = "tokens"
    stateful_rows: bool = False

    @property
    def stateful(self):
        return self.stateful_rows

    @property
    def spec(self):
        inputs = {"features": 3} if self.form == "vectors" else {"vocab_size": 7}
        head = "two_tower" if self.form == "pairs" else "classify"
        return ModelSpec(head=head, outputs=2, length=20, **inputs)

    def _source(self, split, seed):
        one = {"targets": np.int32(0)}
        if self.form == "pairs":
            return [{"inputs": rows, "segment_ids": np.stack([IDS, IDS]), **one} for rows in ROWS]
        rows = ROWS[0] if self.form == "tokens" else np.stack([ROWS[0] + 0.5] * 3, -1)
        return [{"inputs": x, "segment_ids": IDS, **one} for x in rows]

    measure = baselines = decode = None


def made(objective, **options):
    wrapped = {k: options.pop(k) for k in list(options) if k in ("form", "stateful_rows")}
    return wrap(objective, Given)(of=Given(**wrapped), **options)


def test_next_token_moves_each_segment_and_predicts_all_of_it():
    row = made("next_token").source("train")[0]
    x = ROWS[0, 0]
    assert row["inputs"].tolist() == [7, *x[:9], 7, *x[10:15], 7, *x[16:19]]
    assert row["targets"].tolist() == [*x[:16], *[-100] * 4]
    assert row["segment_ids"].tolist() == IDS.tolist()
    spec = made("next_token").spec
    assert (spec.head, spec.vocab_size, spec.outputs, spec.causal) == ("lm", 8, 8, True)
    row = made("next_token", form="vectors").source("train")[0]
    assert row["inputs"][:, 0].tolist() == [
        0,
        *(x[:9] + 0.5),
        0,
        *(x[10:15] + 0.5),
        0,
        *(x[16:19] + 0.5),
    ]
    assert row["labelled"].tolist() == (IDS > 0).tolist()
    assert made("next_token", form="vectors").spec.head == "regress"


def test_masks_hide_replace_and_keep_as_in_bert():
    task = build("masked:mqar", of={"train_size": 50, "length": 64}, rate=0.25)
    source = task.source("train")
    assert len(source) == 500
    rows = [source[i] for i in range(500)]
    base = [task.of.source("train")[i % 50]["inputs"] for i in range(500)]
    inputs, targets = (np.stack([row[k] for row in rows]) for k in ("inputs", "targets"))
    chosen = targets != -100
    assert (chosen.sum(1) == 16).all()
    assert (targets[chosen] == np.stack(base)[chosen]).all()
    assert (inputs[~chosen] == np.stack(base)[~chosen]).all()
    hidden, kept = inputs[chosen] == 80, inputs[chosen] == targets[chosen]
    assert np.mean(hidden) == pytest.approx(0.8, abs=0.015)
    assert np.mean(kept) == pytest.approx(0.1 + 0.1 / 80, abs=0.012)
    assert not np.array_equal(targets[0], targets[50])  # another mask of the same example
    again = pickle.loads(pickle.dumps(source))[7]
    assert np.array_equal(again["inputs"], inputs[7])
    assert not np.array_equal(task.source("train", 1)[7]["targets"], targets[7])
    assert not task.spec.causal


@pytest.mark.parametrize("form", ["tokens", "vectors", "pairs"])
def test_padding_is_never_asked_for(form):
    task = made("masked", form=form, rate=0.3)
    source = task.source("test")
    assert len(source) == (4 if form == "pairs" else 2)
    for row in (source[i] for i in range(len(source))):
        labelled = row["labelled"] if form == "vectors" else row["targets"] != -100
        assert labelled[IDS == 0].sum() == 0
        assert labelled.sum() == round(0.3 * 16)
    if form == "pairs":
        shown = source[1]["targets"]
        assert np.array_equal(shown[shown >= 0], ROWS[0, 1][shown >= 0])


def test_bits_per_dimension_and_squared_errors():
    task = made("next_token")
    logits = np.zeros((2, 20, 8), np.float32)
    batch = {k: np.stack([task.source("test")[i][k] for i in (0, 1)]) for k in ("targets",)}
    found = jax.jit(task.measure)(logits, batch)
    total, weight = found["bits_per_dim"]
    assert (float(total / weight), float(weight)) == (pytest.approx(3), 32)
    task = made("next_token", form="vectors")
    row = task.source("test")[0]
    batch = {k: row[k][None] for k in ("targets", "labelled")} | {"weight": np.ones(1)}
    batch["targets"][0, IDS == 0] = np.nan
    total, weight = jax.jit(task.measure)(np.zeros((1, 20, 3)), batch)["mse"]
    assert float(total / weight) == pytest.approx(np.mean((ROWS[0, 0][:16] + 0.5) ** 2))
    assert (task.main_metric, made("masked").main_metric) == ("mse", "token_accuracy")


def test_contrastive_loss_equals_the_loop():
    task = made("cpc", patch=2, steps=2, dim=4)
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(2, 10, 3, 4)).astype(np.float32)
    batch = {"inputs": ROWS[0], "targets": np.zeros(2), "weight": np.array([1, 0], np.float32)}
    batch["segment_ids"] = np.stack([IDS, IDS])
    owner = [1] * 5 + [2] * 3 + [0] * 2
    nats, right, count = 0.0, 0, 0
    for k in (1, 2):
        for t in range(10 - k):
            if owner[t] == 0 or owner[t] != owner[t + k]:
                continue
            real = [j for j in range(10) if owner[j]]
            scores = {j: outputs[0, t, k] @ outputs[0, j, 0] / 2 for j in real}
            nats += np.log(sum(np.exp(s) for s in scores.values())) - scores[t + k]
            right += max(scores, key=scores.get) == t + k
            count += 1
    found = jax.jit(task.measure)(outputs, batch)
    assert float(found["loss"][1]) == count == 10
    assert float(found["loss"][0]) == pytest.approx(nats, rel=1e-5)
    assert float(found["accuracy"][0]) == right
    gradient = jax.jit(jax.grad(lambda o: task.measure(o, batch)["loss"][0]))(outputs)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() == 0
    assert task.baselines() == {"chance": 0.1}


def test_the_protocol_settles_what_is_hidden():
    shares = {"listops": 0.1, "text": 0.15, "image": 0.5, "pathfinder": 0.5}
    for name, share in shares.items():
        of = {"protocol": "pretrain-finetune"}
        assert build(f"masked:{name}", of=of).share == share
        assert build(f"masked:{name}", of=of, rate=0.3).share == 0.3
        assert build(f"masked:{name}", of={"protocol": "s4"}).share == 0.15
    task = build("masked:listops", of={"protocol": "pretrain-finetune", "test_size": 2})
    row = task.source("test")[0]
    real = row["segment_ids"].sum()
    assert (row["targets"] >= 0).sum() == round(0.1 * real)


def test_names_options_and_errors():
    task = build("masked:mqar", of={"length": 64}, rate=0.2)
    assert task.of == MQAR(length=64)
    assert task.name == "masked:mqar"
    assert build(task.name, **json.loads(json.dumps(dataclasses.asdict(task)))) == task
    assert kind("cpc:mqar") is kind("cpc:mqar")
    for name in ("next_token:mqar", "masked:mqar", "cpc:mqar"):
        task = build(name)
        example = task.source("test")[0]
        assert task.decode(example)
        assert all(0 < value < 7 for value in task.baselines().values())
    with pytest.raises(ValueError, match=r"unknown objective 'mask'; .*mean masked"):
        build("mask:mqar")
    with pytest.raises(ValueError, match=r"unknown task 'mqa'; .*mean mqar"):
        build("masked:mqa")
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\)"):
        build("masked:mqar", rate=1.0)
    with pytest.raises(ValueError, match="patch must be an integer, 1 to 12"):
        build("cpc:mqar", patch=13)
    with pytest.raises(ValueError, match="rows that continue each other"):
        made("masked", stateful_rows=True)
