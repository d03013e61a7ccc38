"""The mixers of the registry as subjects of the laws, a sixth of them as users compile them."""

from __future__ import annotations

import datetime
import functools
import os
import zlib
from typing import Any

from seqzoo.models import MIXERS, build
from tests.flags import USERS
from tests.laws import Subject
from tests.models.tiny import TINY

SHARE = 6
ROOM = 16  # tokens of a declared maximum: more than a row, fewer than the chunks of a stream
# Another sixth every day. SEQZOO_LAWS_DAY: a number repeats that day, all and none say it.
DAY = os.environ.get("SEQZOO_LAWS_DAY", str(datetime.date.today().toordinal()))


def as_users_compile(name: str) -> bool:
    """Whether today's programs of this subject are compiled as users have them."""
    if DAY in ("all", "none"):
        return DAY == "all"
    return zlib.crc32(name.encode()) % SHARE == int(DAY) % SHARE


def causal_form(name: str) -> bool:
    """Whether the mixer of a row of `TINY` has a causal form."""
    return MIXERS[name.split("@")[0]].causal_form


def options(name: str) -> dict[str, Any]:
    """The options of a row of `TINY`, with a maximum that a stream of chunks comes to."""
    return TINY[name] | ({"max_length": ROOM} if "max_length" in TINY[name] else {})


@functools.lru_cache(maxsize=2)  # causal and both ways; more would fill the memory
def subject(name: str, causal: bool = True) -> Subject:
    """A row of `TINY`."""
    make = functools.partial(build, name.split("@")[0], causal=causal, **options(name))
    users = as_users_compile(f"{name} {'causal' if causal else 'both ways'}")
    return Subject(make, compiler_options=USERS if users else None)
