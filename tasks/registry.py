"""The list of tasks.

A task is known by its name, by one that an installed package brings (entry points `seqzoo.tasks`),
or by its address, `package.module:Name` or `path/to/file.py:Name`.
"""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from seqzoo.models.errors import unknown
from seqzoo.models.foreign import address
from seqzoo.tasks.context.babilong import Babilong
from seqzoo.tasks.context.counting import RulerCommonWords, RulerFrequentWords
from seqzoo.tasks.context.phone_book import PhoneBook
from seqzoo.tasks.context.ruler import RulerNeedles, RulerVariables
from seqzoo.tasks.genomes.genome import Genome
from seqzoo.tasks.genomes.species import GenomeSpecies
from seqzoo.tasks.language.bytes import Bytes
from seqzoo.tasks.language.enwik8 import Enwik8, Text8
from seqzoo.tasks.language.pg19 import PG19
from seqzoo.tasks.language.python_source import PythonSource
from seqzoo.tasks.language.wikitext103 import WikiText103
from seqzoo.tasks.lra.image import Image
from seqzoo.tasks.lra.listops import ListOps, ListOpsShort
from seqzoo.tasks.lra.pathfinder import Pathfinder, PathfinderGenerated, PathX, PathXGenerated
from seqzoo.tasks.lra.retrieval import Retrieval
from seqzoo.tasks.lra.text import Text
from seqzoo.tasks.pixels.cifar import SequentialCifar
from seqzoo.tasks.pixels.digits import PermutedDigits, SequentialDigits
from seqzoo.tasks.pixels.mnist import PermutedMnist, SequentialMnist
from seqzoo.tasks.pretraining import OBJECTIVES, wrap
from seqzoo.tasks.rows.task import Rows
from seqzoo.tasks.series.ppg import PpgDalia
from seqzoo.tasks.series.uea import Uea
from seqzoo.tasks.skills.brevo import Brevo
from seqzoo.tasks.skills.capo import Capo
from seqzoo.tasks.skills.depo import Depo
from seqzoo.tasks.skills.lano import Lano
from seqzoo.tasks.skills.mano import Mano
from seqzoo.tasks.skills.regbench import RegBench
from seqzoo.tasks.skills.selectivbench import SelectivBench
from seqzoo.tasks.skills.strings import StringCopy
from seqzoo.tasks.speech import SpeechCommands
from seqzoo.tasks.synthetic import formal
from seqzoo.tasks.synthetic.continuous import Adding, Capacity, Delay, Reconstruction
from seqzoo.tasks.synthetic.copying import Copying, CopyMemory, SelectiveCopying
from seqzoo.tasks.synthetic.dyck import Dyck
from seqzoo.tasks.synthetic.groups import GroupWords, Parity
from seqzoo.tasks.synthetic.mad import Compression, MADSelectiveCopying, Memorisation
from seqzoo.tasks.synthetic.mad_recall import FuzzyRecall, InContextRecall, NoisyRecall
from seqzoo.tasks.synthetic.mqar import MQAR, MQARBased, MQARZoology
from seqzoo.tasks.synthetic.needle import Needle, Passkey
from seqzoo.tasks.synthetic.recall import InductionHeads
from seqzoo.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    "listops": ListOps,
    "listops_short": ListOpsShort,
    "text": Text,
    "retrieval": Retrieval,
    "image": Image,
    "pathfinder": Pathfinder,
    "path_x": PathX,
    "pathfinder_generated": PathfinderGenerated,
    "path_x_generated": PathXGenerated,
    # pictures and sounds step by step
    "sdigits": SequentialDigits,
    "psdigits": PermutedDigits,
    "smnist": SequentialMnist,
    "psmnist": PermutedMnist,
    "scifar": SequentialCifar,
    "speech_commands": SpeechCommands,
    # series
    "uea": Uea,
    "ppg_dalia": PpgDalia,
    # DNA
    "genome": Genome,
    "genome_species": GenomeSpecies,
    # recall
    "mqar": MQAR,
    "mqar_zoology": MQARZoology,
    "mqar_based": MQARBased,
    "mad_recall": InContextRecall,
    "mad_fuzzy_recall": FuzzyRecall,
    "mad_noisy_recall": NoisyRecall,
    "mad_selective_copying": MADSelectiveCopying,
    "mad_compression": Compression,
    "mad_memorisation": Memorisation,
    "needle": Needle,
    "passkey": Passkey,
    # answers in a long text
    "ruler_niah": RulerNeedles,
    "ruler_vt": RulerVariables,
    "ruler_cwe": RulerCommonWords,
    "ruler_fwe": RulerFrequentWords,
    "babilong": Babilong,
    "phone_book": PhoneBook,
    # skills
    "depo": Depo,
    "brevo": Brevo,
    "mano": Mano,
    "capo": Capo,
    "lano": Lano,
    "regbench": RegBench,
    "selectivbench": SelectivBench,
    # copying
    "string_copy": StringCopy,
    "selective_copying": SelectiveCopying,
    "induction_heads": InductionHeads,
    "copying": Copying,
    "copy_memory": CopyMemory,
    # real inputs
    "adding": Adding,
    "delay": Delay,
    "reconstruction": Reconstruction,
    "lmu_capacity": Capacity,
    # state tracking
    "parity": Parity,
    "group_words": GroupWords,
    # formal languages
    "even_pairs": formal.EvenPairs,
    "modular_arithmetic": formal.ModularArithmetic,
    "parity_check": formal.ParityCheck,
    "cycle_navigation": formal.CycleNavigation,
    "stack_manipulation": formal.StackManipulation,
    "reverse_string": formal.ReverseString,
    "modular_arithmetic_brackets": formal.ModularArithmeticBrackets,
    "solve_equation": formal.SolveEquation,
    "duplicate_string": formal.DuplicateString,
    "missing_duplicate_string": formal.MissingDuplicateString,
    "odds_first": formal.OddsFirst,
    "binary_addition": formal.BinaryAddition,
    "binary_multiplication": formal.BinaryMultiplication,
    "compute_sqrt": formal.ComputeSqrt,
    "bucket_sort": formal.BucketSort,
    "dyck": Dyck,
    # language modelling
    "python_source": PythonSource,
    "bytes": Bytes,
    "enwik8": Enwik8,
    "text8": Text8,
    "wikitext103": WikiText103,
    "pg19": PG19,
    # your own table
    "rows": Rows,
}


def names() -> tuple[str, ...]:
    """The names that `build` knows."""
    return tuple(TASKS)


def kind(name: str) -> type[Task]:
    """The class of the task `name`, or of `OBJECTIVE:TASK`. Raises ValueError for any other."""
    objective, inner = parts(name)
    if inner in TASKS:
        found = TASKS[inner]
    else:
        where = foreign(name)
        if where is None:
            raise unknown("task", inner, (*TASKS, *address.entry_points(address.TASK_GROUP)))
        found = _checked(address.load(where, inner), inner)
    return wrap(objective, found) if objective else found


def parts(name: str) -> tuple[str, str]:
    """The objective, "" where there is none, and the task. Raises ValueError for an unknown one."""
    objective, colon, inner = name.partition(":")
    if objective in OBJECTIVES:
        return objective, inner
    if colon and inner in TASKS:
        raise unknown("objective", objective, OBJECTIVES)
    return "", name


def foreign(name: str) -> str | None:
    """The address that a task's name stands for, None where it is one of ours or none at all."""
    inner = parts(name)[1]
    if inner in TASKS:
        return None
    return (
        inner if address.is_address(inner) else address.entry_points(address.TASK_GROUP).get(inner)
    )


def name_of(task: Task) -> str:
    """The name by which `build` finds the class of a task."""
    objective, _ = parts(task.name) if task.name.partition(":")[0] in OBJECTIVES else ("", "")
    own = address.name_of(getattr(task, "inner", None) if objective else type(task))
    if own is None:
        return task.name
    return f"{objective}:{own}" if objective else own


def _checked(found: object, name: str) -> type[Task]:
    if not isinstance(found, type) or not issubclass(found, Task):
        raise ValueError(f"{name} is no task; it is a subclass of seqzoo.tasks.Task")
    lacks = sorted(found.__abstractmethods__)
    lacks += [about for about in ("name", "description", "cite") if not hasattr(found, about)]
    if lacks:
        close = [unknown("method", n, [m]) for m in lacks for n in vars(found) if _near(n, m)]
        raise ValueError(
            f"task {name} lacks {', '.join(lacks)}" + (f" ({close[0]})" if close else "")
        )
    if not dataclasses.is_dataclass(found) or "__dataclass_fields__" not in vars(found):
        raise ValueError(f"task {name} needs @dataclasses.dataclass(frozen=True, kw_only=True)")
    return found


def _near(one: str, other: str) -> bool:
    """Whether a name may have been meant as another."""
    return bool(difflib.get_close_matches(one, [other], 1, 0.75))


def build(name: str, **options: Any) -> Task:
    """The task of this name with `options`, its fields.

    Raises ValueError for a name, an option or a value that is wrong.
    """
    chosen = kind(name)
    fields = [field.name for field in dataclasses.fields(chosen)]
    for option in options:
        if option not in fields:
            raise unknown(f"option of task {name}", option, fields)
    return chosen(**options)
