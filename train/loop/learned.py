"""What a run starts from: the newest checkpoint of another run, or published weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from seqzoo.models import EncoderDecoder, from_pretrained
from seqzoo.models.pretrained.adapters import adapter_of, merged
from seqzoo.models.pretrained.folder import CONFIG, is_published, open_checkpoint
from seqzoo.models.pretrained.header import is_regular
from seqzoo.models.pretrained.load import translate
from seqzoo.models.spec import ModelSpec
from seqzoo.tasks.language.tokenizers import is_file
from seqzoo.tasks.pretraining import Pretraining
from seqzoo.tasks.task import Task
from seqzoo.train.config import Experiment, TrainConfig
from seqzoo.train.folder.run_folder import RunFolder
from seqzoo.train.loop.evaluate import load_run
from seqzoo.train.loop.state import Arrays

TOKENIZER, TOKENS = "tokenizer.json", ("tokens", "tokenizer")  # the file, and options that name it
EMBEDDING, POSITIONS = "encoder/embed/embedding", "encoder/position_embed"


class Learned(NamedTuple):
    """Variables by their paths, and what belongs to them."""

    params: Arrays
    rest: Arrays | None  # statistics; None: not kept
    spec: ModelSpec
    when: str
    behind: Mapping[str, int]  # last rows of a variable that the new task has no use for
    new: frozenset[str]  # variables that the new task needs anew


def learned(place: Path, task: Task) -> Learned:
    """What `place` has for a task. Raises ValueError where it is neither run nor weights."""
    if is_published(place):
        _check_tokens(place, task)
        return _published(place, task.spec)
    program, state, meta = load_run(place)
    old = program.experiment.task
    extra = max(_extra_tokens(old) - _extra_tokens(task), 0)
    when = f"at step {meta['step']}"
    params, rest = state.params, state.rest
    if program.experiment.train.adapter:
        model = merged(program.plan.merge(params, rest))
        params, rest = _flat(model, nnx.Param), _flat(model, nnx.Not(nnx.Param))
    return Learned(params, rest, old.spec, when, {EMBEDDING: extra}, frozenset())


def _published(place: Path, wanted: ModelSpec) -> Learned:
    model = from_pretrained(place)
    if isinstance(model, EncoderDecoder):
        raise ValueError(
            f"{place} holds an encoder-decoder, which reads one text and writes another; tasks "
            "here have one input: train it in your own program (docs/reuse.md)"
        )
    params = _flat(model, nnx.Param)
    vocab = model.encoder.embed.num_embeddings
    spec = ModelSpec(head="lm", vocab_size=vocab, outputs=vocab, length=model.encoder.length)
    behind = {POSITIONS: max(model.encoder.length - wanted.length, 0)}
    new = frozenset() if wanted.vocab_size == vocab else frozenset({EMBEDDING})
    return Learned(params, None, spec, "as published", behind, new)


def _flat(model: nnx.Module, kind: Any) -> Arrays:
    """Variables of a kind by path."""
    found = nnx.to_flat_state(nnx.state(model, kind))
    return {"/".join(map(str, path)): leaf.get_value() for path, leaf in found}


def tokenized(place: Path, kind: type[Task]) -> dict[str, Any]:
    """Options of a task by which its texts become the tokens of published weights.

    Nothing where the folder has no tokenizer.json, or the task no texts.
    """
    file = place / TOKENIZER
    fields = {field.name for field in dataclasses.fields(kind)}
    name = next((n for n in TOKENS if {n, "vocab"} <= fields), None)
    if name is None or not is_regular(file):
        return {}
    return {name: str(file), "vocab": translate(open_checkpoint(place).config).vocab}


def _check_tokens(place: Path, task: Task) -> None:
    """Raises ValueError where a task's tokens are of another file than that of the weights."""
    used = next((getattr(task, name) for name in TOKENS if hasattr(task, name)), "")
    own = place / TOKENIZER
    if is_file(used) and is_regular(own) and Path(used).read_bytes() != own.read_bytes():
        raise ValueError(
            f"task {task.name} makes tokens by {used}, which is not {own}: the weights know other "
            "ones by these numbers; leave out the option and theirs are used"
        )


def _extra_tokens(task: Task) -> int:
    tokens = task.spec.vocab_size is not None
    return task.extra_tokens if isinstance(task, Pretraining) and tokens else 0


def settled(experiment: Experiment) -> Experiment:
    """The experiment, its adapter leaving free what the task needs anew.

    That is the embedding where there are other tokens, and all behind the encoder where there is
    another output. An adapter that says itself what learns whole is left as it is.
    """
    train, wanted = experiment.train, experiment.task.spec
    if not train.adapter or (adapter := adapter_of(train.adapter)).whole:
        return experiment
    place = Path(train.init_from)
    if is_published(place):
        old = translate(open_checkpoint(place).config).spec()
        extra = 0
    else:
        other = RunFolder(place).experiment().task
        old, extra = other.spec, max(_extra_tokens(other) - _extra_tokens(experiment.task), 0)
    new = []
    if old.vocab_size is not None and old.vocab_size - extra != wanted.vocab_size:
        new.append(f"^{EMBEDDING}")
    if not same_head(old, wanted):
        new.append(r"^(?!encoder/)")
    adapter = dataclasses.replace(adapter, whole="|".join(new))
    return dataclasses.replace(experiment, train=dataclasses.replace(train, adapter=str(adapter)))


def same_head(old: ModelSpec, new: ModelSpec) -> bool:
    """Whether outputs mean the same."""
    one, two = ((s.head, s.outputs, s.vocab_size, s.views) for s in (old, new))
    return one == two


def fine_tuning(place: Path, task: Task) -> Experiment:
    """The model of published weights for a task, which starts from them.

    Other heads than a language model's are plain maps of the pooled row. Parameters are float32,
    products in bfloat16 where the config says so.
    """
    folder, config, _ = open_checkpoint(place)
    translation = translate(config, str(folder / CONFIG))
    said = config.get("dtype", config.get("torch_dtype"))
    changes = {"dtype": "bfloat16" if said == "bfloat16" else "float32"}
    if task.spec.head != "lm":
        changes |= {"tie_embeddings": False, "head_transform": False, "head_bias": None}
    return Experiment(
        task=task,
        model=",".join(translation.pattern),
        mixer=dict(translation.options),
        backbone=dataclasses.replace(translation.backbone, **changes),
        train=TrainConfig(init_from=str(folder)),
    )
