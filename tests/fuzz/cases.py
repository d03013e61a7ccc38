"""One case: a command line, the folder that it works on, and what happens to it meanwhile."""

import dataclasses
import importlib
import random
import signal
import typing
from pathlib import Path
from typing import NamedTuple

from seqzoo import tasks
from seqzoo.models.registry import MIXERS, PRESETS
from seqzoo.train.cli.command import VERBS
from seqzoo.train.cli.flags import flags_of, kind_of
from tests.fuzz import world


class Case(NamedTuple):
    """What is tried."""

    argv: tuple[str, ...]
    base: str = ""  # the folder of the world that is copied to HERE/base
    faults: int = 0  # in that copy
    signals: tuple[tuple[float, int], ...] = ()  # seconds after the start
    limits: tuple[tuple[str, int], ...] = ()
    env: tuple[tuple[str, str | None], ...] = ()
    alone: bool = False  # in a process of its own
    closed: tuple[int, ...] = ()  # of its descriptors 0, 1 and 2
    deaf: bool = False  # nobody reads its output
    umask: int = -1  # -1: as whoever fuzzes has it
    stands: str = ""  # where it is started, if not in the case's folder


HERE = "HERE"  # in a command line: the case's folder
FULL = "FULL"  # a folder on a full disk, where there is one
GONE = f"{HERE}/gone"  # a working folder that is removed
READ_ONLY = (
    *(
        "list",
        "completion",
        "show",
        "watch",
        "evaluate",
        "report",
        "generate",
        "data",
        "plan",
        "doctor",
        "bench",
    ),
)
# Flags whose large values cost time or memory and are no more wrong for it.
DEAR = ("threads", "prefetch", "workers", "rounds", "mib", "count", "steps-scale", "seeds")
FREE = ("seed", "every", "keep", "profile-steps", "wait-seconds", "stop-seconds", "max-skipped")
WRONG = (
    "",
    " ",
    "ten",
    "1e3",
    "0x10",
    "-",
    "--",
    "1,2",
    "None",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "٣",
)
NUMBERS = ("-1", "0", "1", "2", "3", "5", "8", "16", "33")
LARGE = (2**31 - 1, 2**31, 2**32, 2**63, 10**30, 10**400)
TEXTS = (
    "",
    "a",
    "ünï",
    "a b",
    "'",
    '"',
    "-x",
    "{}",
    "[1]",
    "\\",
    "%s",
    "x" * 300,
    "a=b",
    "1",
    "😀",
)
PLACES = (
    *("run", "a b", "ü/日", "~/run", "~nobody/x", "../x", "lr[1]", "st*r", "file", "file/x"),
    *("dangling", "dangling/x", "loop", "link", "link/x", "n" * 256, "d/" * 2000, "", " ", "."),
    *("s3://b/x", "gs://b/x", "file:///nowhere/x", "http://x/y", "/proc/x", "/dev/null"),
    *("/dev/full/x", f"{FULL}/x", "bad\udcff", "a\nb", "emp\tty", "..", "/", "-x", "--out"),
)
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL, signal.SIGHUP, signal.SIGSTOP)
ENVIRONMENTS = (
    {"HOME": None},
    {"HOME": "/nowhere"},
    {"HOME": "/dev/null"},
    {"SEQZOO_CACHE": "/dev/full/x"},
    {"SEQZOO_CACHE": "~nobody/x"},
    {"XDG_CACHE_HOME": "/proc/x", "SEQZOO_CACHE": ""},
    {"SEQZOO_CACHE": f"{FULL}/x", "TMPDIR": FULL},
    {"TMPDIR": "/nowhere"},
    {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "LANG": "xx_YY.nothing"},
    {"XLA_FLAGS": "--xla_nonsense=1"},
    {"XLA_FLAGS": "nonsense"},
    {"XLA_FLAGS": "--xla_force_host_platform_device_count=x"},
    {"JAX_ENABLE_X64": "x"},
    {"JAX_COMPILATION_CACHE_DIR": "/proc/x"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"JAX_PLATFORMS": "cuda"},
    {"JAX_PLATFORMS": "tpu"},
    {"JAX_PLATFORMS": "nonsense"},
    {"COLUMNS": "1"},
    {"COLUMNS": "x", "TERM": "dumb", "NO_COLOR": "1"},
    {"FORCE_COLOR": "1"},
    {"TZ": "nowhere/x"},
)
UMASKS = (0o000, 0o022, 0o077)
STANDS = ("/sys/kernel", "/proc/self", GONE, FULL)  # where nobody can write


def draw(seed: int, index: int) -> Case:
    """The case of a number."""
    rng = random.Random(f"{seed} {index}")
    kinds = {_words: 40, _data: 22, _folder: 22, _run: 16}
    (kind,) = rng.choices(list(kinds), kinds.values())
    case = kind(rng)
    if rng.random() < 0.06:
        env = rng.choice(ENVIRONMENTS)
        case = case._replace(env=tuple(env.items()), alone=True)
    elif rng.random() < 0.02:
        case = case._replace(closed=rng.choice(((0,), (1,), (2,), (1, 2), (0, 1, 2))), alone=True)
    elif rng.random() < 0.02:
        case = case._replace(deaf=True, alone=True)
    elif rng.random() < 0.03:
        umask, stands = rng.choice((-1, *UMASKS)), rng.choice(("", *STANDS))
        case = case._replace(umask=umask, stands=stands, alone=True)
    return case


BOUNDS = ("--total-seconds", "--limit-seconds")  # without which a right command takes minutes


def _words(rng: random.Random) -> Case:
    """A verb with flags that are right, wrong, doubled, misspelt, without value."""
    verbs = sorted(VERBS)
    (verb,) = rng.choices(verbs, [0.3 if _ends_alone(verb) else 1 for verb in verbs])
    shape, argv = rng.choice(_shapes()[verb]), []
    for _ in range(rng.randrange(4)):
        argv += _flag(rng, rng.choice(shape.flags)) if shape.flags else []
    if rng.random() < 0.2:
        argv.insert(rng.randrange(len(argv) + 1), rng.choice((*TEXTS, "--help", "-h", "--x")))
    first = list(shape.argv)
    if rng.random() < 0.2 and len(first) > 1:
        place = rng.randrange(1, len(first))
        if not first[place].startswith(BOUNDS):
            del first[place]
    if rng.random() < 0.05:
        first[0] = rng.choice(("", "trian", "--version", "-V", "help", "TRAIN", verb[:-1]))
    tiny = [*world.SIZES, *world.WIDTHS, "--steps=2"] if verb == "train" else []
    if "--task=mqar" not in first:
        sized = [] if "listops" in str(first) else ["--data.length=16"]
        tiny = [*sized, *world.WIDTHS, "--steps=2"] * (verb == "train")
    last = ["--seeds=0"] * (verb == "demo")  # a whole one takes minutes
    return Case((*first, *tiny, *argv, *last), base=shape.base, alone=_ends_alone(verb))


def _data(rng: random.Random) -> Case:
    """A task that reads files, on files with faults."""
    task = rng.choice(world.FILES)
    action = rng.choice(("verify", "show", "prepare"))
    argv = ["data", action, f"--task={task}", f"--data.data={HERE}/base"]
    argv += [f"--data.{name.replace('_', '-')}={v}" for name, v in OPTIONS.get(task, {}).items()]
    if action == "show" and rng.random() < 0.5:
        argv += ["--split", rng.choice(("test", "validation"))]
    return Case(tuple(argv), base=f"data/{task}", faults=rng.choice((0, 1, 1, 1, 2, 5)))


OPTIONS: dict[str, dict] = {}  # of the tasks on the world's files


def _folder(rng: random.Random) -> Case:
    """A folder of a run or a comparison with faults, and a verb that reads or continues it."""
    base = rng.choice(("done", "half", "half", "text", "compared"))
    verb = rng.choice(("show", "evaluate", "report", "generate", "train", "train", "compare"))
    if verb == "train":
        more = rng.choice(([], [], ["--seed=1"], ["--change-steps", "--steps=7"], ["--steps=3"]))
        if rng.random() < 0.2:
            more = [f"--init-from={HERE}/base", f"--out={HERE}/new"]  # the last --out counts
        argv = ["train", *world.TINY, *world.SAVED, f"--steps={world.STEPS}", f"--out={HERE}/base"]
        argv += more
    elif verb == "compare":
        models = rng.choice(("min_gru,lru", "min_gru,lru,gru", "lru", "lru,min_gru"))
        argv = _compared(models, rng.choice(("1", "2", "3")))
    else:
        argv = [verb, f"{HERE}/base"]
        if verb in ("show", "evaluate", "generate") and rng.random() < 0.5:
            which = ("last", "best", "2", "4", "5", "-1", "x", "")
            argv += ["--checkpoint", rng.choice(which)]
        argv += ["--length=3"] if verb == "generate" else []
    faults = rng.choice((0, 1, 1, 1, 2, 4))
    return Case(tuple(argv), base=base, faults=faults, alone=_ends_alone(verb))


def _run(rng: random.Random) -> Case:
    """Training that is sent signals, or has too little room, at a random place."""
    place = rng.choice(PLACES) if rng.random() < 0.4 else "run"
    out = ("--out", place) if rng.random() < 0.5 and place else (f"--out={place}",)
    if rng.random() < 0.3:
        models = rng.choice(("min_gru", "lru,min_gru"))
        argv = (*_compared(models, "2")[:-1], *out)
    else:
        steps = rng.choice(("2", "9", "60"))
        argv = ("train", *world.TINY, *world.SAVED, f"--steps={steps}", *out)
    signals, limits = [], ()
    if place == "run" and rng.random() < 0.8:
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            signals.append((rng.uniform(0, 8), rng.choice(SIGNALS)))
    elif rng.random() < 0.5:
        limits = ((rng.choice(("FSIZE", "NOFILE")), rng.choice((0, 3, 500, 3000, 9000, 40_000))),)
    return Case(argv, signals=tuple(sorted(signals)), limits=limits, alone=True)


def _compared(models: str, seeds: str) -> tuple[str, ...]:
    """A command that compares models in the case's copy."""
    tiny = [word for word in world.TINY if not word.startswith("--model")]
    more = [f"--models={models}", f"--seeds={seeds}", "--steps=2", f"--out={HERE}/base"]
    return ("compare", *tiny, *more)


def _ends_alone(verb: str) -> bool:
    """Whether a verb leaves its process other than it was."""
    return verb in ("plan", "bench", "demo", "check")


# Flags and their values.


class Shape(NamedTuple):
    """A command line that is right, and flags that may follow."""

    argv: tuple[str, ...]
    base: str
    flags: list


_SHAPES: dict[str, list[Shape]] = {}


def _shapes() -> dict[str, list[Shape]]:
    """Of every verb, some command lines with the flags that belong to them."""
    if not _SHAPES:
        for argv, base in _right():
            _SHAPES.setdefault(argv[0], []).append(Shape(argv, base, list(flags_of(_kind(argv)))))
        if lacking := VERBS.keys() - _SHAPES.keys():
            raise KeyError(f"no right command line of {', '.join(lacking)} is known here")
    return _SHAPES


def right_flags() -> dict[str, list]:
    """All flags of every verb, with some tasks and models."""
    return {
        verb: [f for shape in shapes for f in shape.flags] for verb, shapes in _shapes().items()
    }


def _right():
    out = f"--out={HERE}/new"
    for task, model in (("mqar", "min_gru"), ("listops_short", "lru,gru"), ("adding", "gru")):
        yield ("train", f"--task={task}", f"--model={model}", out), ""
    yield ("train", "--published=s4d/listops", out), ""
    yield ("train", "--task=masked:mqar", "--model=bert", out), ""
    yield (*_compared("min_gru", "1")[:-1], out), ""
    for verb in ("show", "evaluate", "generate", "report", "watch"):
        yield (verb, f"{HERE}/base"), "text" if verb == "generate" else "done"
    yield ("export", f"{HERE}/base", out, "--platforms=cpu"), "text"
    yield ("list",), ""
    yield ("completion", "fish"), ""
    yield ("check", "min_gru", "--length=1"), ""
    yield ("new", "mixer", "my_mixer", out), ""
    yield ("doctor", "--mib=1"), ""
    yield ("data", "list"), ""
    for action in ("show", "prepare", "verify"):
        yield ("data", action, "--task=mqar", *world.SIZES), ""
    sizes = ["--lengths", "16", "--d-model=8", "--rounds=1", "--batch-size=1"]
    yield ("bench", *sizes, "--models=gru", "--baseline=gru"), ""
    yield ("plan", *world.TINY), ""
    yield ("plan", "--all", out, "--topology=local", "--models=lru", "--limit-seconds=1"), ""
    yield (
        ("plan", "--forms", out, "--topology=local", "--lengths", "16", "--total-seconds=1e-9"),
        "",
    )
    yield ("demo", f"--out={HERE}/no/demo", "--seeds=0"), ""


def right_kinds() -> dict[str, list[type]]:
    """Of every verb, the dataclasses of flags after some right words."""
    kinds: dict[str, list[type]] = {}
    for argv, _ in _right():
        kinds.setdefault(argv[0], []).append(_kind(argv))
    return kinds


def _kind(argv: tuple[str, ...]) -> type:
    """The dataclass of the flags that a verb has with these words."""
    verb = importlib.import_module(f"seqzoo.train.cli.{argv[0]}")
    words = [word for word in argv[1:] if HERE not in word or "--" in word]
    return kind_of(verb.main, words)


def _flag(rng: random.Random, flag) -> list[str]:
    """A flag with a value, or almost."""
    name = flag.name
    if rng.random() < 0.05:
        place = rng.randrange(2, len(name))
        name = name[:place] + rng.choice("xyz_.") + name[place + 1 :]
    if rng.random() < 0.1:
        name = name.replace("-", "_").replace("__", "--", 1)
    if flag.type is bool:
        return [name] if rng.random() < 0.9 else [f"{name}=1"]
    if rng.random() < 0.04:
        return [name]
    values = _values(rng, flag)
    return [f"{name}={values[0]}"] if rng.random() < 0.5 else [name, *values]


def _values(rng: random.Random, flag) -> list[str]:
    """Words that may be a flag's value, mostly of its type."""
    kind, last = flag.type, flag.name.rpartition(".")[2].lstrip("-")
    if rng.random() < 0.1:
        return [rng.choice((*WRONG, *TEXTS))]
    if typing.get_origin(kind) is tuple:
        return [rng.choice(NUMBERS) for _ in range(rng.randrange(1, 4))]
    if typing.get_origin(kind) is typing.Literal:
        return [str(rng.choice(typing.get_args(kind)))]
    some = [k for k in typing.get_args(kind) if k is not type(None)]
    if some and typing.get_origin(kind) is not typing.Literal:
        return ["None"] if rng.random() < 0.2 else _values(rng, flag._replace(type=some[0]))
    if last == "task":
        names = [*tasks.names(), "masked:mqar", "x:mqar", "masked:"]
        return [rng.choice(names)] if rng.random() < 0.5 else ["mqar"]
    if last in ("model", "models", "baseline"):
        return [rng.choice([*MIXERS, *PRESETS, "gru,lru", "a=gru", "gru+lru", ",", "gru,gru"])]
    if last in ("out", "page", "init-from") or kind is Path or "Run" in str(kind):
        return [rng.choice(PLACES)]
    if kind is int:
        return [_integer(rng, last)]
    if kind is float:
        return [rng.choice((*NUMBERS, "0.5", "-0.0", "1e-3", "1e-320", "1e300", "nan", "inf"))]
    return [rng.choice(TEXTS)]


def _integer(rng: random.Random, name: str) -> str:
    if any(word in name for word in FREE) and rng.random() < 0.5:
        return str(rng.choice(LARGE))
    if any(word in name for word in DEAR):
        return rng.choice(NUMBERS[:4])
    if rng.random() < 0.05 and name != "steps":
        return str(rng.choice(LARGE[3:]))
    return rng.choice(NUMBERS) if name != "steps" else rng.choice(NUMBERS[:5])


def shown(case: Case) -> str:
    """A case for the reader."""
    parts = {k: v for k, v in dataclasses.asdict(_Shown(*case)).items() if v}
    return ", ".join(f"{name} {value!r}" for name, value in parts.items())


_Shown = dataclasses.make_dataclass("_Shown", Case._fields)
