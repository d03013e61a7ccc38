import numpy as np
import pytest

from seqzoo.tasks import TASKS, build
from tests.tasks.examples import one_hot, stack, value

MAD = [name for name in TASKS if name.startswith("mad_")]


def rows(batch):
    return zip(batch["inputs"].tolist(), batch["targets"].tolist(), strict=True)


@pytest.mark.parametrize("name", MAD)
def test_every_published_setting_makes_examples(name):
    settings = TASKS[name].settings()
    assert len(settings) == {"mad_noisy_recall": 14, "mad_selective_copying": 13}.get(
        name, 6 if name == "mad_memorisation" else 11
    )
    for options in settings:
        task = build(name, **options)
        example = task.source("test")[0]
        assert example["inputs"].max() < task.spec.vocab_size
    with pytest.raises(ValueError, match="vocab_size must be an integer"):
        build(name, vocab_size=3)


@pytest.mark.parametrize("name", ["mad_recall", "mad_noisy_recall"])
@pytest.mark.parametrize("multi_query", [True, False])
def test_recall_asks_for_values_of_keys_seen_before(name, multi_query):
    task = build(name, multi_query=multi_query, frac_noise=0.5 * (name == "mad_noisy_recall"))
    usable = 16 - (not multi_query)
    half = usable // 2
    for row, labels in rows(stack(task, "test", 100)):
        tokens = [*row, labels[-1]]  # the last value is no input
        asked = [-100, *labels]
        seen, place = {}, 0
        while place < len(tokens):
            if tokens[place] == task.vocab_size - 1 and not multi_query:
                assert place == len(tokens) - 3, "the copy token stands before the probe"
                place += 1
                continue
            key, answer = tokens[place : place + 2]
            last = place == len(tokens) - 2
            if key < half:
                assert half <= answer < usable
                assert seen.setdefault(key, answer) == answer
                wanted = (
                    answer if last or (multi_query and key in seen_before(tokens, place)) else -100
                )
                assert asked[place : place + 2] == [-100, wanted]
            else:
                assert not last
                assert usable <= min(key, answer) + (not multi_query)
                assert asked[place : place + 2] == [-100, -100]
            place += 2
        assert tokens[-2] in seen_before(tokens, len(tokens) - 2)


def seen_before(tokens, place):
    return set(tokens[:place:2])


def test_training_labels_every_next_token():
    for name in ("mad_recall", "mad_noisy_recall", "mad_fuzzy_recall"):
        batch = stack(build(name), "train", 20)
        assert np.array_equal(batch["targets"][:, :-1], batch["inputs"][:, 1:])


def test_noise_has_its_share():
    task = build("mad_noisy_recall", frac_noise=0.4)
    inputs = stack(task, "test", 400)["inputs"][:, :126]
    # One of 63 pairs is never noise.
    assert (inputs >= 16).mean() == pytest.approx(0.4 * 62 / 63, abs=0.01)


def test_one_pair_is_never_noise():
    for row, labels in rows(
        stack(build("mad_noisy_recall", length=8, frac_noise=0.99), "test", 200)
    ):
        assert any(t < 8 for t in row[:6:2])
        assert labels[-1] == row[row.index(row[6]) + 1]


@pytest.mark.parametrize("split", ["train", "test"])
def test_fuzzy_rows_are_pairs_of_motifs(split):
    task = build("mad_fuzzy_recall")
    for row, labels in rows(stack(task, split, 100)):
        tokens = [t for t in (*row, labels[-1]) if t != 15]
        asked = [-100, *labels][-len(tokens) :]
        seen, runs = {}, motifs(tokens)
        for keys, answer, place in runs:
            assert split == "train" or len(keys) == 3
            assert len(set(keys)) == len(keys) <= 3
            assert len(set(answer)) == len(answer) <= 3
            if split == "test":
                wanted = list(answer) if keys in seen else [-100] * len(answer)
                assert asked[place : place + len(keys)] == [-100] * len(keys)
                assert asked[place + len(keys) : place + len(keys) + len(answer)] == wanted
            assert seen.setdefault(keys, answer) == answer
        assert runs[-1][0] in [keys for keys, *_ in runs[:-1]], "the probe was shown before"


def motifs(tokens):
    """(key, value, place) of each pair; keys are below 7, values from 7 on."""
    place, out = 0, []
    while place < len(tokens):
        middle = next(i for i in range(place, len(tokens)) if tokens[i] >= 7)
        end = next((i for i in range(middle, len(tokens)) if tokens[i] < 7), len(tokens))
        out.append((tuple(tokens[place:middle]), tuple(tokens[middle:end]), place))
        place = end
    return out


def test_selective_copying_repeats_what_is_no_blank():
    for row, labels in rows(stack(build("mad_selective_copying"), "train", 50)):
        assert row[239] == 15
        assert row[238] < 14, "the last token stands before the copy token"
        assert [t for t in row[:239] if t < 14] == labels[240:]
        assert row[240:] == [14] * 16
        assert labels[:240] == [-100] * 240


def test_compression_asks_for_its_row():
    batch = stack(build("mad_compression"), "train", 50)
    assert np.array_equal(batch["inputs"], batch["targets"])
    assert (batch["inputs"][:, -1] == 15).all()
    assert batch["inputs"][:, :-1].max() == 14


def test_the_dictionary_is_the_same_everywhere():
    seen = {}
    for split in ("train", "test"):
        for row, labels in rows(stack(build("mad_memorisation"), split, 200)):
            assert row[1::2] == [255] * 16
            for key, answer in zip(row[::2], labels[1::2], strict=True):
                assert seen.setdefault(key, answer) == answer
    assert sorted(seen) == list(range(127))
    assert len(set(seen.values())) == 127
    assert min(seen.values()) >= 127


def test_accuracy_is_a_mean_over_classes():
    task = build("mad_compression", length=8)
    batch = {"targets": np.array([[1, 1, 1, 2, -100, -100, -100, -100]] * 2), "weight": [1.0, 0.0]}
    batch["weight"] = np.array(batch["weight"], np.float32)
    logits = one_hot(np.full((2, 8), 1), 16)
    assert value(task, logits, batch, "accuracy") == 0.5
    assert value(task, logits, batch, "token_accuracy") == 0.75


@pytest.mark.parametrize("name", ["mad_recall", "mad_selective_copying", "mad_memorisation"])
def test_one_answer_is_right_for_one_class(name):
    task = build(name)
    batch = stack(task, "test", 300)
    best = 230 if name == "mad_memorisation" else 11
    logits = one_hot(np.full(batch["targets"].shape, best), task.vocab_size)
    assert value(task, logits, batch, "accuracy") == pytest.approx(task.baselines()["chance"])
