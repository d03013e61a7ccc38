"""Code by its address: found without being run, digested with what it imports, named in errors."""

import sys

import pytest

from seqzoo.models.foreign import address

TRAP = "raise SystemExit('was run')\n"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("_objects", "_names", "_sources", "_places"):
        monkeypatch.setattr(address, name, {})
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_finding_runs_nothing(here):
    (here / "trap.py").write_text(TRAP + "class A: ...\n")
    (here / "pack").mkdir()
    (here / "pack" / "__init__.py").write_text(TRAP)
    (here / "pack" / "inner.py").write_text(TRAP)
    assert address.find("trap.py:A").file == here / "trap.py"
    assert address.find("trap:A").digest == address.find("trap.py:A").digest
    assert set(address.find("pack.inner:A").texts) == {"pack/__init__.py", "pack/inner.py"}


def test_a_file_and_a_module_are_loaded(here):
    (here / "one.py").write_text("from beside import B\nclass A(B): ...\n")
    (here / "beside.py").write_text("class B: ...\n")
    (here / "pack").mkdir()
    (here / "pack" / "__init__.py").write_text("")
    (here / "pack" / "inner.py").write_text("class A: ...\n")
    a = address.load("one.py:A")
    assert (a.__mro__[1].__name__, address.name_of(a)) == ("B", "one.py:A")
    assert address.load("pack.inner:A").__module__ == "pack.inner"
    assert address.load("one.py:A") is a


def test_two_files_of_one_name_are_two(here):
    for folder in ("x", "y"):
        (here / folder).mkdir()
        (here / folder / "same.py").write_text(f"class A: where = {folder!r}\n")
    assert [address.load(f"{f}/same.py:A").where for f in "xy"] == ["x", "y"]
    (here / "json.py").write_text("class A: where = 'mine'\n")
    assert address.load("json.py:A").where == "mine"
    import json

    assert json.dumps


def test_the_digest_is_of_what_is_imported_from_beside_too(here):
    (here / "one.py").write_text("import os\nfrom pack.inner import B\nclass A: ...\n")
    (here / "pack").mkdir()
    (here / "pack" / "__init__.py").write_text("from . import other\n")
    (here / "pack" / "inner.py").write_text("from .other import C as B\n")
    (here / "pack" / "other.py").write_text("class C: ...\n")
    (here / "stranger.py").write_text("")
    before = address.find("one.py:A")
    names = {"one.py", *(f"pack/{n}.py" for n in ("__init__", "inner", "other"))}
    assert set(before.texts) == names
    for name in names:
        text = (here / name).read_text()
        (here / name).write_text(text + "# other\n")
        assert address.find("one.py:A").digest != before.digest, name
        (here / name).write_text(text)
    (here / "stranger.py").write_text("# other\n")
    assert address.find("one.py:A").digest == before.digest


@pytest.mark.parametrize(
    ("text", "named", "words"),
    [
        ("class EMA: ...", "mine.py:EMAA", ["EMAA", "did you mean EMA?", "mine.py"]),
        ("class EMA: ...", "mien.py:EMA", ["mien.py", "did you mean mine.py?"]),
        ("class EMA: ...", "gone/mine.py:EMA", ["there is no folder", "gone"]),
        ("class EMA: ...", "gone.mine:EMA", ["no module gone.mine", "looked in", "sys.path"]),
        ("class EMA: ...", "mine.py:", ["no address", "path/to/file.py:Name"]),
        ("x = 1\n1 / 0\n", "mine.py:EMA", ["mine.py:2", "ZeroDivisionError: division by zero"]),
        ("import gone_too\n", "mine.py:EMA", ["ModuleNotFoundError", "gone_too"]),
        ("def f(:\n", "mine.py:EMA", ["SyntaxError"]),
        (TRAP, "mine:EMA", ["SystemExit: was run"]),
    ],
)
def test_an_address_that_leads_nowhere_is_one_sentence(here, text, named, words):
    (here / "mine.py").write_text(text)
    with pytest.raises(ValueError, match="mine") as caught:
        address.load(named)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value
    assert named == "mine.py:EMAA" or "mine" not in sys.modules


def test_what_packages_bring_is_known_by_name(here, monkeypatch):
    info = here / "brought-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[seqzoo.mixers]\nbrought_ema = brought:EMA\n")
    monkeypatch.syspath_prepend(here)
    address.entry_points.cache_clear()
    assert address.entry_points(address.MIXER_GROUP) == {"brought_ema": "brought:EMA"}
    address.entry_points.cache_clear()
