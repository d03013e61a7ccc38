"""ListOps expressions: their text, their tokens and their value.

Text is the official one, `[MAX 3 [SM 9 4 ] ]`, with or without the parentheses of the official
files. Tokens are uint8: 0 pads, then the fifteen symbols of `SYMBOLS` from 1. Nangia & Bowman 2018
(arXiv 1804.06028) define the language, Tay et al. 2020 (arXiv 2011.04006) its long form.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = "]"
SYMBOLS = (*"0123456789", *OPERATORS, CLOSE)
PAD = 0
VOCAB_SIZE = 1 + len(SYMBOLS)
ZERO = 1  # the token of digit 0; digit d is ZERO + d
FIRST_OPERATOR = ZERO + 10
CLOSE_TOKEN = VOCAB_SIZE - 1
TOKEN = {symbol: token for token, symbol in enumerate(SYMBOLS, start=1)}

Tokens = UInt8[np.ndarray, "length"]


def evaluate(expression: str) -> int:
    """The value, 0 to 9, of an expression in the official text form.

    MED truncates the mean of the two middle values of an even count; SM is the sum modulo 10.
    Parentheses must balance and are otherwise ignored. Raises ValueError for malformed text.
    """
    return evaluate_tokens(expression_to_tokens(expression))


def evaluate_tokens(tokens: Iterable[int]) -> int:
    """The value of an expression given as tokens. Raises ValueError if it is malformed."""
    values: list[list[int]] = [[]]  # arguments so far, of the innermost operator last
    operators: list[int] = []
    for place, token in enumerate(np.asarray(tokens).tolist(), start=1):
        if not operators and values[0]:
            raise ValueError(f"malformed expression: token {place} follows a complete expression")
        if ZERO <= token < FIRST_OPERATOR:
            values[-1].append(token - ZERO)
        elif FIRST_OPERATOR <= token < CLOSE_TOKEN:
            operators.append(token - FIRST_OPERATOR)
            values.append([])
        elif token == CLOSE_TOKEN:
            if not operators:
                raise ValueError(f"malformed expression: token {place}, ']', closes nothing")
            arguments = values.pop()
            values[-1].append(_apply(operators.pop(), arguments, place))
        else:
            raise ValueError(f"malformed expression: token {place} is {token}, not 1 to 15")
    if operators:
        raise ValueError(f"malformed expression: {len(operators)} operator(s) without ']'")
    if not values[0]:
        raise ValueError("malformed expression: it is empty")
    return values[0][0]


def _apply(operator: int, arguments: list[int], place: int) -> int:
    if not arguments:
        raise ValueError(f"malformed expression: the operator closed by token {place} has no value")
    if operator == 0:
        return min(arguments)
    if operator == 1:
        return max(arguments)
    if operator == 2:
        arguments.sort()
        middle = len(arguments) // 2
        return (arguments[middle] + arguments[(len(arguments) - 1) // 2]) // 2
    return sum(arguments) % 10


def expression_to_tokens(expression: str) -> Tokens:
    """Tokens of a text; parentheses, which must balance, are left out.

    Raises ValueError for a symbol outside the language and for unbalanced parentheses.
    """
    spaced = expression.replace("[", " [").replace("]", " ] ")
    words = spaced.replace("(", " ( ").replace(")", " ) ").split()
    depth = 0
    tokens = []
    for word in words:
        if word in TOKEN:
            tokens.append(TOKEN[word])
        elif word in "()":
            depth += 1 if word == "(" else -1
            if depth < 0:
                break
        else:
            raise ValueError(f"malformed expression: {word!r} is none of {' '.join(SYMBOLS)} ( )")
    if depth != 0:
        raise ValueError("malformed expression: its parentheses do not balance")
    return np.array(tokens, np.uint8)


def tokens_to_expression(tokens: Iterable[int]) -> str:
    """The text without parentheses; padding is left out. Raises ValueError for unknown tokens."""
    listed = [int(token) for token in tokens if token != PAD]
    unknown = [token for token in listed if not 0 < token < VOCAB_SIZE]
    if unknown:
        raise ValueError(f"token {unknown[0]} is not in the vocabulary of 0 to {VOCAB_SIZE - 1}")
    return " ".join(SYMBOLS[token - 1] for token in listed)


def binarise(tokens: Iterable[int]) -> str:
    """The text of the official files: an operator takes its arguments one by one, in nested pairs.

    `[MAX 3 9 ]` is written `( ( ( [MAX 3 ) 9 ) ] )`. Raises ValueError for a malformed expression.
    """
    tokens = list(tokens)
    evaluate_tokens(tokens)
    open_groups: list[str] = []
    for token in tokens:
        word = SYMBOLS[token - 1]
        if word in OPERATORS:
            open_groups.append(word)
            continue
        if word == CLOSE:
            word = f"( {open_groups.pop()} ] )"
        if open_groups:
            open_groups[-1] = f"( {open_groups[-1]} {word} )"
    return word
