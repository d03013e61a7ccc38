"""A run in its folder: started, stopped, continued without a trace.

A run that was stopped or killed continues from its newest whole checkpoint to bitwise the same
result, as batches and random draws follow from seed and step. Several processes run it side by
side; the first one owns the folder and writes, the others follow what it decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seqzoo.train.config import Experiment
from seqzoo.train.devices.backend import keep_compiled
from seqzoo.train.devices.processes import failing_together, from_first, is_first, process_index
from seqzoo.train.devices.sharding import check_replicas
from seqzoo.train.differences import DATA, differences
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.folder.trackers import names_of
from seqzoo.train.loop.held import Held, held_by
from seqzoo.train.loop.optimizer import check_optimizer
from seqzoo.train.loop.program import Program, make_program
from seqzoo.train.loop.progress import SILENT, Progress
from seqzoo.train.loop.selection import check_kept
from seqzoo.train.loop.signals import StopRequest
from seqzoo.train.loop.state import ModelFactory
from seqzoo.train.loop.streams import RunData
from seqzoo.train.loop.training import Training


def run(
    experiment: Experiment,
    out: Path | str,
    *,
    make_model: ModelFactory | None = None,
    devices: Sequence[jax.Device] | None = None,
    change_steps: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains in the folder `out`, or continues what is there, and returns the result.

    The result has `step`, `complete` (False after SIGTERM or Ctrl-C), the last metrics of training
    and validation, and the best validation result; lists of several replicas.

    Args:
        experiment: what to train.
        out: the run's folder; it may hold the same experiment, unfinished or finished.
        make_model: builds the model from random streams, instead of the configuration's.
        devices: those of the mesh; all by default.
        change_steps: continue under another number of steps.
        progress: hears of the run in the process that owns the folder.

    Raises ValueError (RunFolderError for the folder) for what cannot be, NonFiniteError where more
    steps than may be skipped were not finite, and CheckpointError if a checkpoint cannot be written
    or none read.
    """
    before = finished(experiment, out, change_steps=change_steps)
    if before:
        return before
    keep_compiled()
    program = make_program(experiment, make_model=make_model, devices=devices)
    check_replicas(program.mesh, experiment.train.replicas)
    return run_program(program, out, change_steps=change_steps, progress=progress)


def run_program(
    program: Program,
    out: Path | str,
    *,
    change_steps: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """`run` for a program that exists."""
    experiment, folder = program.experiment, RunFolder(out)
    before = finished(experiment, out, change_steps=change_steps)
    if before:
        return before
    held = held_by(experiment)
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest(experiment.train.stop_seconds, folder.release))
        stack.enter_context(owned(folder, experiment, held))
        return train_owned(program, folder, stop, progress=progress)


def train_owned(
    program: Program,
    folder: RunFolder,
    stop: StopRequest,
    *,
    data: RunData | None = None,
    progress: Progress = SILENT,
    title: str = "",
) -> dict[str, Any]:
    """`run_program` in a folder that is `owned` already, until `stop` is requested.

    `data` is the experiment's, where there is one that others read too. `title` is for `progress`.
    """
    data = data or RunData(program.experiment, program.mesh)
    title = title or f"{program.experiment.task.name} {program.experiment.model}"
    training = Training(program, folder, stop, data, progress, title)
    with contextlib.closing(training), failing_together(training.log.flush):
        return training.train()


def check_terms(experiment: Experiment) -> None:
    """Raises ValueError for what no run can have, before anything is looked at or written."""
    check_kept(experiment)
    check_optimizer(experiment.optim)
    names_of(experiment.train.trackers)


def finished(
    experiment: Experiment, out: Path | str, *, change_steps: bool = False
) -> dict[str, Any] | None:
    """The result in the folder `out` if nothing is left to train there, else None.

    Raises RunFolderError if the folder may not be used, ValueError if the processes of this run
    were started with different configurations or data, a protocol that fine-tunes gets no
    pretrained run, or one that tests the best validation result would not find it, and
    FileNotFoundError where data is missing that is still needed.
    """
    check_terms(experiment)
    if experiment.task.pretrained and not experiment.train.init_from:
        raise ValueError(
            f"protocol {experiment.task.protocol} fine-tunes: give --init-from RUN, a run of "
            f"masked:{experiment.task.name} or next_token:{experiment.task.name}, or choose another"
        )

    folder = RunFolder(out)
    held = held_by(experiment, needed=folder.result() is None)

    def look() -> dict[str, Any]:
        folder.check(experiment, held, change_steps=change_steps)
        return {"form": _shared(experiment, held), "result": folder.result()}

    first = from_first("the state of the folder", look)
    _check_same(first["form"], _shared(experiment, held))
    result = first["result"]
    done = result and result["complete"] and _through(result, experiment.train.steps)
    return result if done else None


def _through(result: Mapping[str, Any], steps: int) -> bool:
    """Whether a run took all its steps, or all its replicas stopped before."""
    stopped = result.get("stopped")
    stops = stopped if isinstance(stopped, list) else [stopped]
    return result["step"] == steps or None not in stops


def _shared(experiment: Experiment, held: Mapping[str, Any]) -> dict[str, Any]:
    """What all processes of a run must have alike."""
    return {**experiment.to_dict(), DATA: held}


def _check_same(first: dict[str, Any], own: dict[str, Any]) -> None:
    apart = ("task", DATA)  # data may lie in another place on each host
    different = [key for key in own if key not in apart and own[key] != first[key]]
    different += [d.key for d in differences(first, own) if d.key.partition(".")[0] in apart]
    if different:
        raise ValueError(
            f"process {process_index()} was started with other options or data than process 0 "
            f"({', '.join(different)}); start the same command on every host"
        )


@contextlib.contextmanager
def owned(folder: RunFolder, experiment: Experiment, held: Held) -> Iterator[None]:
    """Keeps the folder to this run on these data; the first process does so for all.

    Raises RunFolderError while another run is in it.
    """

    def adopt() -> None:
        stack.enter_context(folder.owned())
        folder.adopt(experiment, held)

    with contextlib.ExitStack() as stack:
        if is_first():
            stack.enter_context(failing_together(folder.release))
        from_first("the folder is ours", adopt)
        yield
