import hashlib
import itertools
import json
import math

import jax
import numpy as np
import pytest

from seqzoo.tasks import build
from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.skills import capo, lano, selectivbench
from tests.tasks.examples import one_hot, stack

# A sentence of cfg3f, as the published example prints it (demo0_basic.py, Lano-cfg).
PRINTED = (
    "333311213123221233121312121221221332213311211213233312121233133133113113113311132212112121"
    "213333112331112131211111233221312322121312113221131233121331211323223123331231131111123113"
    "111212122133331233112111221121312111112132211121123113313113111211132222111333113111131131"
    "11213222112121131112112213123111111"
)
# Of the right sides in its files, `all` without the words' level, symbol by symbol from 0.
CONFIGS = {
    "cfg3f": "e5ae9ace846b2320",
    "cfg3j": "266fe8cb27ab70da",
    "cfg3k": "15d26931b7a323c5",
}


def measured(task, answers, batch):
    found = jax.jit(task.measure)(one_hot(answers, task.spec.outputs), batch)
    return {k: float(total / weight) for k, (total, weight) in found.items() if weight > 0}


def test_the_value_is_that_of_the_expression():
    task = build("mano", length=6, test_lengths=(3, 9))
    for split, lengths in (("train", range(1, 7)), ("validation", [6]), ("test", [3, 9])):
        seen = set()
        for example in (task.source(split)[i] for i in range(60)):
            said, value = task.decode(example).split(" -> ")
            begin, length, *expression, end = said.split()
            assert (begin, end) == ("^", "=")

            def read(rest):
                token = next(rest)
                if token not in "+-*":
                    return int(token)
                left, right = read(rest), read(rest)
                return {"+": left + right, "-": left - right, "*": left * right}[token]

            rest = iter(expression)
            assert read(rest) % 23 == int(value)
            assert next(rest, None) is None
            operations = sum(token in "+-*" for token in expression)
            assert length == f"[{operations}]"
            seen.add(operations)
        assert seen == set(lengths)
    batch = stack(task, "test", 6)
    answers = batch["targets"].copy()
    answers[0] = (answers[0] + 1) % 23
    found = measured(task, answers, batch)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["accuracy_3"] == pytest.approx(2 / 3)
    assert found["accuracy_9"] == 1


def test_everybody_has_the_same_facts_in_other_words():
    task = build("capo", num_people=50)
    rows = [task.source(split)[i] for split in ("train", "test") for i in range(200)]
    facts, wordings = {}, set()
    for row in rows:
        told = row["targets"][row["targets"] >= 0].tolist()
        name = tuple(row["inputs"][:3].tolist())
        assert facts.setdefault(name, told) == told
        wordings.add(tuple(row["inputs"][[3, 8, 11, 14, 17, 20]].tolist()))
    assert len(facts) == 50
    assert len(set(map(tuple, facts.values()))) == 50
    assert len(wordings) == len(rows)
    assert task.source("test")[3]["inputs"][0] == task.source("test", 9)[53]["inputs"][0]
    other = build("capo", num_people=50, population=1).source("test")[3]["targets"]
    assert not np.array_equal(other, task.source("test")[3]["targets"])


@pytest.mark.of_the_day("bits counted", 3)
def test_a_person_has_the_bits_that_the_paper_counts():
    assert round(capo.BITS, 1) == 47.6
    task = build("capo", num_people=20)
    batch = stack(task, "test", 20)
    found = measured(task, 60 * one_hot(batch["targets"], 1)[..., 0] + 0, batch)  # no class at all
    assert found["bits"] == pytest.approx(47.59 - 9 * math.log2(task.spec.outputs), abs=0.05)
    logits = 60 * one_hot(batch["targets"], task.spec.outputs)
    total, weight = jax.jit(task.measure)(logits, batch)["bits"]
    assert float(total / weight) == pytest.approx(47.59, abs=0.01)
    # The city of work follows from the employer, for everybody.
    city_of = {}
    for person in range(2000):
        told = capo._biography(0, person)
        assert city_of.setdefault(told[-1], told[-4]) == told[-4]


def parses(words, grammar):
    """Whether these words are a sentence: spans of each level, from the words up."""
    spans = {(i, i + 1, int(word)) for i, word in enumerate(words)}
    for level in reversed(lano.GRAMMARS[grammar]):
        ends = {}
        for i, j, symbol in spans:
            ends.setdefault((i, symbol), []).append(j)
        spans = set()
        for symbol, sides in enumerate(level.split("/"), 1):
            for side in sides.split():
                reached = {(i, i) for i in range(len(words))}
                for digit in side:
                    reached = {(i, k) for i, j in reached for k in ends.get((j, int(digit)), ())}
                spans |= {(i, k, symbol) for i, k in reached}
    return (0, len(words), 1) in spans


def test_the_published_sentence_is_one_and_a_changed_one_is_not():
    assert parses(PRINTED, "cfg3f")
    assert not parses("1" + PRINTED[1:], "cfg3f")
    assert not parses(PRINTED, "cfg3k")


@pytest.mark.parametrize(("grammar", "digest"), CONFIGS.items())
def test_rules_are_those_of_the_published_files(grammar, digest):
    rules = [
        [[[int(d) - 1 for d in side] for side in sides.split()] for sides in level.split("/")]
        for level in lano.GRAMMARS[grammar]
    ]
    assert hashlib.sha256(json.dumps(rules).encode()).hexdigest().startswith(digest)


def test_rows_are_sentences_of_their_grammar():
    task = build("lano", length=700)
    row = task.source("train")[0]
    assert np.array_equal(row["inputs"][1:], row["targets"][:-1])
    starts = np.flatnonzero(row["inputs"] == 0)
    assert starts[0] == 0
    for begin, end in itertools.pairwise(starts):
        assert parses(row["inputs"][begin + 1 : end], "cfg3f")
    for grammar in ("cfg3j", "cfg3k"):
        assert parses(lano.sentence(Draws("short", 4), grammar), grammar)


@pytest.mark.parametrize("grammar", lano.GRAMMARS)
def test_sentences_are_as_long_as_expected(grammar):
    lengths = [len(lano.sentence(Draws("length", i), grammar)) for i in range(300)]
    words, nats = lano.expected(grammar)
    spread = 4 * np.std(lengths) / math.sqrt(300)
    assert abs(np.mean(lengths) - words) < spread
    assert 0.6 < nats / words < 0.9
    assert f"{words:.1f} words" in build("lano", grammar=grammar).facts[0]


def test_letters_follow_an_automaton_that_a_row_has_alone():
    task = build("regbench")
    automata, lengths = set(), []
    for example in (task.source("train")[i] for i in range(30)):
        size = int(example["segment_ids"].sum())
        last = int(example["targets"][size - 1])
        tokens = [*example["inputs"][:size].tolist(), last]
        # States are found again from the words alone: after each prefix, what followed it.
        follows = {}
        for word in "".join(map(chr, tokens)).split("\0"):
            lengths.append(len(word))
            for i, letter in enumerate(word):
                follows.setdefault(word[:i], set()).add(ord(letter))
        prefix = ""
        for i, token in enumerate(tokens):
            may = set(np.flatnonzero(example["allowed"][example["state"][i - 1]]).tolist())
            if token and prefix:
                assert example["state"][i - 1] != example["state"][i - 2] or i < 2
            if token and i:
                assert follows[prefix] <= may
                assert example["targets"][i - 1] == token
                assert 1 <= len(may) <= 3
            elif i:
                assert example["targets"][i - 1] == -100
            prefix = prefix + chr(token) if token else ""
        assert 10 <= tokens.count(0) + 1 <= 19
        automata.add(example["allowed"].tobytes())
    assert len(automata) == 30
    assert (min(lengths), max(lengths)) == (1, 49)


@pytest.mark.of_the_day("letters counted", 3)
def test_what_the_language_allows_counts():
    task = build("regbench", max_words=4, min_words=3, max_word=6)
    batch = stack(task, "test", 20)
    may = batch["allowed"][np.arange(20)[:, None], batch["state"]]
    lowest = may.argmax(-1)  # some letter that may follow
    assert not np.array_equal(lowest, batch["targets"])
    found = measured(task, lowest, batch)
    assert found["accuracy"] == 1
    assert found["drawn"] < 1
    assert measured(task, may.argmin(-1), batch)["accuracy"] == 0


def test_states_follow_from_what_came_before():
    task = build("selectivbench", symbols=8, instances=5, gap=3, length=60, test_gap=6)
    made = selectivbench.automaton(8, 5, 0.4, 0, 60)
    for split, most in (("train", 3), ("test", 6)):
        gaps = set()
        for example in (task.source(split)[i] for i in range(20)):
            size = int(example["segment_ids"].sum())
            inputs, targets = example["inputs"][:size], example["targets"][:size]
            begins = np.flatnonzero(inputs != 9)
            gaps |= set((np.diff([*begins, size]) - 1).tolist())
            assert len(begins) == 60
            # The states that the symbols so far allow, from those of the beginning on.
            before, sure = [0], 0
            for place, (i, j) in enumerate(itertools.pairwise([*begins, size])):
                after = {s for b in before for s in (made.follows[b] if b else made.starts)}
                before = [s for s in after if (1 + (s - 1) // 5 if s else 0) == inputs[i]]
                assert targets[i] in before
                assert (targets[i:j] == targets[i]).all()
                sure += len(before) == 1
                assert place or inputs[i], "a string begins with a symbol"
            assert sure > 40
        assert gaps == set(range(1, most + 1))


def test_distractors_are_what_the_grammar_forbids():
    options = {"symbols": 8, "instances": 5, "length": 60}
    task = build("selectivbench", distractors=0.5, distractor_start=20, **options)
    plain = build("selectivbench", gap=0, **options)
    made = selectivbench.automaton(8, 5, 0.4, 0, 60)
    for i in range(10):
        example, without = (t.source("train")[i] for t in (task, plain))
        size = int(example["segment_ids"].sum())
        rest = iter(zip(example["inputs"][:size], example["targets"][:size], strict=True))
        states, found = without["targets"].tolist(), []
        ahead = next(rest)
        for place, (symbol, state) in enumerate(zip(without["inputs"], states, strict=True)):
            assert ahead == (symbol, state)
            ahead = next(rest, None)
            own_again = state == (*states, None)[place + 1] and ahead[0] == symbol
            if ahead and ahead[1] == state and not own_again:
                allowed = {1 + (s - 1) // 5 if s else 0 for s in made.follows[state]}
                assert ahead[0] not in allowed
                found.append(place)
                ahead = next(rest, None)
        assert ahead is None
        assert min(found) >= 20
        assert 8 < len(found) < 32


@pytest.mark.parametrize("variant", ["copy", "prefix_ngram", "suffix_ngram"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_strings_come_again_from_the_ngram_on(variant, split):
    task = build("string_copy", variant=variant, length=12, test_lengths=(12, 40), alphabet=5)
    lengths = []
    for i, example in enumerate(task.source(split)[i] for i in range(40)):
        said, answer = task.decode(example).replace(" ", "").split("->")
        if variant == "prefix_ngram":
            ngram, string, given = said.removeprefix("$").split("|")
        else:
            string, given = said.removeprefix("$").split("|")
            ngram, given = ("", given) if variant == "copy" else (given[:3], given[3:])
        assert string.count(ngram) == 1 or not ngram
        rest = string[string.index(ngram) + len(ngram) :]
        assert answer == rest + "."
        assert given == rest
        assert rest
        lengths.append(len(string))
        if ngram and split == "test":
            once = [k for k in range(len(string) - 3) if _times(string, string[k : k + 3]) == 1]
            assert string.index(ngram) == once[round((i % 5) / 4 * (len(once) - 1))]
    assert set(lengths) == (set(range(5, 13)) if split == "train" else {12, 40})


def _times(string, part):
    return sum(string.startswith(part, i) for i in range(len(string)))


def test_whole_strings_count_by_length():
    task = build("string_copy", length=6, min_length=2, test_lengths=(6, 9))
    batch = stack(task, "test", 4)
    answers = batch["targets"].copy()
    answers[0, np.flatnonzero(answers[0] >= 0)[0]] ^= 1
    found = measured(task, answers, batch)
    assert found["accuracy"] == 0.75
    assert found["accuracy_6"] == 0.5
    assert found["accuracy_9"] == 1
    assert found["token_accuracy"] == pytest.approx(1 - 1 / (2 * 7 + 2 * 10))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mano", {"length": 0}, "lengths must be integers, 1 to 100000; got 0"),
        ("mano", {"modulus": 1}, "modulus must be an integer, 2 to"),
        ("capo", {"num_people": 0}, "num_people must be an integer, 1 to"),
        ("lano", {"grammar": "cfg3"}, "grammar must be one of cfg3f, cfg3j, cfg3k; got 'cfg3'"),
        ("regbench", {"letters": 3}, "letters must be an integer, 4 to"),
        ("regbench", {"min_words": 1}, "min_words must be an integer, 2 to 19"),
        ("selectivbench", {"density": 0.05}, "density times symbols must be at least 2"),
        ("selectivbench", {"distractors": 0.1, "gap": 2}, "distractors stand in place of blanks"),
        ("selectivbench", {"symbols": 500, "instances": 500}, "symbols squared times instances"),
        ("string_copy", {"variant": "paste"}, "variant must be one of copy, prefix_ngram"),
        ("string_copy", {"variant": "suffix_ngram", "alphabet": 2}, "2 letters make too few"),
        ("string_copy", {"min_length": 30}, "min_length must be an integer, 1 to 20"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_a_grammar_whose_strings_rarely_end_is_refused():
    task = build("selectivbench", length=2, symbols=40, instances=40)
    with pytest.raises(ValueError, match="% of strings end within length=2 elements; give a"):
        task.source("train")[0]
