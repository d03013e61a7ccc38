"""All laws by name, and `check_mixer`, which tries a mixer under those that concern it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from . import doors, dtypes, programs, rows, stream
from .cases import D
from .subject import Make, Subject


class Law(NamedTuple):
    """A function that raises AssertionError with what it saw; its docstring says what it expects.

    Attributes:
        check: the law.
        causal: whether it is of causal mixers alone, of those that look both ways, or (None) of
            all.
        streams: whether it is of mixers alone that carry a state, as plain modules do not.
    """

    check: Callable[[Subject], None]
    causal: bool | None = None
    streams: bool = False


# Of numbers: forms that must agree.
NUMBERS: dict[str, Law] = {
    "shapes": Law(rows.shapes_and_numbers),
    "packed": Law(rows.packed_equals_separate),
    "padding": Law(rows.padding_is_invisible),
    "rows": Law(rows.rows_are_independent),
    "parameters": Law(rows.every_parameter_matters),
    "both-ways": Law(rows.both_ways, causal=False),
    "causal": Law(rows.causal, causal=True),
    "ragged": Law(stream.ragged_one_segment, causal=True, streams=True),
    "ragged-packed": Law(stream.ragged_packed, causal=True, streams=True),
    "steps": Law(stream.steps_equal_parallel, causal=True, streams=True),
    "idle": Law(stream.padding_leaves_the_state, causal=True, streams=True),
    "gradients": Law(stream.gradients_through_the_state, causal=True, streams=True),
    "state": Law(stream.state_size, causal=True, streams=True),
}
# Of what any program may do with a mixer.
USES: dict[str, Law] = {
    "nothing": Law(doors.nothing),
    "spoilt-padding": Law(doors.anything_at_padding),
    "idle-training": Law(doors.padding_teaches_nothing),
    "wrong-inputs": Law(doors.wrong_inputs),
    "past-the-end": Law(doors.past_the_end),
    "donation": Law(doors.states_can_be_donated, causal=True, streams=True),
    "copies": Law(doors.copies),
    "closure": Law(doors.evaluation_writes_nothing),
    "dtypes": Law(dtypes.outputs_and_states),
    "parameter-dtypes": Law(dtypes.parameters_of_any_width),
    "float64": Law(dtypes.nothing_narrow_in_float64),
    "compiled-once": Law(programs.compiled_once),
    "mesh": Law(programs.explicit_mesh),
    "derivatives": Law(programs.derivatives),
    "export": Law(programs.exported),
}
LAWS = NUMBERS | USES


def laws_of(causal: bool, streams: bool = True, among: Mapping[str, Law] = LAWS) -> list[str]:
    """The names of the laws, `among` some, for mixers that are causal or look both ways.

    `streams`: whether those count that need a state.
    """
    return [
        name
        for name, law in among.items()
        if law.causal in (None, causal) and (streams or not law.streams)
    ]


class Result(NamedTuple):
    """What one law found."""

    law: str
    kept: bool
    expected: str
    seen: str


class Report(NamedTuple):
    """What all laws found about one mixer; as text, a line for each."""

    mixer: str
    results: tuple[Result, ...]

    @property
    def broken(self) -> tuple[Result, ...]:
        """The laws that it does not keep."""
        return tuple(result for result in self.results if not result.kept)

    def __str__(self) -> str:
        kept = len(self.results) - len(self.broken)
        lines = [f"{self.mixer} keeps {kept} of {len(self.results)} laws"]
        for law, fine, expected, seen in self.results:
            lines += [f"{'kept  ' if fine else 'BROKEN'} {law}: {expected}", f"       {seen}"]
        return "\n".join(lines)


def check_mixer(
    make: Make,
    *,
    d_model: int = D,
    laws: Iterable[str] | None = None,
    ratio: float = 1e-5,
) -> Report:
    """Tries a mixer under the laws of `seqzoo.models.mixer`.

        report = check_mixer(functools.partial(LRU, d_state=6))
        assert not report.broken, report

    Args:
        make: called as make(d_model, rngs=rngs), as the class of a mixer is.
        d_model: the width to build it with; small ones are compiled and run faster.
        laws: names of `LAWS`; by default all that concern it.
        ratio: the largest relative rms error between two forms of the same float32 numbers.

    Raises:
        ValueError: for a name that is no law, or no law of such a mixer.
    """
    subject = Subject(make, d_model, ratio=ratio)
    known = laws_of(subject.mixer.causal, subject.streams)
    chosen = known if laws is None else list(laws)
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no law {name!r} of this mixer{hint} (known: {', '.join(known)})")
    results = tuple(tried(name, subject) for name in chosen)
    return Report(type(subject.mixer).__name__, results)


def tried(name: str, subject: Subject) -> Result:
    """What the law `name` finds of a subject."""
    check = LAWS[name].check
    expected = (check.__doc__ or name).strip().splitlines()[0]
    subject.errors.clear()
    try:
        check(subject)
    except AssertionError as seen:
        return Result(name, False, expected, str(seen))
    except Exception as error:  # a law reports whatever a stranger's mixer raises
        return Result(name, False, expected, f"{type(error).__name__}: {error}".splitlines()[0])
    largest = f"largest relative rms error {max(subject.errors):.1e}" if subject.errors else "yes"
    return Result(name, True, expected, largest)
