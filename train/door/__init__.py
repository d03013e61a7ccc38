"""Training from Python: what `from seqzoo.train import run` finds.

    from seqzoo.train import Experiment, TrainConfig, run

    experiment = Experiment(task="sdigits", model="lru", train=TrainConfig(steps=200))
    result = run(experiment)                      # a progress bar, also in a notebook
    result.validation["accuracy"]                 # a plain number
    result.model                                  # the trained model, an nnx.Module

`task` is a name, an address, a class or an instance; `model` a name, an address, a class, or, for
a pattern, a tuple of these. `run` is what outer tools call: the same experiment in the same folder
goes on where it was, and a callback that returns True ends a run after an evaluation, saved.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx
from rich.console import Console

from seqzoo.train import code
from seqzoo.train.compare import comparison
from seqzoo.train.compare.controls import MODELS as CONTROLS
from seqzoo.train.compare.controls import with_controls, with_shuffle
from seqzoo.train.compare.results import Comparison
from seqzoo.train.compare.sweep import Sweep, check_keeps_sizes
from seqzoo.train.config import Experiment
from seqzoo.train.cost.match import Metric
from seqzoo.train.cost.matching import matching
from seqzoo.train.evaluation.axes import CHUNK, axes_of
from seqzoo.train.evaluation.runs import evaluate_run
from seqzoo.train.folder.files import run_path
from seqzoo.train.folder.metrics import read_lines
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.hybrids import hybrids
from seqzoo.train.loop import runner
from seqzoo.train.loop.claims import sound
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.learned import settled
from seqzoo.train.loop.progress import ComparisonProgress
from seqzoo.train.out.console import ProgressBars

__all__ = ["Callback", "Result", "compare", "evaluate", "load", "run"]

Callback = Callable[[int, dict[str, float]], bool | None]  # step, validation -> whether to stop


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a run: plain dictionaries, and its folder for everything else."""

    folder: Path  # of the run
    experiment: Experiment  # what was trained
    step: int  # the last one
    complete: bool  # False after a callback's or a signal's stop: the same call goes on
    train: dict[str, Any]  # of the last step
    validation: dict[str, Any]  # name -> value, of the last evaluation
    best: dict[str, Any] | None  # step and value of the main metric on validation
    about: dict[str, Any]  # all of result.json

    @property
    def model(self) -> nnx.Module:
        """The trained model, of the newest checkpoint."""
        return load(self.folder)

    @property
    def history(self) -> list[dict[str, Any]]:
        """A dictionary for each step: `step`, metrics, `validation/...` where it was evaluated."""
        return [{"step": line.step, **line.values} for line in read_lines(self.folder)]

    def test(self, split: str = "test") -> dict[str, Any]:
        """`evaluate` of this run on a whole split."""
        return evaluate(self.folder, split=split)


def run(
    experiment: Experiment,
    out: Path | str | None = None,
    *,
    callback: Callback | None = None,
    progress: bool = True,
    allow_broken: bool = False,
) -> Result:
    """Trains an experiment, or goes on where its folder was left.

    Args:
        experiment: what to train.
        out: the run's folder; by default a temporary one, which stays as long as the process.
        callback: called with step and validation metrics after each evaluation; True stops.
        progress: shows a bar (a line now and then, where there is no terminal and no notebook).
        allow_broken: trains a mixer of one's own that breaks a law.

    Raises ValueError for what cannot be, NonFiniteError where too many steps were not finite.
    """
    folder = run_path(out) if out is not None else Path(_temporary())
    experiment = settled(experiment)
    found = runner.finished(experiment, folder)
    if found is None:
        sound([experiment], allow=allow_broken)
        with contextlib.closing(_bars(progress)) as bars:
            found = runner.run(experiment, folder, progress=_Told(bars, callback))
    return Result(
        folder=folder,
        experiment=experiment,
        step=found["step"],
        complete=found["complete"],
        train=found["train"],
        validation=_bare(found["validation"]),
        best=found["best"],
        about=found,
    )


def compare(
    models: Mapping[str, Any],
    out: Path | str,
    *,
    seeds: int = 3,
    sweep: Sweep | Mapping[str, Any] | None = None,
    progress: bool = True,
    callback: Callback | None = None,
    allow_broken: bool = False,
    match: Metric | None = None,
    match_target: float = 0.0,
    axes: Sequence[str] = (),
    ratio: str = "",
    controls: bool = False,
    **shared: Any,
) -> Comparison:
    """Trains models on one task; `.rows()` of what it returns are plain dictionaries.

        compare({"ema": EMA, "lru": "lru"}, "runs/c", task="mqar", train=TrainConfig(steps=500))

    Args:
        models: label -> experiment, or what `Experiment(model=...)` takes.
        out: the comparison's folder, which gets results.json and report.html.
        seeds: runs of each model.
        sweep: what is tried for each model before, on other seeds and validation:
            `{"optim.peak_lr": (1e-3, 3e-3, 1e-2)}`, of one model alone `"optim.LABEL.peak_lr"`, or
            a `Sweep`.
        progress: shows bars.
        callback: as for `run`; one that returns True stops the comparison, saved.
        allow_broken: trains mixers of one's own that break a law, and marks them.
        match: "parameters", "flops", "state" or "time": what all models are made to cost alike.
        match_target: how much of it; 0 is as the largest model has, or as the folder says.
        axes: what the trained models are tested along, as "length=64,128" or "position".
        ratio: "attention=0,1/2,1": a model `attention+lru` by the share of such layers.
        controls: two more models, a window and a free filter with the first one's backbone, and all
            tested on rows whose far context is shuffled: how much needs long range.
        shared: fields of `Experiment` of all models that are no experiments.

    Raises ValueError for what cannot be compared, matched or tested, before anything is trained.
    """
    experiments = {
        label: model if isinstance(model, Experiment) else Experiment(model=model, **shared)
        for label, model in models.items()
    }
    along = axes_of(axes)
    if controls:
        first, along = next(iter(experiments.values())), with_shuffle(along)
        own = {
            label: dataclasses.replace(first, model=model, mixer=options)
            for label, (model, options) in CONTROLS.items()
        }
        experiments = with_controls(experiments, own)
    if sweep is not None and not isinstance(sweep, Sweep):
        sweep = Sweep(fields=sweep)
    experiments, families = hybrids(experiments, ratio)
    sizes = None
    if match:
        check_keeps_sizes(sweep)
        sizes = matching(run_path(out), experiments, match, match_target)
        experiments = sizes.experiments
    found = sound(experiments.values(), allow=allow_broken)
    claims = {label: own for label, own in zip(experiments, found, strict=True) if own}
    with contextlib.closing(_bars(progress)) as bars:
        told = _Told(bars, callback)
        return comparison.compare(
            experiments,
            out,
            seeds=seeds,
            sweep=sweep,
            progress=told,
            claims=claims,
            matching=sizes,
            axes=along,
            families=families,
        )


def evaluate(
    run: Path | str,
    *,
    split: str = "test",
    checkpoint: str = "selected",
    axes: Sequence[str] = (),
    streaming: bool = False,
    code_at: str = "",
) -> dict[str, Any]:
    """Metrics of a run on a split, with step, baselines and parameters.

    `axes` are as for `seqzoo evaluate --axes`: "length=64,128". With `streaming` the streaming form
    is measured.

    `checkpoint` is "selected" (by the task's protocol), "last", "best" or a step; `code_at` is the
    address of a run's code, where nobody has named it here yet (`train/code.py`).
    """
    terms = {"axes": axes_of(axes), "chunk": CHUNK if streaming else 0}
    return evaluate_run(_taken_up(run, code_at), split=split, which=checkpoint, **terms)


def load(run: Path | str, *, checkpoint: str = "last", code_at: str = "") -> nnx.Module:
    """The model of the folder `run`; `checkpoint` and `code_at` as for `evaluate`."""
    program, state, _ = load_run(_taken_up(run, code_at), which=checkpoint)
    return program.plan.merge(state.params, state.rest)


class _Told(ComparisonProgress):
    """Hands on what happens, and asks the callback."""

    def __init__(self, bars: ComparisonProgress, callback: Callback | None):
        self.begin, self.step, self.say = bars.begin, bars.step, bars.say
        self.end, self.models = bars.end, bars.models
        self._bars, self._callback = bars, callback

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Whether the callback asks for an end."""
        self._bars.evaluated(step, metrics)
        return bool(self._callback and self._callback(step, dict(metrics)))


def _bars(shown: bool) -> Any:
    return ProgressBars(Console(stderr=True)) if shown else _Silent()


class _Silent(ComparisonProgress):
    def close(self) -> None:
        """Nothing is open."""


def _taken_up(run: Path | str, code_at: str) -> Path:
    folder = run_path(run)
    if code_at:
        code.accept(code_at, RunFolder(folder).config())
    return folder


_kept: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def _temporary() -> str:
    _kept.append(tempfile.TemporaryDirectory(prefix="seqzoo-run-"))
    return str(Path(_kept[-1].name) / "run")


def _bare(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name.rpartition("/")[2]: value for name, value in metrics.items()}
