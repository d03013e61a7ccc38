"""`seqzoo completion SHELL`: a script that completes verbs, flags, names and values.

    seqzoo completion bash > ~/.local/share/bash-completion/completions/seqzoo
    seqzoo completion zsh > ~/.seqzoo.zsh            # and `source ~/.seqzoo.zsh` in ~/.zshrc
    seqzoo completion fish > ~/.config/fish/completions/seqzoo.fish

The script holds what the parsers know, so that a key costs no start of Python; make it anew after
an upgrade. Flags of tasks and models follow the --task and the --model that stand on the line.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import shlex
import typing
from collections.abc import Iterable, Mapping, Sequence

from seqzoo import tasks
from seqzoo.models.errors import unknown
from seqzoo.models.registry import MIXERS, PRESETS
from seqzoo.train.cli.command import VERBS
from seqzoo.train.cli.data import ACTIONS
from seqzoo.train.cli.experiment import mixer_options
from seqzoo.train.cli.flags import Flag, flags_of, kind_of, parse, read
from seqzoo.train.cli.new import KINDS
from seqzoo.train.published import PUBLISHED

USAGE = "seqzoo completion bash, zsh or fish"
SHELLS = ("bash", "zsh", "fish")
Table = Mapping[str, Iterable[str]]  # a word, and what may follow it
FIRST = {"completion": SHELLS, "data": ACTIONS, "new": tuple(KINDS)}  # words behind a verb
# Words after which a verb has other flags than after none.
ALSO = {"plan": (("--all",), ("--forms",)), "data": tuple((action,) for action in ACTIONS)}


def main(argv: Sequence[str]) -> int:
    """`seqzoo completion SHELL`."""
    line = read(argv)
    words, line = line.rest, line._replace(rest=())
    parse(dataclasses.make_dataclass("Completion", []), line, USAGE, __doc__ or "")
    if len(words) != 1:
        raise ValueError(f"say for which shell: {USAGE}")
    if words[0] not in SHELLS:
        raise unknown("shell", words[0], SHELLS)
    print(script(words[0]))
    return 0


def script(shell: str) -> str:
    """The script for a shell: its tables, then the file beside this one that reads them."""
    own = "fish" if shell == "fish" else "bash"
    made = [_RENDERED[own](name, table) for name, table in tables().items()]
    template = (importlib.resources.files(__package__) / f"{own}.txt").read_text()
    head = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    return "\n".join([*head, *made, template.rstrip()])


def tables() -> dict[str, Table]:
    """What the script knows: name of a table -> word -> what may follow."""
    flags = {verb: _flags(verb) for verb in VERBS}
    names = {
        "--task": tasks.names(),
        "--model": (*MIXERS, *PRESETS),
        "--models": (*MIXERS, *PRESETS),
        "--published": tuple(PUBLISHED),
    }
    own = [flag for found in flags.values() for flag in found]
    choices = {flag.name: _choices(flag.type) for flag in own if _choices(flag.type)}
    return {
        "verbs": {"": VERBS},
        "words": FIRST,
        "flags": {verb: sorted({flag.name for flag in found}) for verb, found in flags.items()},
        "data": {name: _prefixed("data", tasks.kind(name)) for name in tasks.names()},
        "mixer": {
            name: _prefixed("mixer", type(mixer_options(name, {}))) for name in (*MIXERS, *PRESETS)
        },
        "values": names | choices,
    }


def _flags(verb: str) -> list[Flag]:
    """Those of a verb, whatever task and model are."""
    module = importlib.import_module(f"seqzoo.train.cli.{verb}")
    words = ALSO.get(verb, ()) if verb == "data" else ((), *ALSO.get(verb, ()))
    found = [flag for given in words for flag in flags_of(kind_of(module.main, given))]
    return [
        flag for flag in found if not (flag.former or flag.name.startswith(("--data.", "--mixer.")))
    ]


def _prefixed(part: str, kind: type) -> list[str]:
    return [flag.name for flag in flags_of(kind, f"{part}.") if not flag.former]


def _choices(kind: object) -> tuple[str, ...]:
    return (
        tuple(map(str, typing.get_args(kind))) if typing.get_origin(kind) is typing.Literal else ()
    )


def _cases(name: str, table: Table) -> str:
    """A function of bash and zsh: the words that may follow its argument."""
    lines = [f"    {shlex.quote(word)}) echo '{' '.join(more)}' ;;" for word, more in table.items()]
    return "\n".join([f"_seqzoo_{name}() {{", '  case "$1" in', *lines, "  esac", "}"])


def _switch(name: str, table: Table) -> str:
    """The same in fish, a word a line."""
    lines = [
        f"        case {shlex.quote(word)}\n            string split ' ' -- '{' '.join(more)}'"
        for word, more in table.items()
    ]
    return "\n".join([f"function _seqzoo_{name}", "    switch $argv[1]", *lines, "    end", "end"])


_RENDERED = {"bash": _cases, "fish": _switch}
