"""Every form of a loaded model beside what the published library gave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqzoo.models import EncoderDecoder, from_pretrained
from seqzoo.models.pretrained.families import FAMILIES
from tests.golden import FOLDER, golden

# Of transformers, and of flash-linear-attention.
HF, FLA = FOLDER / "hf", FOLDER / "fla"
NAMES = sorted(
    path.parent.name
    for path in (*HF.glob("*/config.json"), *FLA.glob("*/config.json"))
    if json.loads(path.read_text())["model_type"] in FAMILIES
)
FORMS = ("whole", "padded", "packed", "steps", "prefill, then steps")
BORDER = 5  # tokens of the first of two packed rows
PADDING = 3  # tokens, twice a row


def folder(name: str) -> Path:
    """A published model in the layout of Hugging Face."""
    return (FLA if (FLA / name).is_dir() else HF) / name


def published(name: str) -> Mapping[str, np.ndarray]:
    """What the library gave."""
    return golden(f"{folder(name).parent.name}/{name}/io")


def differences(name: str) -> dict[str, float]:
    """The largest difference of a logit from the published one, by form."""
    io = published(name)
    if "global_attention_mask" not in io:
        return compared(from_pretrained(folder(name)), io)
    found = []
    for row, mask in enumerate(io["global_attention_mask"]):  # which differ from row to row
        chosen = tuple(int(p) for p in np.flatnonzero(mask))
        model = from_pretrained(folder(name), global_positions=chosen)
        found.append(compared(model, {k: v[row : row + 1] for k, v in io.items()}))
    return {form: max(f[form] for f in found) for form in found[0]}


def compared(model: Any, io: Mapping[str, np.ndarray]) -> dict[str, float]:
    """`differences` of a model that was loaded, from what the library gave."""
    if isinstance(model, EncoderDecoder):
        return _pairs(model, io)
    found: dict[str, float] = {}
    rows, ids = _rows(io, model.encoder.packing == "native", model.encoder.causal)
    out = np.asarray(model(rows, ids))
    count, length = io["input_ids"].shape
    found["whole"] = _far(out[:count], io["logits"])
    if "logits_masked" in io:
        real = io["attention_mask"] > 0
        found["padded"] = _far(out[count : 2 * count][real], io["logits_masked"][real])
    elif model.encoder.causal:
        real = _spread(io["input_ids"])[1][0] > 0
        found["padded"] = _far(out[count : 2 * count, real], io["logits"][:, : real.sum()])
    if model.encoder.packing == "native":
        packed, first, second = out[-3:]
        found["packed"] = max(
            _far(packed[:BORDER], first[:BORDER]), _far(packed[BORDER:], second[BORDER:])
        )
    if model.encoder.causal:
        tokens = jnp.asarray(io["input_ids"])
        found["steps"] = _far(_streamed(model, tokens, 1), io.get("logits_stepwise", io["logits"]))
        made = _streamed(model, tokens, length // 2)
        found["prefill, then steps"] = _far(made, io.get("logits_prefill_then_steps", io["logits"]))
    return found


def _pairs(model: EncoderDecoder, io: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of an encoder-decoder: every form beside the whole rows that the library gave."""
    inputs, tokens, logits = (
        np.asarray(io[n]) for n in ("input_ids", "decoder_input_ids", "logits")
    )
    packed = [np.reshape(part, (1, -1)) for part in (inputs, tokens)]
    packed += [np.repeat([[1, 2]], part.shape[1], 1) for part in (inputs, tokens)]
    padded, valid = [], []
    for part in (inputs, tokens):
        noise, length = np.full((len(part), PADDING), 30), part.shape[1]
        padded.append(np.concatenate([noise, part[:, :2], noise, part[:, 2:]], 1))
        valid.append(np.repeat([[0, 1, 0, 1]] * len(part), [PADDING, 2, PADDING, length - 2], 1))
    found = {"whole": _far(model(jnp.asarray(inputs), jnp.asarray(tokens)), logits)}
    out = np.asarray(model(*map(jnp.asarray, (*padded, *valid))))
    found["padded"] = _far(out[valid[1] > 0].reshape(logits.shape), logits)
    out = np.asarray(model(*map(jnp.asarray, packed)))
    found["packed"] = _far(out.reshape(logits.shape), logits)
    for name, first in (("steps", 1), ("prefill, then steps", tokens.shape[1] // 2)):
        state = model.start(jnp.asarray(inputs))
        found[name] = _far(_streamed(model, jnp.asarray(tokens), first, state), logits)
    return found


def _spread(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first tokens with others at padding before and among them, in rows as long; ids."""
    noise = np.full((len(tokens), PADDING), 3)
    parts = [noise, tokens[:, :2], noise, tokens[:, 2 : tokens.shape[1] - 2 * PADDING]]
    ids = [np.full(part.shape, i % 2) for i, part in enumerate(parts)]
    return np.concatenate(parts, 1), np.concatenate(ids, 1)


def _rows(io: Mapping[str, np.ndarray], packed: bool, causal: bool) -> tuple[jax.Array, jax.Array]:
    """Whole rows, padded ones, and one row of two packed ones before these two apart."""
    tokens = io["input_ids"]
    ones = np.ones_like(tokens)
    rows, ids = [tokens], [ones]
    if "attention_mask" in io:
        rows, ids = [*rows, tokens], [*ids, io["attention_mask"]]
    elif causal:
        spread, valid = _spread(tokens)
        rows, ids = [*rows, spread], [*ids, valid]
    if not packed:
        return jnp.asarray(tokens), jnp.asarray(ones, jnp.int32)
    part = 1 + (np.arange(tokens.shape[1]) >= BORDER)[None]
    rows += [tokens[:1]] * 3
    ids += [part, np.where(part == 1, 1, 0), np.where(part == 2, 1, 0)]
    return jnp.asarray(np.concatenate(rows)), jnp.asarray(np.concatenate(ids), jnp.int32)


@jax.jit
def _extend(model: Any, tokens: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    return model.extend(tokens, state)


def _streamed(model: Any, tokens: jax.Array, first: int, state: Any = None) -> np.ndarray:
    """Logits of a chunk, and then of one token at a time."""
    state = model.init_state(len(tokens)) if state is None else state
    y, state = _extend(model, tokens[:, :first], state)
    out = [y]
    for t in range(first, tokens.shape[1]):
        y, state = _extend(model, tokens[:, t : t + 1], state)
        out.append(y)
    return np.concatenate(out, axis=1)


def _far(actual: Any, desired: np.ndarray) -> float:
    return float(np.max(np.abs(np.asarray(actual) - desired)))
