"""What a user may call a place, and what is refused before anything is touched."""

import pytest

from seqzoo.tasks.data.places import place
from seqzoo.train.folder.files import run_path


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "a[b]").mkdir()
    (tmp_path / "link").symlink_to("home")
    (tmp_path / "round").symlink_to("a[b]")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("run", "run"),
        ("with space/ quo'te\"", "with space/ quo'te\""),
        ("ünï/日本😀", "ünï/日本😀"),
        ("~/run", "HERE/home/run"),
        ("./~x", "~x"),
        ("link/run", "link/run"),
        ("round/run", "round/run"),
        ("home/../run", "home/../run"),
        ("file://HERE/r%20n", "HERE/r n"),
        ("file:HERE/run", "HERE/run"),
        ("file://localhost/x", "/x"),
        ("n" * 255, "n" * 255),
        ("c:/x", "c:/x"),
        ("-x=y;$z", "-x=y;$z"),
    ],
    ids=lambda text: text[:20],
)
def test_a_place_is_the_path_that_its_text_names(here, text, path):
    found = run_path(text.replace("HERE", str(here)))
    assert str(found) == path.replace("HERE", str(here))
    assert run_path(found) == found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has a name"),
        ("   ", "has a name"),
        ("~nobody-here/x", "write the path in full"),
        ("dangling", "a link to nothing"),
        ("dangling/x", "a link to nothing"),
        ("loop/x", "a link to nothing"),
        ("file/x", "is a file, so nothing lies below"),
        ("n" * 256, "255 bytes for a name"),
        ("é" * 128, "255 bytes for a name"),
        ("/".join(["d" * 100] * 40), "bytes for a name, and"),
        ("new\nline", "control characters"),
        ("nul\0", "control characters"),
        ("file:///x%0a", "control characters"),
        ("not\udcff", "control characters"),
        ("file://elsewhere/x", "another host"),
        ("http://x/y", "mount"),
        ("S3://x/y", "mount"),
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_what_names_no_place_is_refused_in_one_line(here, text, says):
    for read in (place, run_path):
        with pytest.raises(ValueError, match=says) as refusal:
            read(text)
        assert str(refusal.value).isprintable()
        assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("text", ["lr[1]", "a[b]/x", "st*r", "wh?t", "back\\slash"])
def test_a_run_has_no_name_that_checkpoints_take_for_a_pattern(here, text, monkeypatch):
    assert str(place(text)) == text  # for a page, or data, it is a name like others
    with pytest.raises(ValueError, match="a link to this folder"):
        run_path(text)
    monkeypatch.chdir("a[b]")
    with pytest.raises(ValueError, match="a link to this folder"):
        run_path("x")
