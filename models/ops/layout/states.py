"""What streams carry, by names under which `jax.export` keeps them."""

from __future__ import annotations

from typing import TypeVar

import jax.export

T = TypeVar("T", bound=tuple)


def stream_state(state: type[T]) -> type[T]:
    """A decorator for the NamedTuples of states: programs that take or give one can be serialised.

    Whoever reads such a program back has imported `seqzoo.models` before.
    """
    return jax.export.register_namedtuple_serialization(
        state, serialized_name=f"seqzoo.{state.__name__}"
    )
