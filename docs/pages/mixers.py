"""The page of a mixer: its docstring, its picture, its options, its numbers, what holds it."""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import jax
from flax import nnx

from pages.flow import flow
from pages.picture import picture
from pages.tables import DOCS, Table, cells, markdown, rows_of
from seqzoo.models import MIXERS, PRESETS, Mixer, config_of
from seqzoo.models.construct import parameters_of
from seqzoo.testing import LAWS, laws_of

ROOT = DOCS.parent
WIDTH = 64  # D of the numbers and of the picture
LENGTHS = (256, 1024, 4096)
# Pages whose tables have a row a mixer.
MEASURED = ("results.md", "speed.md", "plans.md", "plans_pod.md", "plans_long.md")
MORE = ("matching.md", "parallel.md")
DIFFERS = re.compile(r"\b(ours|differs?|differently|left out|no counterpart)\b", re.IGNORECASE)


def pages() -> dict[str, Callable[[], str]]:
    """Address -> what makes the text of each mixer's page."""
    return {f"mixers/{name}.md": functools.partial(page, name, MIXERS[name]) for name in MIXERS}


def page(name: str, mixer: type[Mixer]) -> str:
    """The page of one mixer."""
    body, _, rest = mixer.__doc__.partition("\n\nArgs:\n")
    arguments, _, example = rest.partition("Example:\n")
    _, what, source, state = _row(name)
    body = body.replace("\n    ", "\n\n    ", 1) if "\n\n    " not in body else body
    parts = [
        f"# {name}",
        f"**{what[0].upper()}{what[1:]}** ({source}). State of one sequence: {state}.",
        _example(mixer, example),
        "## What it computes",
        body,
        *_differences(body),
        "## The block",
        f'<figure markdown="0">{picture(name, flow(mixer, WIDTH))}</figure>',
        "As traced with default options and D = 64. Shaded: primitives of `seqzoo.models.ops`, "
        "with their arguments and, in italics, the parameters that go into these directly.",
        "## Options",
        _options(arguments),
        "## Size",
        _size(mixer),
        *_presets(name),
        *_measured(name),
        "## What holds it",
        _held(name, mixer),
    ]
    return "\n\n".join(parts) + "\n"


def _example(mixer: type[Mixer], lines: str) -> str:
    imports = "import jax.numpy as jnp\nfrom flax import nnx\n"
    imports += f"from seqzoo.models import {mixer.__name__}\n"
    return f"```python\n{imports}\n{textwrap.dedent(lines).rstrip()}\n```"


def _row(name: str) -> list[str]:
    """Its row in docs/mixers.md."""
    for line in (DOCS / "mixers.md").read_text().splitlines():
        if line.startswith(f"| `{name}` |"):
            return cells(line)
    raise ValueError(f"docs/mixers.md has no row of {name}; add one")


def _differences(body: str) -> list[str]:
    """The sentences of a docstring that say what differs from the paper."""
    prose = "\n\n".join(part for part in body.split("\n\n") if not part.startswith("    "))
    found = [s for s in re.split(r"(?<=[.])\s+(?=[A-Zα-ω|`])", prose) if DIFFERS.search(s)]
    if not found:
        return []
    return ["### What differs from the paper", " ".join(found)]


def _options(arguments: str) -> str:
    """The table of a constructor's arguments, and what its docstring says of them."""
    lines, _, told = arguments.partition("\n\n")
    rows = []
    for line in lines.splitlines():
        field, _, says = line.strip().partition("  # ")
        name, _, kind = field.partition(": ")
        kind, _, default = kind.partition(" = ")
        if name != "rngs":
            rows.append([f"`{name}`", f"`{kind}`", f"`{default}`" if default else "", says])
    told = told.strip()
    return markdown(["option", "type", "default", "what"], rows) + (f"\n{told}" if told else "")


def _size(mixer: type[Mixer]) -> str:
    """Parameters, and the state after so many tokens, of default options."""
    room = "max_length" in parameters_of(mixer)

    def made(length: int) -> Mixer:
        options = mixer.longer(config_of(mixer)().options(), length) if room else {}
        return nnx.eval_shape(lambda: mixer(WIDTH, rngs=nnx.Rngs(0), **options))

    every = [made(length) for length in (LENGTHS if room else LENGTHS[-1:])]
    built = every[-1]
    counted = sum(x.size for x in jax.tree.leaves(nnx.state(built, nnx.Param)))
    both = "natively" if mixer.looks_both_ways else "as a forward and a backward copy"
    lines = [
        f"Default options at D = {WIDTH}" + (f", room for {LENGTHS[-1]:,} tokens" * room) + ":",
        f"- parameters: {counted:,}",
        f"- packed rows: {'yes' if built.packing == 'native' else 'no, one segment a row'}",
        f"- looks both ways with `causal=False`: {both}",
    ]
    if mixer.causal_form:
        sizes = [f"{one.state_size():,}" for one in every]
        grows = len(set(sizes)) > 1
        of = [f"{size} ({length:,})" for size, length in zip(sizes, LENGTHS, strict=False)]
        said = ", ".join(of) if grows else sizes[0]
        growth = f"{built.state_growth}{' in the room' if grows else ''}"
        lines.append(f"- state, elements{' (for tokens)' * grows}: {said}; growth: {growth}")
    return lines[0] + "\n\n" + "\n".join(lines[1:])


def _presets(name: str) -> list[str]:
    used = [f"`{preset}`" for preset, of in PRESETS.items() if name in of.pattern]
    return [f"Presets with it: {', '.join(used)}."] if used else []


def _measured(name: str) -> list[str]:
    found = [_shown(table) for table in rows_of(name, MEASURED)]
    more = [f"[{t.heading}](../{t.page}#{t.anchor})" for t in rows_of(name, MORE)]
    if not found and not more:
        return []
    last = [f"Also: {', '.join(more)}."] if more else []
    return ["## Measured and planned", *found, *last]


def _shown(table: Table) -> str:
    anchor = f"#{table.anchor}" if table.anchor else ""
    header = [cell or " " for cell in table.header]
    return f"[{table.heading}](../{table.page}{anchor})\n\n" + markdown(header, table.rows)


def _held(name: str, mixer: type[Mixer]) -> str:
    """The laws that it is tried under, and the tests that name it."""
    laws = [
        [f"`{law}`", (LAWS[law].check.__doc__ or "").splitlines()[0]]
        for law in laws_of(mixer.causal_form)
    ]
    tests = "\n".join(f"- [`{path}`](../../{path})" for path in _tests(name, mixer))
    return (
        f"`seqzoo.testing.check_mixer({mixer.__name__})` tries it under these "
        f"{len(laws)} laws, and `make test` does ([how](../design.md#the-laws)).\n\n"
        f'??? note "The laws"\n\n{_indented(markdown(["law", "what it says"], laws))}\n'
        f"Its code: [`{_code(mixer)}`](../../{_code(mixer)}). Tests that name it:\n\n{tests}"
    )


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


def _code(mixer: type[Mixer]) -> str:
    return mixer.__module__.removeprefix("seqzoo.").replace(".", "/") + ".py"


def _tests(name: str, mixer: type[Mixer]) -> list[str]:
    """Test modules in which a mixer's class or name stands."""
    stands = re.compile(rf"\b{mixer.__name__}\b|[\"']{name}[\"'@]")
    found = [
        path.relative_to(ROOT).as_posix()
        for top in ("tests/models", "tests/references")
        for path in sorted((ROOT / top).rglob("*.py"))
        if stands.search(_text(path))
    ]
    return found or ["tests/models/test_mixer_laws.py"]


@functools.cache
def _text(path: Path) -> str:
    return path.read_text()
