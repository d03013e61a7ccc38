"""Finds files of the official Long Range Arena archive in a folder that the user names."""

from __future__ import annotations

from pathlib import Path

from seqzoo.tasks.data.places import place

# The archive nests its folder twice and repeats some tasks outside; the inner copies are the ones
# that published results used (the outer pathfinder128 is broken).
NESTING = ("lra_release/lra_release", "lra_release", ".")


def find_file(root: str | Path, task: str, folder: str, name: str, size: str) -> Path:
    """The file `folder/name` of the archive under `root`, the innermost copy.

    `root` may be where the archive was unpacked, either `lra_release` folder, or `folder` itself.
    Raises FileNotFoundError, which says what to fetch; `size` is that of the task's own files.
    """
    root = place(root)
    for above in NESTING:
        if (root / above / folder).is_dir():
            found = root / above / folder / name
            break
    else:
        found = root / name
    if found.is_file():
        return found
    raise FileNotFoundError(
        f"task {task}: there is no {found}. Fetch the Long Range Arena archive lra_release.gz (a "
        "gzipped tar of about 8 GB, linked from the README of google-research/long-range-arena on "
        f"GitHub), unpack it with `tar xf lra_release.gz`, of which this task reads {folder}/ "
        f"({size}), and give the folder in which lra_release/ lies as the option data"
    )
