import errno
import os
import stat

import pytest

from seqzoo.tasks.data import atomic
from seqzoo.tasks.data.atomic import new_folder, write_file


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "below" / ("n" * 255)  # the longest name that there is
    write_file(path, "old")
    write_file(path, b"new")
    assert path.read_text() == "new"
    mask = os.umask(0o027)
    try:
        write_file(path, "shared")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, "half")
    assert [p.read_text() for p in path.parent.iterdir()] == ["shared"]


def test_a_folder_appears_filled_and_the_first_one_stays(tmp_path):
    final = tmp_path / "deep" / "set"
    with new_folder(final) as partial:
        (partial / "a").write_text("one")
        assert not final.exists()
    with new_folder(final) as partial:
        (partial / "a").write_text("two")
    with pytest.raises(ValueError, match="row 3"), new_folder(tmp_path / "deep" / "other"):
        raise ValueError("row 3")
    assert (final / "a").read_text() == "one"
    assert list(final.parent.iterdir()) == [final]


def test_what_a_killed_process_left_is_swept_an_hour_later(tmp_path):
    old, young, others = (tmp_path / f".{name}.partial" for name in ("set.1", "set.2", "more.1"))
    for left in (old, young, others):
        left.mkdir()
    for left in (old, others):
        os.utime(left, (0, 0))
    with new_folder(tmp_path / "set"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"set", young.name, others.name}


def test_an_error_names_the_file_that_was_to_be(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def read_only(source, _):
        raise OSError(errno.EROFS, "Read-only file system", str(source))

    for name, fails in (("fsync", full), ("replace", read_only)):
        monkeypatch.setattr(os, name, fails)
        with pytest.raises(OSError, match=f"'{tmp_path / 'file'}'$"):
            write_file(tmp_path / "file", "x")
        monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
