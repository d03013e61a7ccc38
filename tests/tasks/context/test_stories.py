import re

import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.context import babi
from tests.tasks.examples import stack, texts

FACT = re.compile(
    r"(?:Mary|John|Daniel|Sandra) (?:"
    + "|".join(word.decode() for word in (*babi.WALKS, *babi.TAKES, *babi.LEAVES))
    + r") the \w+(?: there)?\."
)


def solved(facts, question):
    """The answer, by reading the facts in order."""
    where, owner, been = {}, {}, {}
    for fact in facts:
        person, thing = fact.split()[0], re.search(r"the (\w+)", fact)[1]
        if thing.encode() in babi.PLACES:
            where[person] = thing
            for held in [o for o, p in owner.items() if p == person]:
                been[held].append(thing)
        elif fact.endswith(" there."):
            assert been.get(thing, [where[person]])[-1] == where[person], "it is taken elsewhere"
            assert thing not in owner, "somebody has it"
            owner[thing] = person
            been.setdefault(thing, [where[person]])
        else:
            assert owner.pop(thing) == person, "somebody leaves what another has"
    if before := re.fullmatch(r"Where was the (\w+) before the (\w+)\?", question):
        places = been[before[1]]
        assert places.count(before[2]) == 1
        return places[places.index(before[2]) - 1]
    asked = question.removeprefix("Where is ").removesuffix("?").removeprefix("the ")
    return where[asked] if asked in where else been[asked][-1]


@pytest.mark.parametrize("question", babi.QUESTIONS)
def test_facts_in_a_text_say_where(question):
    task = build("babilong", question=question, length=2500)
    answers, counts = [], []
    for text, answer in texts(stack(task, "train", 150)):
        facts = FACT.findall(text)
        assert answer == f" {solved(facts, text.splitlines()[-1])}."
        answers.append(answer)
        counts.append(len(facts))
    assert len(set(answers)) == 6
    most = {"qa1": 10, "qa2": 20, "qa3": 30}[question]
    assert (min(counts), max(counts)) == (2, most) if question == "qa1" else max(counts) <= most
    assert 0.35 * most < np.mean(counts) < 0.8 * most


def test_facts_stand_in_their_window():
    task = build("babilong", length=4000, num_depths=4)
    for i, (text, _) in enumerate(texts(stack(task, "test", 24))):
        begins = [match.start() / len(text) for match in FACT.finditer(text)]
        low = (i % 4) / 3 * 0.75
        assert low - 0.07 < min(begins) < max(begins) < low + 0.32


def test_the_number_of_a_name_is_that_of_the_book():
    task = build("phone_book", length=8, test_lengths=(5, 30), num_depths=3)
    assert build("phone_book", length=3).source("train")[0]["targets"].max() > 0
    for split, count in (("train", 20), ("test", 24)):
        for i, (text, answer) in enumerate(texts(stack(task, split, count))):
            book, pattern, name = text.split("\n\n")
            entries = dict(line.split(": ") for line in book.split("\n"))
            length = (5, 30)[i % 6 // 3] if split == "test" else 8
            assert len(entries) == length
            assert all(re.fullmatch(r"[6-9]\d{9}", number) for number in entries.values())
            assert answer == f" {entries[name.removesuffix(':')]}."
            shown = pattern.split("\n")
            assert len(set(shown)) == 2
            assert all(line in book and name not in line for line in shown)
            if split == "test":
                at = list(entries).index(name.removesuffix(":"))
                assert at == round((0, 0.5, 1)[i % 3] * (length - 1))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("babilong", {"question": "qa4"}, "question must be one of qa1, qa2, qa3; got 'qa4'"),
        ("babilong", {"num_facts": 3}, "num_facts must be at least 8"),
        ("babilong", {"question": "qa3"}, "lengths must be integers, at least 1074; got 1024"),
        ("phone_book", {"length": 2}, "lengths must be integers, at least 3; got 2"),
        ("phone_book", {"length": 5000}, "length must be an integer, 1 to 4096"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **{"length": 1024, **options})
