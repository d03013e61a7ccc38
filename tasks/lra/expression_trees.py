"""Random ListOps expressions: the official grammar, any example made by itself.

Long Range Arena's generator draws trees until a set of distinct ones is full, and cuts that set, in
an order that differs from run to run, into the splits. Here an expression is a function of its name
(split, seed, index), and what keeps examples distinct is a checksum of the digits that each index
of each split owns. Otherwise the distribution is the official one (Tay et al. 2020, arXiv
2011.04006; parameters as in google-research/long-range-arena, data/listops.py).
"""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np

from seqzoo.tasks.data.streams import words
from seqzoo.tasks.lra.expressions import CLOSE_TOKEN, FIRST_OPERATOR, ZERO, Tokens

CHECK_DIGITS = 7
CHECKSUMS = 10**CHECK_DIGITS
LEAST_LENGTH = 17  # an expression of L tokens has at least (L + 2) / 3 digits: here, CHECK_DIGITS
_POWERS = 10 ** np.arange(CHECK_DIGITS)
_BLOCKS = 10_000
_QUARTER = 1 << 30  # of the 32-bit words
_NUMBERS = 1 << 28  # bits 28 and 29 choose an operator, those below a number
_SPARE = 500  # words of a block beyond those that one tree can need


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grammar:
    """The official random trees, accepted if their length is right.

    A node is an operator with probability 1/4, else a digit; at `max_depth` always a digit. The
    length of an expression counts digits, operators and closing brackets. Raises ValueError for
    bounds that leave no expression, or none with enough digits for a checksum.
    """

    min_length: int  # tokens, inclusive, at least 17
    max_length: int  # tokens, inclusive
    max_depth: int = 10  # the root has depth 1
    max_arguments: int = 10  # of an operator, which has at least 2

    def __post_init__(self) -> None:
        if not LEAST_LENGTH <= self.min_length <= self.max_length:
            raise ValueError(
                f"min_length={self.min_length}, max_length={self.max_length}: the lengths must be "
                f"a range from at least {LEAST_LENGTH} tokens, so that no two expressions are equal"
            )

    def sample(self, checksum: int, *name: str | int) -> Tokens:
        """The random expression that belongs to `name`, made to have this `checksum`.

        Given its operators the digits of a random tree are independent and uniform, so fixing a
        uniformly spread checksum of them leaves the distribution as it is.
        """
        for block in range(_BLOCKS):
            drawn = words(self.max_length + _SPARE, *name, block)
            borders = self._first_tree(drawn)
            if borders:
                tokens = _prefix_order(drawn[borders[0] :], borders, self.max_arguments)
                _set_checksum(tokens, checksum)
                return tokens
        raise ValueError(f"found no tree that fits {self}; widen the range of lengths")

    def _first_tree(self, drawn: np.ndarray) -> list[int]:
        """Where the levels of the first tree of accepted length begin; empty if there is none.

        A word is a node, trees follow each other breadth first. A level ends where all arguments
        of the level above are counted, so sums over the words make the search a few look-ups.
        """
        is_operator = drawn < _QUARTER
        arguments = _arguments(drawn, self.max_arguments)
        arguments_before = [0, *np.cumsum(is_operator * arguments).tolist()]
        operators_before = [0, *np.cumsum(is_operator).tolist()]
        begin = 0
        while begin + self.max_length <= len(drawn):
            # The root is an operator whatever its word says: a lone digit is never accepted.
            borders = [begin, begin + 1, begin + 1 + int(arguments[begin])]
            length = 1 + borders[-1] - begin
            while length <= self.max_length and len(borders) <= self.max_depth:
                first, end = borders[-2:]
                operators = operators_before[end] - operators_before[first]
                if not operators:
                    break
                below = arguments_before[end] - arguments_before[first]
                length += operators + below
                borders.append(end + below)
            if self.min_length <= length <= self.max_length:
                return borders
            # The last border of a tree that grew too long stands beyond the words looked at.
            begin = borders[-1] if length < self.min_length else borders[-2]
        return []


def _arguments(drawn: np.ndarray, max_arguments: int) -> np.ndarray:
    """How many arguments each word has as an operator; bits 30 and 31 say whether it is one."""
    return 2 + (drawn % _NUMBERS).astype(np.int64) % (max_arguments - 1)


def _prefix_order(drawn: np.ndarray, borders: list[int], max_arguments: int) -> Tokens:
    """The tokens of the tree that begins `drawn`: operator, its arguments, closing bracket."""
    borders = [border - borders[0] for border in borders]
    drawn = drawn[: borders[-1]]
    is_operator = drawn < _QUARTER
    is_operator[0] = True
    is_operator[borders[-2] :] = False
    symbols = np.where(
        is_operator, (drawn >> 28) % 4 + FIRST_OPERATOR, drawn % _NUMBERS % 10 + ZERO
    )
    operators = is_operator.nonzero()[0]
    arguments = _arguments(drawn[operators], max_arguments)
    first = 1 + _exclusive(arguments)  # first argument of each operator, breadth first
    levels = list(pairwise(np.searchsorted(operators, borders[:-1]).tolist()))
    size = np.ones(len(drawn), np.int64)  # tokens from a node to its end
    for (a, b), begin, end in reversed(list(zip(levels, borders[1:-1], borders[2:], strict=True))):
        size[operators[a:b]] = 2 + np.add.reduceat(size[begin:end], first[a:b] - begin)
    before = _exclusive(size)
    start = np.zeros(len(drawn), np.int64)
    for (a, b), begin, end in zip(levels, borders[1:-1], borders[2:], strict=True):
        inside = start[operators[a:b]] + 1 - before[first[a:b]]
        start[begin:end] = np.repeat(inside, arguments[a:b]) + before[begin:end]
    tokens = np.full(size[0], CLOSE_TOKEN, np.uint8)
    tokens[start] = symbols
    return tokens


def _exclusive(counts: np.ndarray) -> np.ndarray:
    """Sums of all earlier counts."""
    return np.cumsum(counts) - counts


def checksum_of(tokens: Tokens) -> int:
    """A number below `CHECKSUMS` that depends on the digits alone: equal expressions share it.

    Its decimal digit r is the sum of the digits r, r + 7, r + 14, ... of the expression, modulo 10.
    """
    return int(_check_digits(tokens) @ _POWERS)


def _check_digits(tokens: Tokens) -> np.ndarray:
    digits = tokens[tokens < FIRST_OPERATOR] - ZERO
    turns = np.arange(len(digits)) % CHECK_DIGITS
    return np.bincount(turns, digits, CHECK_DIGITS).astype(np.int64) % 10


def _set_checksum(tokens: Tokens, checksum: int) -> None:
    """Moves the first `CHECK_DIGITS` digits, in place, so that the checksum becomes this one."""
    first = (tokens < FIRST_OPERATOR).nonzero()[0][:CHECK_DIGITS]
    move = checksum // _POWERS - _check_digits(tokens)
    tokens[first] = (tokens[first] - ZERO + move) % 10 + ZERO
