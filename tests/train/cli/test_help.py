"""The command line explains itself: help, lists, completion, and the page of an error."""

import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tyro._docstrings import get_field_docstring

from seqzoo import tasks
from seqzoo.models import help as pages
from seqzoo.models.config import config_of
from seqzoo.models.registry import MIXERS, PRESETS, build
from seqzoo.tasks.pretraining import OBJECTIVES
from seqzoo.train.cli import completion, errors
from seqzoo.train.cli.command import VERBS, dispatch
from seqzoo.train.cli.flags import _fields, explain, kind_of
from tests.fuzz.cases import right_kinds

ROOT = Path(__file__).parents[3]


def silent(kind):
    """The flags of a dataclass of which help, which tyro prints, would say nothing."""
    explain(kind)
    for field, hint, name in _fields(kind, ""):
        if dataclasses.is_dataclass(hint):
            yield from silent(hint)
        elif not get_field_docstring(kind, field.name, ()):
            yield f"{kind.__module__}.{kind.__name__}: {name}"


@pytest.mark.of_the_day("a sentence for flags", 2)
def test_every_flag_of_every_verb_and_mixer_has_a_sentence():
    kinds = [kind for found in right_kinds().values() for kind in found]
    kinds += map(config_of, MIXERS.values())
    assert {name for kind in kinds for name in silent(kind)} == set()


@pytest.mark.of_the_day("flags of tasks", 3)
def test_every_flag_of_every_task_has_a_sentence():
    kinds = [*tasks.TASKS.values(), *(tasks.kind(f"{name}:parity") for name in OBJECTIVES)]
    assert {name for kind in kinds for name in silent(kind)} == set()


def test_what_is_said_of_options_is_said_of_some():
    said = set()
    for kind in MIXERS.values():
        for field in dataclasses.fields(config_of(kind)):
            own = f"{kind.__name__}.{field.name}"
            said.add(own if own in pages.OPTIONS else field.name)
    assert pages.OPTIONS.keys() - said == set()


def test_help_of_train_says_how_to_see_the_flags_of_others(capsys):
    with pytest.raises(SystemExit):
        dispatch(["train", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "depends on the task and the model" in said
    assert "seqzoo train --task mqar --model lru --help" in said


def listed(capsys, *argv):
    assert dispatch(["list", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_list_is_filtered_and_is_data(capsys):
    everything = listed(capsys)
    assert {row["name"] for row in everything} >= {*MIXERS, *PRESETS, *tasks.names()}
    for argv, some, none in (
        (["--kind", "presets"], "llama", "lru"),
        (["--text", "RECALL"], "mqar", "parity"),
        (["recall"], "mqar", "parity"),
        (["--needs", "download"], "enwik8", "python_source"),
        (["--needs", "package"], "sdigits", "smnist"),
        (["--causal"], "lru", "fnet"),
        (["--causal"], "llama", "bert"),
        (["--both-ways"], "fnet", "gru"),
        (["--packs"], "s4d", "linformer"),
        (["--state", "constant"], "mamba", "attention"),
        (["--state", "window"], "longformer", "mega"),
    ):
        rows = listed(capsys, *argv)
        names = {row["name"] for row in rows}
        assert some in names, argv
        assert none not in names, argv
        assert all(row in everything for row in rows)
    assert dispatch(["list", "--needs", "download"]) == 0
    assert "[download]" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["attention", "bigbird", "mega", "longformer", "lru"])
def test_the_list_knows_a_mixer_s_state_without_building_it(name):
    import jax
    from flax import nnx

    made = nnx.eval_shape(lambda: build(name, 32, rngs=nnx.Rngs(jax.random.key(0))))
    assert made.state_growth == MIXERS[name].state_growth


LINES = {
    "seqzoo ev": {"evaluate"},
    "seqzoo train --task mq": {"mqar", "mqar_zoology", "mqar_based"},
    "seqzoo train --task mqar --data.num": {"--data.num-pairs"},
    "seqzoo train --model lru --mixer.r": {"--mixer.r-min", "--mixer.r-max"},
    "seqzoo train --backbone.norm r": {"rms"},
    "seqzoo data ver": {"verify"},
}
BASH = r"""COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _seqzoo
echo "${{COMPREPLY[@]}}" """
FISH = "complete -C {line!r} | string replace -r '\\t.*' '' | string join ' '"
CALLS = {"bash": BASH, "fish": FISH}


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_shell_completes(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    calls = [CALLS[shell].format(line=line) for line in LINES] if shell in CALLS else []
    text = "\n".join([completion.script(shell), *calls])
    command = [shell, "-c", text] if calls else [shell, "-fn", "-c", text]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    if calls:
        assert [set(line.split()) for line in done.stdout.splitlines()] == [*LINES.values()]


def test_every_verb_can_be_asked_for_its_flags():
    import seqzoo.train.cli.new as new

    assert completion.tables()["flags"].keys() == VERBS.keys()
    assert dataclasses.is_dataclass(kind_of(new.main, []))


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_pages_of_errors_are_there():
    for module, address in {**errors.PAGES, "seqzoo": errors.CODES}.items():
        assert importlib.util.find_spec(module), module
        page, _, anchor = address.partition("#")
        assert (ROOT / page).exists(), address
        assert not anchor or anchor in anchors(ROOT / page), address


@pytest.mark.parametrize(
    ("argv", "ends"),
    [
        (["train", "--task", "rows", "--model", "lru"], "without-code)\n"),
        (["train", "--task", "mqar", "--model", "lru", "--mesh.data", "3"], "docs/parallel.md)\n"),
        (["train", "--task", "mqar", "--model", "lru", "--steps", "0"], "at least 1; got 0\n"),
    ],
    ids=["rows", "mesh", "none"],
)
def test_an_error_ends_with_its_page(capsys, tmp_path, argv, ends):
    assert dispatch([*argv, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.endswith(ends)
