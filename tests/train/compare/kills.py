"""Comparisons killed at random moments, and several processes on one; and what came of it.

python -m tests.train.compare.kills [--kills 10] [--seed 0]
python -m tests.train.compare.kills --together 2

Each killed comparison is started again, to be killed again, most often while a model trains, else
at any moment; after the last kill it is let through, and its results.json is compared with that of
one that nobody touched. Together, so many processes
are started on one folder; then every model must be there, trained by one of them alone. Every kill
is a line of JSON, and so is the summary at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from seqzoo.train.compare.results import FILE, RUNS, load

MODELS = ("lru", "gru", "linear_attention", "attention")
AT_WORK = 0.7  # share of the kills while a model trains
OPTIONS = (
    *("--task", "mqar", "--data.length", "16", "--data.num-pairs", "4", "--data.vocab-size", "18"),
    *("--data.validation-size", "50", "--data.test-size", "50", "--data.train-size", "20000"),
    *("--backbone.d-model", "16", "--backbone.depth", "1", "--batch-size", "16", "--seeds", "2"),
    *("--steps", "4000", "--eval-every", "500", "--save-every", "100"),
    *("--mixer.attention.num-heads", "2", "--models", ",".join(MODELS), "--out", "."),
)


def start(out: Path) -> subprocess.Popen:
    """The comparison in the folder `out`, in a process with XLA's own flags, as users have it."""
    out.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "seqzoo.train.cli", "compare", *OPTIONS],
        cwd=out,  # so that the command, which the results hold, names the same place
        env={**os.environ, "XLA_FLAGS": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def through(process: subprocess.Popen) -> str:
    """Waits for the end, which must be a good one."""
    said, _ = process.communicate()
    assert process.returncode == 0, said
    return said


def at(out: Path) -> dict[str, int]:
    """The newest step that each model's metrics are at."""
    steps = {}
    for path in sorted((out / RUNS).glob("*/metrics.jsonl")):
        lines = path.read_bytes().split(b"\n")[:-1]
        steps[path.parent.name] = json.loads(lines[-1])["step"] if lines else 0
    return steps


def wait_for_steps(process: subprocess.Popen, out: Path) -> None:
    """Until a model has been trained further than before, or the process has ended."""
    before = at(out)
    while process.poll() is None and at(out) == before:
        time.sleep(0.1)


def killed(root: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kills comparisons so many times, a new one where one is through; the summary."""
    started = time.monotonic()
    through(start(root / "whole"))
    usual, rng = time.monotonic() - started, random.Random(seed)
    whole, done, resumed, same = (root / "whole" / FILE).read_bytes(), 0, 0, []
    while done < kills:
        out = root / f"killed {len(same)}"
        while done < kills:
            process, wait = start(out), rng.uniform(0, usual / 3)
            if rng.random() < AT_WORK:
                wait_for_steps(process, out)
                wait /= 2
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait)
            alive = process.poll() is None
            process.kill()
            resumed += "continuing" in process.communicate()[0]
            if not alive:
                break
            done += 1
            print(json.dumps({"seconds": round(wait, 1), "steps": at(out)}), flush=True)
        resumed += "continuing" in through(start(out))
        same.append((out / FILE).read_bytes() == whole)
    return {
        "kills": done,
        "resumed_within_a_model": resumed,
        "comparisons": len(same),
        "same_results": all(same),
    }


def together(root: Path, count: int) -> dict[str, Any]:
    """So many processes on one folder; the summary."""
    through(start(root / "whole"))
    out = root / "shared"
    said = [through(process) for process in [start(out) for _ in range(count)]]
    assert not any("continuing" in words for words in said)
    names = [model.name for model in load(out / FILE).models]
    # Whoever trains a seed, or goes on with it, opens a file of events.
    starts = {
        str(folder.relative_to(out / RUNS)): len(list(folder.iterdir()))
        for folder in (out / RUNS).glob("*/tensorboard/*")
    }
    same = (out / FILE).read_bytes() == (root / "whole" / FILE).read_bytes()
    return {
        "processes": count,
        "models": names,
        "starts_of_each_seed": sorted(set(starts.values())),
        "seeds": len(starts),
        "same_results": same,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("kills", 10), ("seed", 0), ("together", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        if asked.together:
            found = together(Path(root), asked.together)
        else:
            found = killed(Path(root), asked.kills, asked.seed)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
