"""The mixers of the registry as subjects of the laws, those of the day as users compile them."""

from __future__ import annotations

import functools
from typing import Any

from seqzoo.models import MIXERS, build
from tests.flags import SHARE, USERS, of_today, turn_of
from tests.laws import Subject
from tests.models.tiny import TINY

PERIOD = 6  # days between a mixer's users' programs, and between its gradients through the state
ROOM = 16  # tokens of a declared maximum: more than a row, fewer than the chunks of a stream


def causal_form(name: str) -> bool:
    """Whether the mixer of a row of `TINY` has a causal form."""
    return MIXERS[name.split("@")[0]].causal_form


def options(name: str) -> dict[str, Any]:
    """The options of a row of `TINY`, with a maximum that a stream of chunks comes to."""
    return TINY[name] | ({"max_length": ROOM} if "max_length" in TINY[name] else {})


def turn(name: str, causal: bool = True) -> tuple[int | str, int]:
    """Of a row of `TINY`, for `of_today`: when it has gradients through the state.

    That is not the day of users' programs, and one on which a mixer has its laws. A variant and a
    second direction have all laws on theirs.
    """
    base, _, variant = name.partition("@")
    if variant or causal != causal_form(name):
        return name, SHARE
    return list(MIXERS).index(base) + PERIOD // 2, PERIOD


def as_users(name: str, causal: bool = True) -> tuple[str, ...]:
    """The forms that are compiled today as users have them: rows, the next time the stream."""
    base, _, variant = name.partition("@")
    if variant or causal != causal_form(name) or not turn_of(list(MIXERS).index(base), PERIOD):
        return ()
    halves = (("rows",), ("chunks", "plain"))
    return tuple(form for i, half in enumerate(halves) if turn_of(i, 2, PERIOD) for form in half)


@functools.lru_cache(maxsize=2)  # causal and both ways; more would fill the memory
def subject(name: str, causal: bool = True) -> Subject:
    """A row of `TINY`.

    Programs have what the laws of the day ask of them (`test_mixer_laws`): gradients of the stream
    when it is their turn, gradients of a variant or of a second direction when it is its turn. As
    users compile is several times slower: mixers have a day for that of their own.
    """
    base, _, variant = name.partition("@")
    make = functools.partial(build, base, causal=causal, **options(name))
    first = not variant and causal == causal_form(name)
    of_the_day = of_today(*turn(name, causal))
    pullbacks = ("rows", "chunks") if of_the_day else ("rows",) if first else ()
    options_of = dict.fromkeys(as_users(name, causal), USERS)
    return Subject(make, compiler_options=options_of, pullbacks=pullbacks)
