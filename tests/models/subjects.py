"""The mixers of the registry as subjects of the laws, a sixth of them as users compile them."""

from __future__ import annotations

import datetime
import functools
import os
import zlib

from seqzoo.models import MIXERS, build
from tests.laws import Subject
from tests.models.tiny import TINY

# XLA's own values of the flags that tests/conftest.py lowers, so that compilation is fast.
USERS = {
    "xla_backend_optimization_level": 3,
    "xla_llvm_disable_expensive_passes": False,
    "xla_cpu_parallel_codegen_split_count": 32,
    "xla_cpu_use_fusion_emitters": True,
}
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
    return MIXERS[name.split("@")[0]].module.causal_form


@functools.lru_cache(maxsize=2)  # causal and both ways; more would fill the memory
def subject(name: str, causal: bool = True) -> Subject:
    """A row of `TINY`."""
    options = TINY[name] | ({"max_length": ROOM} if "max_length" in TINY[name] else {})
    make = functools.partial(build, name.split("@")[0], causal=causal, **options)
    users = as_users_compile(f"{name} {'causal' if causal else 'both ways'}")
    return Subject(make, compiler_options=USERS if users else None)
