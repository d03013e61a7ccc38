"""Archives, read without trust in their content and without its strays.

Nothing here runs code that comes with data, and an archive's members are read from it in memory or
unpacked where they cannot leave their folder. Checksums are checked, so that what is read is right
to the last byte: an archive is read to its end before anything of it is used.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rich.progress import track

from seqzoo.tasks.data.atomic import new_folder
from seqzoo.tasks.data.damage import DamagedError, head_of, reading
from seqzoo.tasks.data.folders import BLOCK, stray

TAR, ZIP, GZIP = "a tar archive", "a zip archive", "a gzip file"


def tar_members(path: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Name -> content of the regular files of a tar archive whose names are `wanted`."""
    found = {}
    with reading(path, TAR, path), tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if member.isreg() and wanted(member.name) and not stray(name):
                with reading(f"{path}:{member.name}", TAR, None):
                    found[member.name] = archive.extractfile(member).read()
        _read_to_end(archive)
    return found


def unpack(path: Path, into: Path) -> Path:
    """Unpacks a tar archive as the folder `into`, which is whole or absent; returns it.

    Raises ValueError for a member that would leave the folder, a link or a device; nothing of the
    archive is then kept.
    """
    if into.is_dir():
        return into
    with reading(path, TAR, path), tarfile.open(path) as archive, new_folder(into) as partial:
        for member in track(archive, f"unpacking {path.name}", total=None):
            if not stray(PurePosixPath(member.name)):
                _extract(archive, member, partial, path)
        _read_to_end(archive)
    return into


def _read_to_end(archive: tarfile.TarFile) -> None:
    # A compressed archive has its checksum behind the last member.
    while archive.fileobj.read(BLOCK):
        pass


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, root: Path, path: Path) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isreg() or member.isdir()):
        raise DamagedError(
            f"{path}: the member {member.name!r} is a link, a device, or leads out of the folder; "
            "nothing was unpacked"
        )
    target = root.joinpath(*name.parts)
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.extractfile(member) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file, BLOCK)


def zip_member(path: Path, name: str) -> bytes:
    """The one file of a zip archive that is called `name`; nothing is unpacked.

    Raises ValueError where the archive does not hold exactly one.
    """
    with reading(path, ZIP, path), zipfile.ZipFile(path) as archive:
        held = [x for x in archive.namelist() if not stray(PurePosixPath(x))]
        found = [x for x in held if x.rpartition("/")[2] == name]
        if len(found) != 1:
            shown = ", ".join(held[:5]) or "nothing"
            raise DamagedError(f"{path} should hold one {name}; it holds {shown}: fetch it again")
        with reading(f"{path}:{found[0]}", ZIP, None):
            return archive.read(found[0])


def is_zip(path: Path) -> bool:
    """Whether a file is meant as a zip archive: by its name, or by how it begins."""
    return path.suffix.lower() == ".zip" or head_of(path).startswith(b"PK\x03\x04")


def gunzipped(path: Path) -> bytes:
    """The content of a gzip file."""
    with reading(path, GZIP, path):
        return gzip.decompress(path.read_bytes())
