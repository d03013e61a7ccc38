"""Each problem of the Chomsky hierarchy against a plain evaluation of its strings."""

import ast
import itertools
import operator
import re

import numpy as np
import pytest

from seqzoo.tasks import TASKS, build
from seqzoo.tasks.synthetic.transduction import Transduction
from tests.tasks.examples import one_hot, stack, value

PROBLEMS = [name for name, task in TASKS.items() if issubclass(task, Transduction)]


OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}


def arithmetic(text):
    """The value of sums, differences and products of integers, read by Python's own parser."""

    def walk(node):
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](walk(node.left), walk(node.right))
        if isinstance(node, ast.UnaryOp):
            assert isinstance(node.op, ast.USub)
            return -walk(node.operand)
        assert isinstance(node, ast.Constant)
        assert isinstance(node.value, int)
        return node.value

    return walk(ast.parse(text, mode="eval").body)


def tokens(text, symbols):
    return [symbols.index(c) for c in text]


def number(low_first):
    return sum(bit << i for i, bit in enumerate(low_first))


def ended(value, length):
    bits = [int(b) for b in bin(value)[:1:-1]]
    return [*bits, 2, *[0] * (length - len(bits) - 1)]


def stack_of(string):
    stack, at = [], 0
    while at < len(string) and string[at] < 2:
        stack.append(string[at])
        at += 1
    for action in string[at:]:
        stack = stack[:-1] if action == 2 else [*stack, action - 3]
    answer = [*reversed(stack), 2]
    return answer + [0] * (len(string) + 1 - len(answer))


def solved(text):
    left, right = text.split("=")
    good = [d for d in range(5) if arithmetic(left.replace("x", str(d))) % 5 == int(right)]
    assert len(good) == 1, "without products there is one solution"
    return good


def missing(string):
    half = len(string) // 2
    assert string[2 * half :] == [3] * (len(string) % 2)
    at = string.index(2)
    assert string[:half][: at % half] == string[half : 2 * half][: at % half]
    return [string[(at + half) % (2 * half)]]


def added(string, product=False):
    at = string.index(2)
    a, b = number(string[:at]), number(string[at + 1 :])
    assert min(a, b) > 0
    return ended(a * b, len(string)) if product else ended(a + b, len(string) + 1)


def root(string):
    n = int("".join(map(str, string)), 2)
    r = int(n**0.5 + 1e-9)
    return tokens(bin(r)[2:].zfill((len(string) + 1) // 2), "01")


REFERENCES = {
    "even_pairs": lambda s, _: [sum(a != b for a, b in itertools.pairwise(s)) % 2],
    "modular_arithmetic": lambda _, text: [arithmetic(text) % 5],
    "parity_check": lambda s, _: [s.count(1) % 2],
    "cycle_navigation": lambda s, _: [(s.count(2) - s.count(0)) % 5],
    "stack_manipulation": lambda s, _: stack_of(s),
    "reverse_string": lambda s, _: list(reversed(s)),
    "modular_arithmetic_brackets": lambda _, text: [arithmetic(text) % 5],
    "solve_equation": lambda _, text: solved(text),
    "duplicate_string": lambda s, _: s + s,
    "missing_duplicate_string": lambda s, _: missing(s),
    "odds_first": lambda s, _: [x for odd in (1, 0) for i, x in enumerate(s) if i % 2 == odd],
    "binary_addition": lambda s, _: added(s),
    "binary_multiplication": lambda s, _: added(s, product=True),
    "compute_sqrt": lambda s, _: root(s),
    "bucket_sort": lambda s, _: sorted(s),
}
# Where the published definition of the shortest strings is a convention.
SHORTEST = {
    **dict.fromkeys(("solve_equation", "binary_addition", "binary_multiplication"), 3),
    "missing_duplicate_string": 2,
}


def parts(example, task):
    """String and answer of an example whose empty tokens and padding are as they should be."""
    asked = np.flatnonzero(example["targets"] >= 0)
    used = int(example["segment_ids"].sum())
    assert list(asked) == list(range(asked[0], used))
    assert (example["inputs"][asked] == task.alphabet).all()
    assert (example["inputs"][used:] == 0).all()
    string = example["inputs"][: asked[0]].tolist()
    assert max(string) < task.alphabet
    return string, example["targets"][asked].tolist()


def test_there_are_fifteen():
    assert sorted(PROBLEMS) == sorted(REFERENCES)
    assert len(PROBLEMS) == 15


@pytest.mark.parametrize("name", PROBLEMS)
def test_answers_equal_the_reference(name):
    task = build(name, length=24, test_length=45, test_size=210)
    for split, shortest in (("train", 1), ("test", 25)):
        source, lengths = task.source(split), set()
        for i in range(210):
            string, answer = parts(source[i], task)
            lengths.add(len(string))
            if len(string) >= SHORTEST.get(name, 1):
                text = "".join(task.symbols[t] for t in string)
                assert answer == REFERENCES[name](string, text), text
            assert len(answer) == task.answer_length(len(string))
        full = set(range(shortest, 46 if split == "test" else 25))
        expected = {n - (n % 2 == 0) for n in full} if name == "modular_arithmetic" else full
        assert lengths == expected


def test_expressions_are_of_the_published_grammar():
    task = build("modular_arithmetic_brackets", length=30)
    grammar = re.compile(r"\((-?\d|\(-?\d\)|e)[+*-](-?\d|\(-?\d\)|e)\)")
    source = task.source("train")
    for i in range(100):
        text = "".join(task.symbols[t] for t in parts(source[i], task)[0])
        while (less := grammar.sub("e", text)) != text:
            text = less
        assert re.fullmatch(r"e|-?\d|\(-?\d\)", text)


def test_accuracy_ends_with_the_answer_and_the_loss_does_not():
    task = build("stack_manipulation", length=12)
    batch = stack(task, count=20)
    answers = batch["targets"].copy()
    ended = np.cumsum(answers == 2, axis=1) - (answers == 2) > 0
    assert ended.any()
    answers[ended] = 1
    logits = 5 * one_hot(answers, 3)
    assert value(task, logits, batch, "accuracy") == 1
    assert value(task, logits, batch, "sequence_accuracy") == 1
    assert value(task, logits, batch, "loss") > 1


@pytest.mark.of_the_day
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_best_symbol_reaches_the_baseline(name):
    task = build(name, test_size=120)
    batch = stack(task, "test", 120)
    reached = [
        value(task, one_hot(np.full_like(batch["targets"], c), task.outputs), batch, "accuracy")
        for c in range(task.outputs)
    ]
    assert max(reached) == pytest.approx(task.baselines()["one symbol"], rel=1e-5)


def test_each_unseen_length_is_tested_as_often():
    task = build("reverse_string", test_size=600)
    sizes = stack(task, "test", 600)["segment_ids"].sum(1) // 2
    assert np.array_equal(np.unique(sizes, return_counts=True)[1], [10] * 60)
    assert (sizes.min(), sizes.max()) == (41, 100)
    same = build("reverse_string", length=10, test_length=10)
    assert set(stack(same, "test", 50)["segment_ids"].sum(1) // 2) == set(range(1, 11))
