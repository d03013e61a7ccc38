"""Processes that train together, one of them killed at random moments; and what came of it.

python -m tests.train.kills [--kills 10] [--processes 2] [--seed 0]

Each killed run is started again, to be killed again, until it is through; then its parameters and
its metrics are compared with those of a run that nobody touched, and the next run starts. Every
kill is a line of JSON, and so is the summary at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from seqzoo.train.folder.checkpoint import Checkpoints
from seqzoo.train.folder.metrics import read_lines
from tests.flags import set_flags
from tests.train.devices.test_processes import SAVE_LESS, Pair
from tests.train.loop.test_runner import state_of

WAIT = 20  # seconds after which a process gives up waiting for one that is gone
LIMIT = 3 * WAIT  # seconds after a kill in which the others have to be gone
AT_START = 0.3  # share of the kills while processes start and find each other
STARTING, WORKING = 6.0, 1.5  # seconds from which the moment of a kill is drawn
CLEAR = ("is gone", "have met", "did not come within", "did not say within", "so this one ends")
ABORTED = ("distributed service", "coordination service", "leader", "heartbeat")  # words of JAX


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill, and what the other processes did."""

    processes: int
    victim: int
    step: int  # of the newest line of metrics at that moment
    seconds: float  # until the last of the others was gone
    codes: tuple[int, ...]  # exit codes of the others
    clear: int  # of the others, how many said why; Gloo aborts one now and then
    said: tuple[str, ...]  # their last lines


def kill_once(folder: Path, processes: int, rng: random.Random) -> Kill | None:
    """Starts the run and kills a process of it; None if the others were through."""
    victim, at_start = rng.randrange(processes), rng.random() < AT_START
    wait = rng.uniform(0, STARTING if at_start else WORKING)
    with together(folder, processes, TINY_DELAY="0.03", TINY_WAIT=str(WAIT)) as run:
        if not at_start:
            run.at_work()
        time.sleep(wait)
        if any(p.poll() is not None for p in run.processes):
            return None
        run.processes[victim].kill()
        killed = time.monotonic()
        others = [p for i, p in enumerate(run.processes) if i != victim]
        said = [p.communicate(timeout=LIMIT)[1] for p in others]
        seconds = time.monotonic() - killed
        run.processes[victim].communicate()
    assert run.processes[victim].returncode == -signal.SIGKILL
    if not any(p.returncode for p in others):
        return None
    if not all(map(is_clear, said)):
        print(*said, sep="\n---\n", file=sys.stderr)
    lines = read_lines(folder)
    return Kill(
        processes,
        victim,
        lines[-1].step if lines else 0,
        seconds,
        tuple(p.returncode for p in others),
        sum(map(is_clear, said)),
        tuple(map(last_words, said)),
    )


def is_clear(text: str) -> bool:
    """Whether the cause is in it: in our words, or in JAX's where it aborts the process."""
    return any(words in text for words in CLEAR) or any(w in text.lower() for w in ABORTED)


def last_words(text: str) -> str:
    lines = text.splitlines()
    ours = [line for line in lines if line.startswith("seqzoo:")]
    jax = [line for line in lines if "Terminating process" in line]
    return (ours or jax or lines or [""])[-1][:200]


def together(folder: Path, processes: int, **env: str) -> Pair:
    every = range(processes)
    options = [SAVE_LESS | {"save_every": 5}] * processes
    return Pair(folder, count=processes, started=every, options=options, **env)


def through(folder: Path, processes: int) -> None:
    """Trains what is left, undisturbed."""
    with together(folder, processes) as run:
        codes, errors, out = run.end()
    assert not any(codes), errors
    assert out == ["40", "True"]


def difference(folder: Path, other: Path, program: Any) -> float:
    """The largest relative difference of parameters; 0 where runs are bitwise the same.

    Metrics have to be the same lines, each step once, to as much.
    """
    a, b = state_of(folder, program).params, state_of(other, program).params
    errors = [np.linalg.norm(a[path] - b[path]) / np.linalg.norm(b[path]) for path in a]
    lines, others = read_lines(folder), read_lines(other)
    assert [line.step for line in lines] == [line.step for line in others] == list(range(1, 41))
    for x, y in zip(lines, others, strict=True):
        assert x.values.keys() == y.values.keys()
        errors += [abs(x.values[n] - y.values[n]) / max(1e-30, abs(y.values[n])) for n in x.values]
    return float(max(errors))


def study(root: Path, kills: int, processes: int, seed: int, program: Any) -> dict[str, Any]:
    """`kills` kills of runs under `root`; the summary. Each is printed as it happens."""
    rng, done, differences = random.Random(seed), [], []
    through(root / "whole", processes)
    while len(done) < kills:
        folder = root / f"run {len(differences)}"
        while len(done) < kills and (kill := kill_once(folder, processes, rng)):
            done.append(kill)
            print(json.dumps(dataclasses.asdict(kill)), flush=True)
            assert not list(Checkpoints(folder).folder.glob("*.partial/manifest.json"))
        through(folder, processes)
        differences.append(difference(folder, root / "whole", program))
    times = [kill.seconds for kill in done]
    return {
        "processes": processes,
        "kills": len(done),
        "clear": sum(kill.clear > 0 for kill in done),
        "aborted": sum(len(kill.codes) - kill.clear for kill in done),
        "median_seconds": statistics.median(times),
        "longest_seconds": max(times),
        "codes": sorted({code for kill in done for code in kill.codes}),
        "runs": len(differences),
        "difference": max(differences),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("kills", 10), ("processes", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()

    import jax

    from seqzoo.train.loop.program import make_program
    from tests.train.tiny_run import experiment, make_model

    program = make_program(experiment(), make_model=make_model, devices=jax.devices()[:1])
    with tempfile.TemporaryDirectory() as root:
        found = study(Path(root), asked.kills, asked.processes, asked.seed, program)
    print(json.dumps(found))


if __name__ == "__main__":
    set_flags()
    main()
