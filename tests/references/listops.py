"""The official ListOps grammar written as its recursion, with Python's own random numbers."""

import random

import numpy as np


class TooLong(Exception):
    pass


def random_tree(rng, room, depth=1, max_depth=10):
    """A nested list [operator, argument, ...] or a digit; `room` is a list of the tokens left."""
    room[0] -= 1
    if room[0] < 0:
        raise TooLong
    if depth == max_depth or rng.random() > 0.25:
        return rng.randrange(10)
    room[0] -= 1
    operator = rng.choice(("[MIN", "[MAX", "[MED", "[SM"))
    count = rng.randint(2, 10)
    return [operator] + [random_tree(rng, room, depth + 1, max_depth) for _ in range(count)]


def length(tree):
    return 1 if isinstance(tree, int) else 2 + sum(length(part) for part in tree[1:])


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(depth(part) for part in tree[1:])


def accepted_trees(seed, count, shortest, longest):
    rng = random.Random(seed)
    accepted = []
    while len(accepted) < count:
        try:
            tree = random_tree(rng, [longest])
        except TooLong:
            continue
        if length(tree) >= shortest:
            accepted.append(tree)
    return accepted


def parse(words):
    """The nested list of an expression without parentheses, given as words."""
    words = list(words)

    def part():
        word = words.pop(0)
        if word.isdigit():
            return int(word)
        made = [word]
        while words[0] != "]":
            made.append(part())
        words.pop(0)
        return made

    return part()


def value(tree):
    if isinstance(tree, int):
        return tree
    arguments = [value(part) for part in tree[1:]]
    return {
        "[MIN": min,
        "[MAX": max,
        "[MED": lambda x: int(np.median(x)),
        "[SM": lambda x: sum(x) % 10,
    }[tree[0]](arguments)
