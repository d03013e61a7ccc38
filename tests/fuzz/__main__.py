"""`make fuzz N=1000 SEED=0`, or `python -m tests.fuzz --n 1000 --seed 0 [--only INDEX]`.

Prints what is wrong, with the command that does it again; exits with 1 if anything is.
"""

import argparse
import collections
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

# Small programs, compiled quickly and kept from one process to the next.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1",
)
os.environ["JAX_PLATFORMS"] = "cpu"


def main() -> int:
    """Runs the cases; how many faults there are decides the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--n", type=int, default=1000, help="cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="one case, in full; its folder is kept")
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    # Not a TemporaryDirectory: children, which end as programs do, would remove it.
    top = Path(tempfile.mkdtemp(prefix="seqzoo-fuzz-"))
    try:
        return _fuzz(asked, top)
    finally:
        if asked.only is None:
            shutil.rmtree(top, ignore_errors=True)
        else:
            print(f"kept in {top}")


def _fuzz(asked, top: Path) -> int:
    os.environ["SEQZOO_CACHE"] = str(top / "cache")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(top / "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    _import_all()
    from tests.fuzz import world

    with world.full_disk(top / "full"):
        return _cases(asked, top)


def _cases(asked, top: Path) -> int:
    from seqzoo.train.cli.command import VERBS
    from tests.fuzz import cases, running, world

    started = time.monotonic()
    scratch = top / "scratch"
    scratch.mkdir()
    cases.OPTIONS |= world.make(top / "world", _in_a_child)
    indices = range(asked.first, asked.first + asked.n)
    codes, spent, wrong = collections.Counter(), collections.Counter(), []
    for result in running.run(
        asked.seed,
        [asked.only] if asked.only is not None else list(indices),
        top / "world",
        scratch,
        asked.workers,
    ):
        codes[result["code"]] += 1
        case = cases.draw(asked.seed, result["index"])
        verb = case.argv[0] if case.argv and case.argv[0] in VERBS else "no verb"
        spent[f"{verb}{' alone' if case.alone else ''}"] += result["seconds"]
        if result["found"] or asked.only is not None:
            wrong.append(result["index"]) if result["found"] else None
            print(f"case {result['index']}: {'; '.join(result['found']) or 'right'}")
            print(f"  {cases.shown(case)}")
            print(f"  code {result['code']}, faults {result['faults']}")
            for line in result.get("err", "").splitlines()[-60:]:
                print(f"    {line[:300]}")
            print(
                f"  again: python -m tests.fuzz --seed {asked.seed} --only {result['index']}",
                flush=True,
            )
    seconds = time.monotonic() - started
    ended = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    print(f"seconds: {', '.join(f'{verb} {spent[verb]:.0f}' for verb, _ in spent.most_common(9))}")
    print(f"{sum(codes.values())} cases in {seconds:.0f} s, exit codes {ended}; {len(wrong)} wrong")
    return 1 if wrong else 0


def _import_all() -> None:
    """Everything that a command may import, so that children have it."""
    import importlib

    from seqzoo.train.cli.command import VERBS

    for verb in VERBS:
        importlib.import_module(f"seqzoo.train.cli.{verb}")
    for name in ("datasets", "tyro", "tensorboardX", "orbax.checkpoint", "grain"):
        importlib.import_module(name)


def _in_a_child(argv: list[str]) -> int:
    """A command in a child, as JAX must not start before the others are forked."""
    from tests.fuzz.running import command

    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(command(argv))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
