"""The mixers of the registry as subjects of the laws, those of the day as users compile them."""

from __future__ import annotations

import functools
from typing import Any

from seqzoo.models import MIXERS, build
from tests.flags import USERS, of_today, turn_of
from tests.laws import Subject
from tests.models.tiny import TINY

ROOM = 16  # tokens of a declared maximum: more than a row, fewer than the chunks of a stream


def causal_form(name: str) -> bool:
    """Whether the mixer of a row of `TINY` has a causal form."""
    return MIXERS[name.split("@")[0]].causal_form


def options(name: str) -> dict[str, Any]:
    """The options of a row of `TINY`, with a maximum that a stream of chunks comes to."""
    return TINY[name] | ({"max_length": ROOM} if "max_length" in TINY[name] else {})


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
    users = first and turn_of(list(MIXERS).index(base))
    pullbacks = ("rows", "chunks") if of_today(name) else ("rows",) if first else ()
    return Subject(make, compiler_options=USERS if users else None, pullbacks=pullbacks)
