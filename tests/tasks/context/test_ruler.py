import collections
import re

import jax
import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.context import ruler
from seqzoo.tasks.context.haystack import NOISE
from seqzoo.tasks.context.ruler import KINDS
from tests.tasks.examples import one_hot, stack, texts

NEEDLE = r"One of the special magic (\w+) for (\S+) is: (\S+)\."
VALUE = {
    "number": r"[1-9]\d{6}",
    "uuid": r"[\da-f]{8}-[\da-f]{4}-4[\da-f]{3}-[89ab][\da-f]{3}-.{12}",
}


def needle(kind, **options):
    return build("ruler_niah", kind=kind, length=1500, **options)


def solved(text):
    """The answer, from the text alone: what is asked, and the needles that say it."""
    asked = re.search(r"special magic \w+ for (.+) mentioned in the provided text\?", text)[1]
    told = collections.defaultdict(list)
    for _, key, found in re.findall(NEEDLE, text):
        told[key].append(found)
    keys = re.split(r", and |, ", asked)
    return " " + ", ".join(found for key in keys for found in told[key]) + "."


@pytest.mark.parametrize("kind", KINDS)
def test_the_needles_of_a_kind_say_the_answer(kind):
    task, about = needle(kind), KINDS[kind]
    for text, answer in texts(stack(task, "test", 25)):
        assert answer == solved(text)
        strings = answer.strip(" .").split(", ")
        assert len(strings) == about.num_values * about.num_queries
        assert all(re.fullmatch(VALUE[about.values[:-1]], found) for found in strings)
        needles = re.findall(NEEDLE, text)
        assert {what for what, _, _ in needles} == {about.values}
        if about.haystack != "needles":
            assert len(needles) == about.num_keys * about.num_values
        one = len(strings) == 1
        assert text.startswith("A special magic" if one else "Some special magic")
        assert text.endswith("mentioned in the provided text " + ("is" if one else "are"))
        assert "mentioned in the provided text?" in text


def test_rows_are_as_long_as_whole_sentences_allow():
    task = needle("single_1", test_lengths=(600, 1500))
    batch = stack(task, "test", 20)
    assert batch["inputs"].shape[1] == task.spec.length == 1499
    for i, (text, answer) in enumerate(texts(batch)):
        length = (600, 1500)[i % 10 // 5]
        assert length - len(NOISE) <= len(text) + len(answer) <= length
        assert text.split("\n")[1:-1].count(NOISE.decode()) == text.count("The grass is green")


def test_one_needle_stands_at_its_depth_and_several_within_a_window_of_it():
    for text, depth in zip(
        (text for text, _ in texts(stack(needle("single_1"), "test", 20))),
        (0, 25, 50, 75, 100) * 4,
        strict=True,
    ):
        lines = text.split("\n")[1:-1]
        (at,) = (i for i, line in enumerate(lines) if line.startswith("One"))
        assert at == round((len(lines) - 1) * depth / 100)
    task = build("ruler_niah", kind="multiquery", length=8000, depth=75)
    for text, _ in texts(stack(task, "test", 10)):
        ends = [match.end() / len(text) for match in re.finditer(NEEDLE, text)]
        assert 0.55 < min(ends) < max(ends) < 0.85
    with pytest.raises(ValueError, match=r"depth must be an integer, -1 to 100; got 101"):
        needle("single_1", depth=101)


def test_a_text_of_ones_own_has_parts_of_its_own(tmp_path):
    file = tmp_path / "essay.txt"
    file.write_text(" ".join(f"This is\nsentence {i} of an essay." for i in range(100)))
    task = needle("single_2", text=str(file))
    assert task.data_files("train") == (file,)
    seen = {}
    for split in ("train", "validation", "test"):
        found = " ".join(text for text, _ in texts(stack(task, split, 30)))
        seen[split] = set(map(int, re.findall(r"This is sentence (\d+) of an essay\.", found)))
    assert seen == {
        "train": set(range(80)),
        "validation": set(range(80, 90)),
        "test": set(range(90, 100)),
    }
    with pytest.raises(FileNotFoundError, match="no such file; give a plain text"):
        needle("single_2", text=str(tmp_path / "none")).source("train")[0]


def test_strings_count_alone_and_by_length_and_depth():
    task = needle("multivalue", test_lengths=(1000, 1500))
    batch = stack(task, "test", 10)
    answers = batch["targets"].copy()
    answers[0, np.flatnonzero(batch["part"][0] == 2)[3]] ^= 1  # a digit of one of four values
    answers[1, np.flatnonzero(answers[1] >= 0)[-1]] = 0  # the full stop, which is no string
    measured = jax.jit(task.measure)(one_hot(answers, 256), batch)
    found = {name: float(total / weight) for name, (total, weight) in measured.items()}
    assert found["accuracy"] == pytest.approx(1 - 0.25 / 10)
    assert found["accuracy_1000_at_0"] == pytest.approx(0.75)
    assert found["accuracy_1000_at_25"] == found["accuracy_1500_at_100"] == 1
    assert found["exact"] == pytest.approx(0.8)


def test_variables_follow_from_the_assignments():
    task = build("ruler_vt", num_chains=2, num_hops=3, length=1500)
    for text, answer in texts(stack(task, "test", 20)):
        context, question = text.split("\nQuestion: ")
        asked = re.search(r"assigned the value (\d+) in the text", question)[1]
        values, having = {}, []
        for name, other, number in re.findall(
            r"VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5}) |(\d{5}))", context
        ):
            values[name] = values[other] if other else number  # told before it is used
            having += [name] if values[name] == asked else []
        assert len(values) == 8
        assert answer == f" {', '.join(having)}."
        assert f"above, {len(having)} variables are" in question


@pytest.mark.parametrize(("length", "common", "other"), [(2048, 6, 1), (6000, 30, 3)])
def test_common_words_are_those_of_the_list(length, common, other):
    task = build("ruler_cwe", length=length)
    for text, answer in texts(stack(task, "test", 5)):
        entries = re.findall(r"(\d+)\. ([a-z-]+)", text.split("\n")[1])
        assert [int(number) for number, _ in entries] == list(range(1, len(entries) + 1))
        counts = collections.Counter(word for _, word in entries)
        top = [word for word, count in counts.items() if count == common]
        assert len(top) == 10
        assert set(counts.values()) == {common, other}
        assert answer == f" {', '.join(top)}."
        assert length - 25 * other < len(text) + len(answer) <= length


@pytest.mark.parametrize("length", [1024, 5000])
def test_frequent_words_are_those_of_the_text(length):
    task = build("ruler_fwe", length=length)
    for text, answer in texts(stack(task, "test", 5)):
        coded = text.split("coded words. ")[1].split("\n")[0].split()
        counts = collections.Counter(coded)
        (dots, most), *ranked = counts.most_common(5)
        assert dots == "..."
        assert answer == f" {', '.join(word for word, _ in ranked[:3])}."
        assert len({count for _, count in ranked}) == 4, "ties have no order"
        # Each rank's share: the number of words cancels out of the ratio of the first two.
        assert most / ranked[0][1] == pytest.approx(4, rel=0.1)
        assert length - 60 < len(text) + len(answer) <= length


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from seqzoo.tasks.language.corpus import joined
    from seqzoo.tasks.language.tokenizers import _learn

    said = [text.encode() for text, _ in texts(stack(needle("single_2"), "train", 40))]
    file = tmp_path_factory.mktemp("tokens") / "tokenizer.json"
    file.write_text(_learn(joined(said), 600).to_str())
    return str(file)


@pytest.mark.parametrize("name", ["ruler_niah", "ruler_cwe", "ruler_fwe"])
def test_a_tokenizer_gives_the_same_questions_in_fewer_tokens(tokenizer, name):
    options = {"ruler_niah": {"kind": "multivalue"}}.get(name, {})
    task = build(name, tokenizer=tokenizer, length=2048, **options)
    assert task.spec.vocab_size == 600
    for example in (task.source("test")[i] for i in range(5)):
        ids, targets = example["inputs"], example["targets"]
        size = int(example["segment_ids"].sum())
        assert 1700 < size < 2048
        whole = task.codec.decode(np.append(ids[:size], targets[size - 1]))
        answer = task.codec.decode(targets[targets >= 0])
        assert whole.endswith(answer)
        assert answer.endswith(".")
        if name == "ruler_niah":
            assert answer.strip() == solved(whole).strip()
        strings = answer.strip(" .").split(", ")
        for i, string in enumerate(strings, 1):
            assert string in task.codec.decode(targets[example["part"] == i])
        assert example["part"].max() == len(strings)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ruler_niah", {"kind": "single_4"}, "kind must be one of single_1, single_2"),
        ("ruler_niah", {"length": 100}, "lengths must be integers, at least 3.*got 100"),
        ("ruler_niah", {"text": "x"}, "its haystack is no text, so leave `text` out"),
        ("ruler_niah", {"tokenizer": "word"}, "tokenizer must be byte or the name of a"),
        ("ruler_vt", {"num_hops": 0}, "num_hops must be an integer, 1 to 1000"),
        ("ruler_cwe", {"test_lengths": (100,)}, "lengths must be integers, at least 1"),
        ("ruler_fwe", {"alpha": 1.0}, r"alpha must be in 1\.1 to 4"),
        ("ruler_fwe", {"length": 600}, "600 tokens are too few to tell ranks 2 to 5 apart"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_no_other_needle_has_the_key_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(ruler, "pairs", lambda: (b"a-b", b"c-d", b"e-f"))
    for text, answer in texts(stack(needle("multikey_2"), "test", 10)):
        assert answer == solved(text)
        assert len(re.findall(NEEDLE, text)) > 5
