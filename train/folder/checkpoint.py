"""Checkpoints that are whole or absent.

    RUN/checkpoints/<step>/state/...        the train state, written by Orbax in the background
    RUN/checkpoints/<step>/meta.json        step, data position, seed, key, best validation result
    RUN/checkpoints/<step>/manifest.json    size and sha256 of every other file

A checkpoint is written as `<step>.<random>.partial` and renamed when its manifest is there, so a
folder with a plain number was once whole; the manifest tells whether it still is. In a bucket
nothing can be renamed: there `<step>.<random>`, another name at each attempt, counts from its
manifest on, which comes last and goes first, and lists sizes alone, as the store itself guards what
objects contain. So two who write one step, one of them awake again, never write one object.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import jax
import orbax.checkpoint as ocp
from jaxtyping import Array, PyTree

from seqzoo.train.checked import check_replicas, checked, read_json
from seqzoo.train.devices.processes import barrier, from_first, is_first
from seqzoo.train.folder.files import (
    files_under,
    in_bucket,
    plain,
    remove_tree,
    run_path,
    write_atomically,
)
from seqzoo.train.folder.lease import LeaseLostError
from seqzoo.train.folder.run_folder import Failure

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
META = "meta.json"
PARTIAL = ".partial"  # how the names of unfinished ones end


class Best(TypedDict):
    """The best validation of a run; of several replicas lists, with null for those without."""

    step: int | list[int | None]
    value: float | list[float | None] | None
    metric: NotRequired[str]


class Meta(TypedDict):
    """What is read again of `meta.json`."""

    step: int
    train: NotRequired[Mapping[str, float | list[float | None] | None]]
    validation: NotRequired[Mapping[str, float | list[float | None] | None]]
    best: NotRequired[Best | None]
    skipped: NotRequired[int | list[int]]
    failure: NotRequired[Failure | list[Failure | None] | None]
    seconds: NotRequired[float]
    compile_seconds: NotRequired[float]


class _Entry(TypedDict):
    size: int
    sha256: NotRequired[str]


class _Manifest(TypedDict):
    files: Mapping[str, _Entry]


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or none of those there can be read."""


class Checkpoints:
    """The checkpoints of one run; used by one thread.

    Args:
        run: the run's folder.
        keep: newest checkpoints that `save` leaves.
        guard: called before what is written counts; raises where the folder is another's by now.
    """

    def __init__(self, run: Path, *, keep: int = 2, guard: Callable[[], None] = lambda: None):
        path = run_path(run)
        self.folder = (path if in_bucket(path) else path.absolute()) / FOLDER
        self._keep, self._guard = keep, guard
        self._orbax = ocp.StandardCheckpointer()
        self._background = ThreadPoolExecutor(1, "checkpoint")
        self._last: tuple[int, Future] | None = None

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, whole or not; oldest first."""
        return sorted(self._places())

    def place(self, step: int) -> Path:
        """The folder of a checkpoint, be it there or not."""
        return self._places().get(step, self.folder / str(step))

    def _places(self) -> dict[int, Path]:
        """Step -> its folder."""
        found, bucket = {}, in_bucket(self.folder)
        for path in self._folders():
            step, dot, _ = path.name.partition(".")
            counts = (path / MANIFEST).exists() if bucket else not dot
            if counts and path.is_dir():
                found[int(step)] = path
        return found

    def _folders(self) -> list[Path]:
        """Those whose names begin with a step, in order."""
        every = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(path for path in every if path.name.partition(".")[0].isdecimal())

    def newest_whole(self, say: Callable[[str], None], at_most: int | None = None) -> int | None:
        """The newest whole checkpoint, None where a run has none yet.

        `say` hears of those that are passed over. Raises CheckpointError if all are damaged.
        """
        steps = [step for step in self.steps() if at_most is None or step <= at_most]
        for step in reversed(steps):
            fault = self.fault(step)
            if fault is None:
                return step
            say(f"checkpoint {step} is damaged ({fault}); falling back to an older one")
        if steps:
            raise CheckpointError(
                f"no whole checkpoint is left in {self.folder}: {', '.join(map(str, steps))} are "
                "damaged; restore one from a backup, or remove the folder to start again"
            )
        return None

    def fault(self, step: int) -> str | None:
        """What is wrong with a checkpoint, None if it is whole.

        What the manifest does not name is no part of it: file managers and network file systems
        leave things of their own.
        """
        folder = self.place(step)
        try:
            listed = checked(read_json(folder / MANIFEST), _Manifest, MANIFEST)["files"]
        except OSError as error:
            return f"{MANIFEST} cannot be read: {type(error).__name__}"
        except ValueError as error:
            return str(error).replace(str(folder / MANIFEST), MANIFEST)
        if META not in listed:
            return f"{MANIFEST} does not name {META}"
        for path, entry in sorted(listed.items()):
            try:
                own = _entry(folder / path, digest="sha256" in entry)
            except OSError as error:
                gone = isinstance(error, FileNotFoundError | NotADirectoryError)
                return f"{path} is missing" if gone else f"{path} cannot be read: {error}"
            if own != entry:
                return f"{path} has changed"
        return None

    def newest_digest(self) -> dict[str, str]:
        """Name and digest of the newest checkpoint, by its manifest; empty where there is none."""
        for step in reversed(self.steps()):
            path = self.place(step) / MANIFEST
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                return {f"checkpoint {step}": digest[:16]}
        return {}

    def meta(self, step: int, replicas: int = 1) -> dict[str, Any]:
        """What was saved beside the state, of as many replicas.

        Raises ValueError where that cannot be read.
        """
        path = self.place(step) / META
        meta = checked(read_json(path), Meta, str(path))
        parts = (meta.get(part) or {} for part in ("train", "validation", "best"))
        values = {name: value for part in parts for name, value in part.items()}
        values.pop("metric", None)
        values |= {name: meta[name] for name in ("failure", "skipped") if name in meta}
        for name, value in values.items():
            check_replicas(value, replicas, f"{path}, {name}")
        return meta

    def restore(self, step: int, like: PyTree) -> PyTree[Array]:
        """The state at `step`; `like` holds shapes, dtypes and shardings.

        Raises CheckpointError where the checkpoint is of another model or optimiser.
        """
        try:
            return self._orbax.restore(self.place(step) / "state", like)
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {step} in {self.folder} is whole but does not fit this model: {error}"
            ) from error

    def read(self, step: int) -> PyTree[Array]:
        """What the checkpoint at `step` holds, tuples by name as dictionaries, on one device.

        Needs no model, so that it can be looked at without the code that made it.
        """
        path = self.place(step) / "state"
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one),
            self._orbax.metadata(path).item_metadata.tree,
            is_leaf=lambda x: hasattr(x, "dtype"),
        )
        return self.restore(step, like)

    def save(
        self, state: PyTree[Array], meta: Mapping[str, Any], keep_also: int | None = None
    ) -> None:
        """Saves the state of `meta["step"]`; returns when its arrays have been copied.

        `keep_also` is a step that is not deleted. Raises CheckpointError if this save, or the one
        before it, fails.
        """
        self.wait()
        step = int(meta["step"])
        try:
            name = from_first(f"where to save {step}", lambda: self._prepare(step))
            if name is None:
                return
            self._orbax.save(self.folder / name / "state", state)
        except LeaseLostError:
            raise
        except Exception as error:  # storage back ends raise types of their own
            raise self._failed(step, error) from error
        partial = self.folder / name
        self._last = step, self._background.submit(self._finish, step, partial, meta, keep_also)

    def check(self) -> None:
        """Raises CheckpointError if a save in the background has failed; never waits."""
        if self._last and self._last[1].done():
            self.wait()

    def wait(self) -> None:
        """Returns when nothing is being written. Raises CheckpointError if it failed."""
        if self._last is None:
            return
        (step, future), self._last = self._last, None
        try:
            future.result()
        except LeaseLostError:
            raise
        except Exception as error:
            raise self._failed(step, error) from error

    def close(self) -> None:
        """Ends the threads; what is being written is finished first."""
        self._background.shutdown(wait=True)
        self._orbax.close()

    def sweep(self) -> None:
        """Removes what owners of before have left unfinished."""
        counting = {*self._places().values()}
        for path in self._folders():
            if path.name.endswith(PARTIAL) or (in_bucket(path) and path not in counting):
                self._remove(path)

    def _prepare(self, step: int) -> str | None:
        """Makes room for a checkpoint, and names its place; None if there is a whole one."""
        self._guard()
        if step in self.steps():
            if self.fault(step) is None:
                return None
            if in_bucket(self.folder):
                self._remove(self.place(step))
        # In a place of its own, whoever else, awake again, still writes there.
        unfinished = "" if in_bucket(self.folder) else PARTIAL
        partial = self.folder / f"{step}.{secrets.token_hex(4)}{unfinished}"
        partial.mkdir(parents=True)
        return partial.name

    def _remove(self, folder: Path) -> None:
        """Removes a checkpoint, which does not count from the first moment on."""
        if in_bucket(folder):
            (folder / MANIFEST).unlink(missing_ok=True)
        remove_tree(folder)

    def _finish(
        self, step: int, partial: Path, meta: Mapping[str, Any], keep_also: int | None
    ) -> None:
        """Runs in the background: waits for Orbax, adds the manifest, renames, prunes."""
        self._orbax.wait_until_finished()
        barrier(f"checkpoint {step}")
        if not is_first():
            return
        final = self.folder / str(step)
        write_atomically(partial / META, json.dumps(plain(meta), allow_nan=False))
        digest, paths = not in_bucket(partial), sorted(files_under(partial))
        files = {path: _entry(partial / path, digest) for path in paths}
        manifest = json.dumps({"version": 1, "files": files})
        write_atomically(partial / MANIFEST, manifest, self._guard)
        if not in_bucket(partial):
            if final.exists():  # damaged, or it would not have been saved again
                self._remove(final)
            self._guard()
            partial.rename(final)
        self._guard()
        for old in self.steps()[: -self._keep]:
            if old not in (keep_also, step):
                self._remove(self.place(old))

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        if is_first():
            with contextlib.suppress(LeaseLostError):
                self._guard()
                self.sweep()
        whole = [s for s in self.steps() if self.fault(s) is None]
        left = (
            f"whole ones remain at steps {', '.join(map(str, whole))}" if whole else "none is left"
        )
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.folder} "
            f"({_one_line(error)}); {left}. Make room and run the same command again"
        )


def _entry(path: Path, digest: bool = True) -> dict[str, Any]:
    if not digest:
        size = path.stat()
        return {"size": size.length if in_bucket(path) else size.st_size}
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": found}


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
