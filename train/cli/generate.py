"""`seqzoo generate RUN`: text from a language model, ours or a published one.

seqzoo generate runs/source --prompt "def " --length 200 --temperature 0.8 --top-p 0.95
seqzoo generate ~/mamba-130m-hf --file novel.txt --stop "THE END" --count 3
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from seqzoo.models import EncoderDecoder, from_pretrained
from seqzoo.models.pretrained.folder import find, is_published
from seqzoo.models.pretrained.header import is_regular
from seqzoo.models.whole.generation import generate
from seqzoo.models.whole.sequence_model import SequenceModel
from seqzoo.tasks.language.continuation import Continuation
from seqzoo.tasks.language.modelling import LanguageModelling
from seqzoo.tasks.language.tokenizers import Tokenizer, published
from seqzoo.train.cli.experiment import named_code
from seqzoo.train.cli.flags import parse, place_of, read
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.state import seed_key

USAGE = "seqzoo generate RUN"
ABOUT = (
    "RUN is a run, a folder of config.json, safetensors and tokenizer.json, or a name on the hub."
)
HOW = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What to draw."""

    prompt: tuple[str, ...] = ("\n",)  # the texts that are continued
    file: Path | None = None  # a file whose text is continued, in place of --prompt
    lines: bool = False  # of --file every line is a prompt
    length: int = 200  # most tokens to draw
    count: int = 1  # continuations of each prompt
    temperature: float = 1.0  # 0: the likeliest token
    top_k: int = 0  # only the k likeliest tokens; 0: all
    top_p: float = 1.0  # only the likeliest tokens with this probability together
    min_p: float = 0.0  # only tokens with this share of the likeliest one's probability
    repetition_penalty: float = 1.0  # above 1: tokens that were there become less likely
    stop: tuple[str, ...] = ()  # texts that end a continuation
    chunk: int = 256  # most tokens of a prompt that are read at once
    seed: int = 0  # of what is drawn
    chat: bool = False  # refused: chat templates are programs
    checkpoint: str = "last"  # of a run: last, best or a step
    code: str = ""  # of a run made with code from outside: where that lies now, mine.py:EMA


class Voice(NamedTuple):
    """A model and how it reads and writes."""

    model: SequenceModel
    tokenizer: Tokenizer
    end: frozenset[int]  # tokens that end a text
    rows: list[np.ndarray]  # the prompts' tokens


def texts_of(options: GenerateOptions) -> list[str]:
    """The prompts. Raises ValueError for none, and a file that is no text."""
    if options.file is None:
        texts = list(options.prompt)
    else:
        try:
            text = options.file.read_text()
        except UnicodeDecodeError as error:
            raise ValueError(f"{options.file} is no UTF-8 text: {error}") from None
        texts = [line for line in text.splitlines() if line] if options.lines else [text]
    if not all(texts) or not texts:
        raise ValueError("an empty prompt cannot be continued; give --prompt or --file")
    return texts


def of_run(run: Path, texts: list[str], options: GenerateOptions) -> Voice:
    """The model of a run. Raises ValueError for a run without text."""
    task = RunFolder(run).experiment().task
    if not isinstance(task, LanguageModelling):
        raise ValueError(f"{run} is a run of {task.name}; only models of text can be sampled")
    tokenizer = task.make_tokenizer()
    rows = [tokenizer.encode(text.encode()) for text in texts]
    program, state, _ = load_run(run, which=options.checkpoint)
    return Voice(program.plan.merge(state.params, state.rest), tokenizer, frozenset(), rows)


def of_folder(name: str | Path, texts: list[str], options: GenerateOptions) -> Voice:
    """Published weights, with room for these texts and no more than twice that."""
    folder = find(name)
    file = folder / "tokenizer.json"
    if not is_regular(file):
        raise ValueError(
            f"{folder} has no tokenizer.json, which says how text becomes tokens; the library "
            "tokenizers converts other files, or call seqzoo.models.generate with tokens"
        )
    tokenizer = published(file)
    rows = [tokenizer.encode(text.encode()) for text in texts]
    room = max(map(len, rows)) + max(options.length, 1)
    sizes = {"max_length": 1 << (room - 1).bit_length()}
    model = from_pretrained(folder, **sizes, scan=jax.default_backend() != "cpu")
    end: set[int] = set()
    for part in ("config.json", "generation_config.json"):
        said = json.loads((folder / part).read_text()) if is_regular(folder / part) else {}
        ids = said.get("eos_token_id")
        end |= {*(ids if isinstance(ids, list) else [ids])} - {None}
    return Voice(model, tokenizer, frozenset(end), rows)


class Pace:
    """When tokens came."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def of(self, tokens: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The same, looked at."""
        for token in tokens:
            self.times.append(time.perf_counter())
            yield token

    def words(self, rows: int) -> str:
        """Time to the first token, and tokens a second of all rows once everything is compiled."""
        begin, *came = self.times
        text = f"first token after {came[0] - begin:.2f} s, with compilation"
        if len(came) > 2:
            rate = rows * (len(came) - 2) / (came[-1] - came[1])
            text = f"{rate:.1f} tokens a second; {text}"
        return text


def continued(voice: Voice, options: GenerateOptions, pace: Pace) -> Iterator[tuple[int, str]]:
    """Parts of texts as they become certain, each with the number of its row."""
    how: dict[str, Any] = {name: getattr(options, name) for name in HOW}
    sizes = {"samples": options.count, "chunk": options.chunk}
    key = seed_key(options.seed)
    tokens = generate(voice.model, voice.rows, options.length, key, **sizes, **how)
    # What an encoder-decoder writes does not go on from what it reads.
    apart = isinstance(voice.model, EncoderDecoder)
    prompts = [() if apart else row for row in voice.rows for _ in range(options.count)]
    rows = [Continuation(voice.tokenizer, row, options.stop, voice.end) for row in prompts]
    text = [codecs.getincrementaldecoder("utf-8")("replace") for _ in rows]
    for token in pace.of(tokens):
        for i, row in enumerate(rows):
            if part := text[i].decode(row.push(int(token[i]))):
                yield i, part
        if all(row.done for row in rows):
            break
    for i, row in enumerate(rows):
        if part := text[i].decode(row.rest(), final=True):
            yield i, part


def main(argv: Sequence[str]) -> int:
    """`seqzoo generate RUN`."""
    line = read(argv, place=True)
    named_code(line)
    options = parse(GenerateOptions, line, USAGE, ABOUT)
    place, texts = place_of(line, USAGE), texts_of(options)
    if options.chat:
        raise ValueError(
            "chat templates are programs that come with weights, and none is run here: write the "
            "prompt as the template would, marks of the turns included"
        )
    if options.count < 1:
        raise ValueError(f"count must be at least 1; got {options.count}")
    voice = (of_folder if is_published(place, hub=True) else of_run)(place, texts, options)
    end = "\n" if isinstance(voice.model, EncoderDecoder) else ""
    starts = [text + end for text in texts for _ in range(options.count)]
    pace = Pace()
    parts = continued(voice, options, pace)
    if len(starts) == 1:
        for number, (_, part) in enumerate(parts):
            print(starts[0] * (number == 0) + part, end="", flush=True)
        print()
    else:
        for i, part in parts:
            starts[i] += part
        for i, text in enumerate(starts):
            print(f"-- {i}\n{text}")
    print(pace.words(len(starts)), file=sys.stderr)
    return 0
