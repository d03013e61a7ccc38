import re

import numpy as np
import pytest

from seqzoo.tasks import build
from tests.tasks.examples import one_hot, stack, texts, value


@pytest.mark.parametrize("haystack", ["random", "noise"])
def test_the_answer_is_the_value_of_the_key_asked_for(haystack):
    task = build("needle", length=128, test_lengths=(64, 200), haystack=haystack)
    for i, (text, answer) in enumerate(texts(stack(task, "test", 40))):
        length, depth = (64, 200)[i % 10 // 5], i % 5
        assert len(text) == length
        (match,) = re.finditer(r"#([a-z]{4})=(\d{4});", text)
        assert text.endswith(f"#{match[1]}=")
        assert match[2] == answer
        assert match.start() == round((length - 17) * depth / 4)


def test_exact_matches_by_length_and_depth():
    task = build("needle", length=64, test_lengths=(64, 100))
    batch = stack(task, "test", 20)
    answers = batch["targets"].copy()
    answers[0, np.flatnonzero(answers[0] >= 0)[2]] += 1  # one of four digits is wrong
    logits = one_hot(answers, 256)
    assert value(task, logits, batch, "accuracy") == pytest.approx(19 / 20)
    assert value(task, logits, batch, "accuracy_64_at_0") == 0.5
    assert value(task, logits, batch, "accuracy_100_at_75") == 1
    assert value(task, logits, batch, "token_accuracy") == pytest.approx(79 / 80)


def test_the_passkey_is_told_once_within_its_garbage():
    task = build("passkey", length=300, test_lengths=(0, 100, 500))
    for split in ("train", "test"):
        befores = []
        for i, (text, answer) in enumerate(texts(stack(task, split, 60))):
            match = re.search(
                r" The pass key is (\d+)\. Remember it\. (\d+) is the pass key\. ", text
            )
            assert answer == f" {match[1]}."
            assert match[1] == match[2]
            assert 1 <= int(match[1]) <= 50_000
            garbage = text.replace(match[0], "")
            size = len(garbage) - len(build_prompt_without_garbage(text, match[0]))
            assert size == (0, 100, 500)[i % 3] if split == "test" else size <= 300
            befores.append(match.start())
        assert len(set(befores)) > 20


def build_prompt_without_garbage(text, fact):
    """The task and the question around the garbage."""
    start = text.index("asked for it. ") + len("asked for it. ")
    return text[:start] + text[text.index(" What is the pass key?") :]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("needle", {"length": 17}, "lengths must be at least 18"),
        ("needle", {"haystack": "hay"}, "haystack must be random or noise"),
        ("passkey", {"test_lengths": ()}, "test_lengths must be counts"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)
