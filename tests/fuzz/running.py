"""Runs cases in children of one process that has imported everything once.

Quiet cases run one after another in a child, which compiles each program once; those that are sent
signals, have limits or another environment run each in a child of its own.
"""

import atexit
import collections
import contextlib
import faulthandler
import io
import json
import os
import pwd
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from tests.fuzz import cases, world
from tests.fuzz.verdict import Ended, look, verdict
from tests.train import shared

LIMIT = 300.0  # seconds that a case may take on a loaded machine
STACK = ".stack"  # beside a case's folder: where its threads stand shortly before that
PAUSE = 0.5  # seconds that a process is stopped
CHUNK = 50


def prepare(case: cases.Case, seed: str, root: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Makes a case's folder; its command line and the faults that it has."""
    import random

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("home", "real"):
        (folder / name).mkdir()
    (folder / "file").write_text("here before")
    (folder / "link").symlink_to("real")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    faults = []
    if case.base:
        shutil.copytree(root / case.base, folder / "base")
        rng = random.Random(seed)
        faults = [world.harm(rng, folder / "base") for _ in range(case.faults)]
    return [word_of(word, folder) for word in case.argv], faults


def word_of(word: str, folder: Path) -> str:
    """A word of a case with the places that it stands for."""
    return word.replace(cases.HERE, str(folder)).replace(cases.FULL, world.FULL)


def command(argv: list[str]) -> int:
    """One command in this process, as its own process would end."""
    from seqzoo.train.cli.command import main

    try:
        main(argv)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


@contextlib.contextmanager
def _watched(folder: Path):
    """Leaves the stack of every thread where what follows takes nearly LIMIT."""
    path = folder.with_suffix(STACK)
    with path.open("w") as file:
        faulthandler.dump_traceback_later(0.9 * LIMIT, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
    path.unlink()


def _stack(folder: Path) -> str:
    """What `_watched` has left."""
    path = folder.with_suffix(STACK)
    return path.read_text() if path.exists() else ""


def alone(case: cases.Case, argv: list[str], folder: Path, out: int, err: int) -> None:
    """A child of its own: environment, limits, the command, and the interpreter's end."""
    _stand(word_of(case.stands, folder) or folder, case.stands == cases.GONE)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    env = {"HOME": str(folder / "home"), **dict(case.env)}
    for name, value in env.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = word_of(value, folder)
    time.tzset()
    if case.umask >= 0:
        os.umask(case.umask)
    if env["HOME"] is None:
        pwd.getpwuid = lambda _: {}["nobody"]
    if "JAX_PLATFORMS" in env:
        import jax

        jax.config.update("jax_platforms", env["JAX_PLATFORMS"])
    encoding = env.get("PYTHONIOENCODING", "utf-8")
    sys.stdout, sys.stderr = _streams(encoding)
    for name, value in case.limits:
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        resource.setrlimit(which, (value if hard < 0 else min(value, hard), hard))
    for number in case.closed:
        os.close(number)
    if 1 in case.closed:
        sys.stdout = None
    if 2 in case.closed:
        sys.stderr = None
    code = command(argv)
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        print(end="", flush=True)
        print(end="", file=sys.stderr, flush=True)
    except OSError:
        code = code or 120
    os._exit(code)


def _stand(place: str | Path, gone: bool) -> None:
    if gone:
        os.mkdir(place)
    os.chdir(place)
    if gone:
        os.rmdir(place)


def _streams(encoding: str) -> tuple[io.TextIOWrapper, io.TextIOWrapper]:
    """What Python makes of the descriptors 1 and 2."""
    out, err = (io.FileIO(number, "w", closefd=False) for number in (1, 2))
    return (
        io.TextIOWrapper(io.BufferedWriter(out), encoding=encoding),
        io.TextIOWrapper(
            io.BufferedWriter(err),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=True,
        ),
    )


def _in_child(work) -> None:
    """What a forked child does; it never comes back to what its parent was about."""
    try:
        os.setsid()
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(111)


class Alone:
    """A case in a child of its own, seen from outside."""

    def __init__(self, seed: int, index: int, root: Path, scratch: Path):
        self.index, self.case = index, cases.draw(seed, index)
        self.folder = scratch / f"case-{index}"
        argv, self.faults = prepare(self.case, f"{seed} {index}", root, self.folder)
        self.before, self.hung = look(self.folder), False
        pipes = [os.pipe() for _ in range(2)]
        self.pid = os.fork()
        if not self.pid:
            _in_child(lambda: alone(self.case, argv, self.folder, pipes[0][1], pipes[1][1]))
        self.started, self.said = time.monotonic(), [b"", b""]
        self.due = collections.deque(self.case.signals)
        for _, writes in pipes:
            os.close(writes)
        self.reads = [reads for reads, _ in pipes]
        if self.case.deaf:
            os.close(self.reads.pop(0))
        for reads in self.reads:
            os.set_blocking(reads, False)

    def poll(self) -> list[dict]:
        """The result, once there is one."""
        self._drain()
        now = time.monotonic() - self.started
        while self.due and self.due[0][0] < now:
            self._send(self.due.popleft()[1])
        if now > LIMIT and not self.hung:
            self.hung = True
            self._send(signal.SIGKILL)
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return []
        self._drain()
        for reads in self.reads:
            os.close(reads)
        out, err = (text.decode(errors="replace") for text in self.said)
        ended = Ended(os.waitstatus_to_exitcode(status), out, err, self.hung)
        found = verdict(self.case, ended, self.before, look(self.folder))
        seconds = time.monotonic() - self.started
        return [_result(self.index, self.folder, found, ended, self.faults, seconds)]

    def _send(self, number: int) -> None:
        os.kill(self.pid, number)
        if number == signal.SIGSTOP:
            due = time.monotonic() - self.started + PAUSE
            self.due.appendleft((due, signal.SIGCONT))

    def _drain(self) -> None:
        for i, reads in enumerate(self.reads, 2 - len(self.reads)):
            try:
                while part := os.read(reads, 1 << 16):
                    self.said[i] += part
            except BlockingIOError:
                pass


class Chunk:
    """Quiet cases one after another in one child, seen from outside."""

    def __init__(self, seed: int, indices: list[int], root: Path, scratch: Path):
        self.left = list(indices)
        self.log = scratch / f"chunk-{indices[0]}.jsonl"
        self.log.write_text("")
        self.pid = os.fork()
        if not self.pid:
            _in_child(lambda: _quiet_cases(seed, indices, root, scratch, self.log))

    def poll(self) -> list[dict]:
        """The results so far, once the child has ended or hangs."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        hung = not pid and time.time() - self.log.stat().st_mtime > LIMIT
        if hung:
            os.kill(self.pid, signal.SIGKILL)
            _, status = os.waitpid(self.pid, 0)
        if not pid and not hung:
            return []
        results = [json.loads(line) for line in self.log.read_text().splitlines()]
        done = {result["index"] for result in results}
        self.left = [index for index in self.left if index not in done]
        if self.left:  # the first of these has ended the child
            index = self.left.pop(0)
            folder = self.log.parent / f"case-{index}"
            ended = Ended(os.waitstatus_to_exitcode(status), "", _stack(folder), hung)
            words = "hangs" if hung else f"ended its process: {ended.code}"
            results.append(_result(index, folder, [words], ended, []))
        return results


def _quiet_cases(seed, indices, root, scratch, log):
    stack = contextlib.ExitStack()
    stack.enter_context(shared.programs())
    for index in indices:
        started = time.monotonic()
        case, folder = cases.draw(seed, index), scratch / f"case-{index}"
        argv, faults = prepare(case, f"{seed} {index}", root, folder)
        before = look(folder)
        os.environ["HOME"] = str(folder / "home")
        os.chdir(folder)
        with _watched(folder):
            ended = _said(argv, folder)
        os.chdir(scratch)
        found, seconds = verdict(case, ended, before, look(folder)), time.monotonic() - started
        result = _result(index, folder, found, ended, faults, seconds)
        with log.open("a") as file:
            file.write(json.dumps(result) + "\n")


def _said(argv: list[str], folder: Path) -> Ended:
    """A command whose words go to files."""
    kept, paths = (os.dup(1), os.dup(2)), [folder.with_suffix(end) for end in (".out", ".err")]
    streams = sys.stdout, sys.stderr
    for number, path in zip((1, 2), paths, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = _streams("utf-8")
    try:
        code = command(argv)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = streams
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
    texts = [path.read_text(errors="replace") for path in paths]
    for path in paths:
        path.unlink()
    return Ended(code, *texts)


def _result(index, folder, found, ended, faults, seconds=0.0):
    if not found:
        shutil.rmtree(folder, ignore_errors=True)
    words = {"out": ended.out[-2000:], "err": ended.err[-4000:]} if found else {}
    about = {"index": index, "seconds": seconds, "code": ended.code}
    return {**about, "found": found, "faults": faults, **words}


def run(seed: int, indices: list[int], root: Path, scratch: Path, workers: int):
    """Yields the result of each case."""
    quiet = [i for i in indices if not cases.draw(seed, i).alone]
    loud = collections.deque(i for i in indices if cases.draw(seed, i).alone)
    chunks = collections.deque(quiet[i : i + CHUNK] for i in range(0, len(quiet), CHUNK))
    jobs = []
    while jobs or chunks or loud:
        while len(jobs) < workers and (chunks or loud):
            if chunks and len(chunks) * CHUNK >= len(loud):
                jobs.append(Chunk(seed, chunks.popleft(), root, scratch))
            else:
                jobs.append(Alone(seed, loud.popleft(), root, scratch))
        for job in list(jobs):
            results = job.poll()
            if results:
                jobs.remove(job)
                yield from results
                if getattr(job, "left", None):
                    chunks.appendleft(job.left)
        time.sleep(0.01)
