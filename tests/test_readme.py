"""What the README shows works, and it lists what there is."""

import importlib
import pathlib
import re
import shlex
import textwrap

import pytest
from safetensors.numpy import load_file

from seqzoo import tasks
from seqzoo.models import names, presets
from seqzoo.train.cli import flags
from tests.helpers import assert_close

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [README, *(p.read_text() for p in sorted((ROOT / "docs").rglob("*.md")))]
COMMANDS = {
    shlex.join(shlex.split(text.replace("\\\n", ""), comments=True)): None
    for page in PAGES
    for text in re.findall(r"^    seqzoo ((?:.*\\\n)*.*)$", page, re.MULTILINE)
}
MINE = re.search(r"^    # mine.py\n((?:    .*\n|\n)*)", (ROOT / "docs/extend.md").read_text(), re.M)


def test_every_mixer_preset_and_task_is_listed():
    for page, listed in (("mixers", (*names(), *presets())), ("tasks", tasks.names())):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        for name in listed:
            assert f"`{name}`" in text, f"docs/{page}.md does not list {name}"


GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs/guides").glob("*.md"))]
RUN = [*GUIDES, ROOT / "docs/reuse.md", ROOT / "docs/adding.md"]
OFTEN = ("README", "stream", "state")  # the first every day; of the others one


def examples():
    """The code of each page, once where two pages show the same."""
    found = {}
    for path in RUN:
        for n, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)):
            found.setdefault(code, (path.stem, n))
    for code, (page, n) in found.items():
        marks = []
        if page not in OFTEN and "nnx.Optimizer" not in code:
            marks = [pytest.mark.slow]
        elif page != "README":
            marks = [pytest.mark.of_the_day(f"{page}-{n}", 3)]
        yield pytest.param(code, marks=marks, id=f"{page}-{n}")


@pytest.mark.parametrize("code", list(examples()))
def test_the_examples_run(code):
    if "equinox" in code:
        pytest.importorskip("equinox")
    scope = {}
    exec(code, scope)
    if "y2" in scope:
        import jax.numpy as jnp

        streamed = jnp.concatenate([scope["y1"], scope["y2"]], 1)
        real = scope["segments"] > 0
        assert_close(streamed[real], scope["y"][real], ratio=1e-5)


@pytest.mark.slow
def test_the_examples_of_published_weights_run(tmp_path):
    """With small weights for the large ones that the page names."""
    import jax.numpy as jnp

    theirs, golden, page = (
        ROOT / "tests/golden/hf/mamba",
        ROOT / "tests/golden",
        (ROOT / "docs/pretrained.md").read_text(),
    )
    first, adapters = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    here = {
        "~/mamba-130m-hf": theirs,
        "~/llama-lora": golden / "peft/llama_lora",
        "~/llama": golden / "hf/llama",
        "~/": f"{tmp_path}/",
    }
    scope = {"tokens": jnp.arange(14).reshape(2, 7)}
    for code in (first, adapters):
        for name, place in here.items():
            code = code.replace(name, str(place))
        exec(code, scope)
        scope["other"] = scope["model"]
    again, first = (load_file(f / "model.safetensors") for f in (tmp_path / "mamba-again", theirs))
    assert again.keys() == first.keys()
    assert all((again[name] == first[name]).all() for name in first)
    assert (tmp_path / "change" / "adapter_config.json").exists()


def test_the_commands_of_the_readme_parse():
    from seqzoo.train.cli.command import dispatch

    text = "".join(path.read_text() for path in GUIDES)
    verbs = set(re.findall(r"^    seqzoo (\S+)", text, re.MULTILINE))
    assert verbs >= {"list", "train", "show", "evaluate", "compare", "report"}
    for verb in verbs:
        try:
            code = dispatch([verb, "--help"])
        except SystemExit as done:  # tyro prints and leaves
            code = done.code
        assert not code, verb


class Parsed(BaseException):
    """Raised in place of the work of a command."""


def unmatched(out, models, metric, target):
    """Models as they are, in place of those of one size."""
    from seqzoo.train.cost.match import Matched
    from seqzoo.train.cost.matching import Matching

    return Matching(metric, {label: Matched(e, 1.0, 1.0) for label, e in models.items()}, {})


@pytest.mark.of_the_day
@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("report")])
def test_every_command_shown_is_understood(command, monkeypatch, tmp_path):
    from seqzoo.train.cli import command as cli
    from seqzoo.train.compare import alike
    from seqzoo.train.compare import comparison as compare

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(textwrap.dedent(MINE[1]))
    verb = importlib.import_module(f"seqzoo.train.cli.{command.split()[0]}")

    def parse(*args):
        flags.parse(*args)
        raise Parsed

    def check(experiments, out, *, seeds, **_):
        alike.check_models(experiments, seeds)
        raise Parsed

    if command.startswith("compare"):
        monkeypatch.setattr(compare, "compare", check)
        monkeypatch.setattr(verb, "examined", lambda *_: {})  # compiles
        monkeypatch.setattr(verb, "matching", unmatched)  # turns knobs for long
    else:
        monkeypatch.setattr(verb, "parse", parse)
    with pytest.raises(Parsed):
        cli.dispatch(shlex.split(command))


def test_the_real_data_runs_are_shown_in_full():
    for task in ("sdigits", "python_source"):
        command = next(c for c in COMMANDS if c.startswith(f"compare --task {task} --models "))
        assert "--optim.peak-lr" in command  # one command on all pages, with every option
