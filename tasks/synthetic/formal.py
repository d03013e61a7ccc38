"""The fifteen problems of the Chomsky hierarchy suite, from regular to context-sensitive."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from seqzoo.tasks.data.streams import Draws
from seqzoo.tasks.synthetic.transduction import END, Transduction, digits

Problem = tuple[np.ndarray, np.ndarray]
MODULUS = 5


def _one(answer: int) -> np.ndarray:
    return np.array([answer], np.int32)


class _OneAnswer(Transduction):
    """One symbol is asked for."""

    def answer_length(self, length: int) -> int:
        """1."""
        return 1


# Regular languages


class EvenPairs(_OneAnswer):
    """Is the number of unequal neighbours even? It is if the first and last symbol are equal."""

    name: ClassVar[str] = "even_pairs"
    description: ClassVar[str] = "parity of the number of unequal neighbours (regular)"
    alphabet, symbols, outputs = 2, "ab", 2

    def problem(self, draws: Draws, length: int) -> Problem:
        """1 where the ends differ."""
        string = draws.integers(2, length)
        return string, _one(string[0] != string[-1])


class ModularArithmetic(_OneAnswer):
    """Digits modulo 5 and +, -, * in turn, products first; of even lengths one less."""

    name: ClassVar[str] = "modular_arithmetic"
    description: ClassVar[str] = "value modulo 5 without brackets (regular)"
    alphabet, symbols, outputs = MODULUS + 4, "01234+-*_", MODULUS

    def problem(self, draws: Draws, length: int) -> Problem:
        """The value modulo 5."""
        numbers = draws.integers(MODULUS, (length + 1) // 2)
        operators = draws.integers(3, len(numbers) - 1)
        string = np.empty(2 * len(numbers) - 1, np.int32)
        string[::2], string[1::2] = numbers, MODULUS + operators
        total, term = 0, int(numbers[0])
        for operator, number in zip(operators.tolist(), numbers[1:].tolist(), strict=True):
            if operator == 2:
                term = term * number % MODULUS
            else:
                total, term = total + term, -number if operator else number
        return string, _one((total + term) % MODULUS)


class ParityCheck(_OneAnswer):
    """Is the number of ones odd?"""

    name: ClassVar[str] = "parity_check"
    description: ClassVar[str] = "parity of the number of ones, answered once (regular)"
    alphabet, symbols, outputs = 2, "01", 2

    def problem(self, draws: Draws, length: int) -> Problem:
        """The number of ones modulo 2."""
        string = draws.integers(2, length)
        return string, _one(string.sum() % 2)


class CycleNavigation(_OneAnswer):
    """Where on a circle of five does a walk end? 0, 1, 2 are a step back, none, and ahead."""

    name: ClassVar[str] = "cycle_navigation"
    description: ClassVar[str] = "end of a walk on a circle of five (regular)"
    alphabet, symbols, outputs = 3, "-0+", 5

    def problem(self, draws: Draws, length: int) -> Problem:
        """The place, from 0."""
        string = draws.integers(3, length)
        return string, _one((string.sum() - length) % 5)


# Deterministic context-free languages


class StackManipulation(Transduction):
    """A stack, bottom first, then POP (2), PUSH 0 (3), PUSH 1 (4); the stack at the end, top first.

    To POP an empty stack does nothing. The answer ends with 2, then zeros.
    """

    name: ClassVar[str] = "stack_manipulation"
    description: ClassVar[str] = "a stack after pushes and pops (context-free)"
    alphabet, symbols, outputs, ends = 5, "01PAB", 3, True

    def answer_length(self, length: int) -> int:
        """A symbol more than the string."""
        return length + 1

    def problem(self, draws: Draws, length: int) -> Problem:
        """The final stack."""
        size = 1 + draws.below(length - 1) if length > 1 else 1
        bits, actions = draws.integers(2, size), 2 + draws.integers(3, length - size)
        stack = bits.tolist()
        for action in actions.tolist():
            if action > 2:
                stack.append(action - 3)
            elif stack:
                stack.pop()
        return np.concatenate([bits, actions]), _ended(stack[::-1], length + 1)


def _ended(answer: list[int] | np.ndarray, length: int) -> np.ndarray:
    out = np.zeros(length, np.int32)
    out[: len(answer)], out[len(answer)] = answer, END
    return out


class ReverseString(Transduction):
    """The string backwards."""

    name: ClassVar[str] = "reverse_string"
    description: ClassVar[str] = "the string backwards (context-free)"
    alphabet, symbols, outputs = 2, "01", 2

    def answer_length(self, length: int) -> int:
        """That of the string."""
        return length

    def problem(self, draws: Draws, length: int) -> Problem:
        """The same symbols from the end."""
        string = draws.integers(2, length)
        return string, string[::-1]


def expression(draws: Draws, length: int, operators: str) -> tuple[str, int]:
    """A random expression of exactly `length` characters, and its value modulo 5.

    Up to four characters it is d, -d, (d) or (-d); above, two expressions in brackets with one of
    `operators` between, the left one of 1 to length - 4 characters.
    """
    if length <= 4:
        digit = draws.below(MODULUS)
        form = ("{}", "-{}", "({})", "(-{})")[length - 1]
        return form.format(digit), (digit if length % 2 else -digit) % MODULUS
    size = 1 + draws.below(length - 4)
    left, a = expression(draws, size, operators)
    right, b = expression(draws, length - 3 - size, operators)
    sign = operators[draws.below(len(operators))]
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return f"({left}{sign}{right})", value % MODULUS


class ModularArithmeticBrackets(_OneAnswer):
    """The value of an expression with brackets, modulo 5."""

    name: ClassVar[str] = "modular_arithmetic_brackets"
    description: ClassVar[str] = "value modulo 5 with brackets (context-free)"
    alphabet, symbols, outputs = MODULUS + 6, "01234+-*()x", MODULUS

    def problem(self, draws: Draws, length: int) -> Problem:
        """The value modulo 5."""
        text, value = expression(draws, length, "+-*")
        return np.array([self.symbols.index(c) for c in text], np.int32), _one(value)


class SolveEquation(_OneAnswer):
    """An expression of + and - with one digit hidden as x, "=" and its value: x?

    Strings shorter than three are zeros, and so is their answer.
    """

    name: ClassVar[str] = "solve_equation"
    description: ClassVar[str] = "the hidden digit of an equation modulo 5 (context-free)"
    alphabet, symbols, outputs = MODULUS + 6, "01234+-()x=", MODULUS

    def problem(self, draws: Draws, length: int) -> Problem:
        """The digit that x stands for."""
        if length < 3:
            return np.zeros(length, np.int32), _one(0)
        text, value = expression(draws, length - 2, "+-")
        at = draws.below(len(text))
        while not text[at].isdigit():
            at = (at + 1) % len(text)
        string = f"{text[:at]}x{text[at + 1 :]}={value}"
        tokens = np.array([self.symbols.index(c) for c in string], np.int32)
        return tokens, _one(int(text[at]))


# Context-sensitive languages


class DuplicateString(Transduction):
    """The string twice."""

    name: ClassVar[str] = "duplicate_string"
    description: ClassVar[str] = "the string twice (context-sensitive)"
    alphabet, symbols, outputs = 2, "01", 2

    def answer_length(self, length: int) -> int:
        """Twice the string's."""
        return 2 * length

    def problem(self, draws: Draws, length: int) -> Problem:
        """w w."""
        string = draws.integers(2, length)
        return string, np.tile(string, 2)


class MissingDuplicateString(_OneAnswer):
    """A string twice with one symbol hidden (2), odd lengths filled with 3: which?

    The string of length one is "1", and so is its answer.
    """

    name: ClassVar[str] = "missing_duplicate_string"
    description: ClassVar[str] = "the symbol missing from ww (context-sensitive)"
    alphabet, symbols, outputs = 4, "01?.", 2

    def problem(self, draws: Draws, length: int) -> Problem:
        """The hidden symbol."""
        if length == 1:
            return _one(1), _one(1)
        string = np.full(length, 3, np.int32)
        half = length // 2
        string[: 2 * half] = np.tile(draws.integers(2, half), 2)
        at = draws.below(2 * half)
        answer = _one(string[at])
        string[at] = 2
        return string, answer


class OddsFirst(Transduction):
    """The symbols at odd places (from 0), then those at even places."""

    name: ClassVar[str] = "odds_first"
    description: ClassVar[str] = "symbols at odd places, then at even ones (context-sensitive)"
    alphabet, symbols, outputs = 2, "01", 2

    def answer_length(self, length: int) -> int:
        """That of the string."""
        return length

    def problem(self, draws: Draws, length: int) -> Problem:
        """w[1::2] w[0::2]."""
        string = draws.integers(2, length)
        return string, np.concatenate([string[1::2], string[::2]])


class _Binary(Transduction):
    """Two positive numbers, the lowest digit first, with 2 between them; the answer ends with 2.

    A string of one or two digits is a single number below its largest.
    """

    alphabet, symbols, outputs, ends = 3, "01|", 3, True

    def _numbers(self, draws: Draws, length: int) -> tuple[np.ndarray, int, int]:
        if length <= 2:
            number = draws.below(2**length - 1)
            return digits(number, length)[::-1], number, 0
        sizes = [1 + draws.below(length - 2)]
        sizes.append(length - 1 - sizes[0])
        a, b = (_positive(draws, size) for size in sizes)
        parts = digits(a, sizes[0])[::-1], [2], digits(b, sizes[1])[::-1]
        return np.concatenate(parts), a, b


def _positive(draws: Draws, bits: int) -> int:
    """Uniform on 1 to 2**bits - 1."""
    while (number := draws.bits(bits)) == 0:
        pass
    return number


class BinaryAddition(_Binary):
    """The sum of two binary numbers; of a string without separator, its number."""

    name: ClassVar[str] = "binary_addition"
    description: ClassVar[str] = "sum of two binary numbers (context-sensitive)"

    def answer_length(self, length: int) -> int:
        """A symbol more than the string."""
        return length + 1

    def problem(self, draws: Draws, length: int) -> Problem:
        """The sum, the lowest digit first."""
        string, a, b = self._numbers(draws, length)
        return string, _ended(digits(a + b)[::-1], length + 1)


class BinaryMultiplication(_Binary):
    """The product of two binary numbers; of a string without separator, zeros."""

    name: ClassVar[str] = "binary_multiplication"
    description: ClassVar[str] = "product of two binary numbers (context-sensitive)"

    def answer_length(self, length: int) -> int:
        """That of the string."""
        return length

    def problem(self, draws: Draws, length: int) -> Problem:
        """The product, the lowest digit first."""
        string, a, b = self._numbers(draws, length)
        product = digits(a * b)[::-1] if length > 2 else np.zeros(length - 1, np.int32)
        return string, _ended(product, length)


class ComputeSqrt(Transduction):
    """The whole part of the root of a positive binary number, the highest digit first."""

    name: ClassVar[str] = "compute_sqrt"
    description: ClassVar[str] = "whole square root of a binary number (context-sensitive)"
    alphabet, symbols, outputs = 2, "01", 2

    def answer_length(self, length: int) -> int:
        """Half the string's, rounded up."""
        return -(-length // 2)

    def problem(self, draws: Draws, length: int) -> Problem:
        """The root, filled with zeros in front."""
        number = _positive(draws, length)
        return digits(number, length), digits(math.isqrt(number), self.answer_length(length))


class BucketSort(Transduction):
    """The string's five symbols in order."""

    name: ClassVar[str] = "bucket_sort"
    description: ClassVar[str] = "the symbols of the string in order (context-sensitive)"
    alphabet, symbols, outputs = 5, "01234", 5

    def answer_length(self, length: int) -> int:
        """That of the string."""
        return length

    def problem(self, draws: Draws, length: int) -> Problem:
        """Sorted."""
        string = draws.integers(5, length)
        return string, np.sort(string)
