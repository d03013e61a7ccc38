"""The parameters of a model under the names that tables use: one block after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flax import nnx

from seqzoo.models.backbone import Block, Stack
from seqzoo.models.composite import Chain
from seqzoo.models.mixer import Mixer
from seqzoo.models.pretrained.rules import Slot
from seqzoo.models.whole.encoder_decoder import EncoderDecoder
from seqzoo.models.whole.sequence_model import SequenceModel

BACKBONE, DECODER = "encoder/backbone/", "decoder/"

SHORT = (
    ("encoder/backbone/norm", "final_norm"),
    ("decoder/norm", "decoder/final_norm"),
    ("encoder/norm", "embed_norm"),
)


def slots_of(model: SequenceModel | EncoderDecoder, kind: Any = nnx.Param) -> dict[str, Slot]:
    """Every parameter, abstract or not, by its name in tables; `kind`: the type of variables.

    What belongs to no block is named by its path with dots, without `encoder.`:
    `embed.embedding`, `embed_norm.scale`, `final_norm.scale`, `out_proj.kernel`.
    """
    params = {
        "/".join(map(str, path)): tuple(leaf.shape)
        for path, leaf in nnx.to_flat_state(nnx.state(model, kind))
    }
    found: dict[str, Slot] = {}
    inside: set[str] = set()
    stacks = [(BACKBONE, "", model.encoder.backbone.stack)]
    if isinstance(model, EncoderDecoder):
        stacks.append((DECODER, "decoder.", model.decoder.stack))
    for where, named, stack in stacks:
        for i, (place, index, block) in enumerate(_blocks(stack, "stack", ())):
            start = f"{where}{place}/"
            for path, shape in params.items():
                if path.startswith(start):
                    inside.add(path)
                    name = f"{named}blocks.{i}.{_named(path[len(start) :], block)}"
                    found[name] = Slot(path, index, shape[len(index) :])
    for path, shape in params.items():
        if path not in inside:
            found[_plain(path)] = Slot(path, (), shape)
    return found


def _blocks(
    module: Mixer, path: str, index: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...], Block]]:
    """Blocks in order, with the path of the variables and the places of their first axes."""
    if isinstance(module, Block):
        yield path, index, module
    elif isinstance(module, Stack):
        for i in range(module.repeats):
            if module.scan:
                yield from _blocks(module.units, f"{path}/units", (*index, i))
            else:
                yield from _blocks(module.units[i], f"{path}/units/{i}", index)
    elif isinstance(module, Chain):
        for i, part in enumerate(module.blocks):
            yield from _blocks(part, f"{path}/blocks/{i}", index)


def _named(path: str, block: Block) -> str:
    """A block's parameter: `mixer/...` under its name, `feedforward/...` as `ff`."""
    first, *rest = path.split("/")
    return _plain("/".join([{"mixer": block.name, "feedforward": "ff"}.get(first, first), *rest]))


def _plain(path: str) -> str:
    for ours, short in SHORT:
        path = path.replace(f"{ours}/norm/", f"{short}/")
    return path.removeprefix("encoder/").replace("norm/norm/", "norm/").replace("/", ".")
