import os
import tarfile

import pytest

from seqzoo.tasks.data.archives import unpack
from seqzoo.tasks.data.folders import check_sum, per_file
from tests.tasks import published

GOOD = {"a/b.txt": b"one", "c.txt": b"two"}


def member(name, **attributes):
    info = tarfile.TarInfo(name)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info


def test_an_archive_is_unpacked_once_and_whole(tmp_path):
    path = published.tar(tmp_path / "x.tar.gz", GOOD)
    into = unpack(path, tmp_path / "x")
    assert (into / "a/b.txt").read_bytes() == b"one"
    path.write_bytes(b"")
    assert unpack(path, into) == into
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "x.tar.gz"]


@pytest.mark.parametrize(
    "evil",
    [
        member("../out.txt"),
        member("a/../../out.txt"),
        member("/elsewhere/out.txt"),
        member("link", type=tarfile.SYMTYPE, linkname="/etc"),
        member("hard", type=tarfile.LNKTYPE, linkname="../../out.txt"),
        member("pipe", type=tarfile.FIFOTYPE),
    ],
)
def test_no_member_leaves_its_folder(tmp_path, evil):
    path = published.tar(tmp_path / "in" / "x.tar.gz", GOOD, extra=[evil])
    with pytest.raises(ValueError, match=r"leads out of the folder; nothing was unpacked"):
        unpack(path, tmp_path / "in" / "x")
    assert [p.name for p in tmp_path.rglob("*")] == ["in", "x.tar.gz"]


@pytest.mark.parametrize("cut", [0, 20, -30])
def test_a_damaged_archive_leaves_nothing(tmp_path, cut):
    path = published.tar(tmp_path / "x.tar.gz", {"a": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"x.tar.gz"):
        unpack(path, tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["x.tar.gz"]


def test_a_checksum_names_the_file(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    check_sum(tmp_path / "f", "md5", "900150983cd24fb0d6963f7d28e17f72")
    with pytest.raises(ValueError, match=r"f has the md5 sum 900.*fetch it again"):
        check_sum(tmp_path / "f", "md5", "0")


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"one")
    calls = []
    read = per_file(lambda file, extra: calls.append(extra) or file.read_bytes())
    assert read(path, 1) == read(path, 1) == b"one"
    path.write_bytes(b"three")
    assert read(path, 1) == b"three"
    assert calls == [1, 1]
