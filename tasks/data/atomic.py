"""Files and folders that are whole or absent, whoever is killed and however many write them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STALE = 3600.0  # seconds after which what a killed process left is swept away


def write_file(path: Path, content: bytes | str, last: Callable[[], None] = lambda: None) -> None:
    """Writes a file that is seen whole or not at all, also after a kill or a power failure.

    `last` is called before it appears; what that raises leaves all as it was. An OSError names the
    file that was to be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{secrets.token_hex(8)}.partial")  # a long name could not grow
    try:
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        last()
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `final` at the end of the block.

    Where another process was faster, its folder stays; after an error nothing does.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in final.parent.glob(f".{final.name}.*.partial"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > STALE:
                shutil.rmtree(left, ignore_errors=True)
    partial = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        try:
            os.replace(partial, final)
        except OSError:
            if not final.is_dir():  # reported as ENOTEMPTY, EEXIST or EACCES, by platform
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
