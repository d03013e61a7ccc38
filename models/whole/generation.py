"""Tokens of a language model as they are drawn, in programs that know no length.

    for tokens in generate(model, [[5, 7, 1], [9]], 100, jax.random.key(0), top_p=0.95, samples=2):
        ...  # [4]: two continuations of each prompt, the next token of each

Prompts are read in chunks of one size, padded on the left; padding is invisible to every mixer, so
rows of any lengths share the programs. A step is given the state and writes into its memory. An
encoder-decoder reads its prompts whole, and what it writes begins anew.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, PyTree

from seqzoo.models.whole.encoder_decoder import EncoderDecoder
from seqzoo.models.whole.sampling import Levels, Rule, check_room, following, marked, pick, rule_of
from seqzoo.models.whole.sequence_model import SequenceModel

LEAST = 16  # tokens of a chunk, where prompts are shorter


def generate(
    model: SequenceModel | EncoderDecoder,
    prompts: Sequence[Sequence[int]],
    length: int,
    key: Key[Array, ""],
    *,
    samples: int = 1,
    chunk: int = 256,
    **how: float,
) -> Iterator[Int[np.ndarray, "N"]]:
    """The tokens that continue the prompts, one of each row at a time, `length` times.

    Row `i * samples + j` is continuation j of prompt i; each prompt is read once. Tokens are those
    of `sample` for the same rows: the t-th are `draw(logits, jax.random.fold_in(key, t), **how)`.

    Args:
        model: a causal language model, or an encoder-decoder.
        prompts: tokens of each, any number but none.
        length: how many tokens to draw, at least 1; whoever has enough stops iterating.
        key: of the draws.
        samples: continuations of each prompt.
        chunk: most tokens of a prompt that are read at once.
        how: `temperature`, `top_k`, `top_p`, `min_p`, `repetition_penalty` of `draw`.

    Raises ValueError, before anything is compiled, for an empty prompt, a token outside the
    vocabulary, and what `sample` refuses.
    """
    rule, levels = rule_of(**how)
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    rows = [np.asarray(prompt, np.int64) for prompt in prompts]
    if not rows or any(row.ndim != 1 or row.size == 0 for row in rows):
        raise ValueError("an empty prompt cannot be continued; each needs a token at least")
    longest = max(map(len, rows))
    check_room(model, 1 if isinstance(model, EncoderDecoder) else longest, length)
    size = model.encoder.embed.num_embeddings
    for row in rows:
        if row.min() < 0 or row.max() >= size:
            bad = int(row[(row < 0) | (row >= size)][0])
            raise ValueError(f"tokens of the prompt are in [0, {size}); got {bad}")
    chunk = min(chunk, max(LEAST, 1 << (longest - 1).bit_length()))
    return _generated(model, rows, length, key, samples, chunk, rule, levels)


def _generated(
    model: SequenceModel | EncoderDecoder,
    rows: list[np.ndarray],
    length: int,
    key: Array,
    samples: int,
    chunk: int,
    rule: Rule,
    levels: Levels,
) -> Iterator[np.ndarray]:
    leaves, structure = jax.tree.flatten(model)
    programs = _programs(structure, rule, samples)
    tokens = _padded(rows, chunk)
    ids = (tokens >= 0).astype(np.int32)
    apart = isinstance(model, EncoderDecoder)
    if apart:
        h, state = programs.open(leaves, np.maximum(tokens, 0), ids)
    else:
        state = model.init_state(len(rows))
        for at in range(0, tokens.shape[1], chunk):
            part = slice(at, at + chunk)
            h, state = programs.read(leaves, state, np.maximum(tokens[:, part], 0), ids[:, part])
    seen = None
    if rule.penalised:
        seen = np.zeros((len(rows), model.encoder.embed.num_embeddings), bool)
        for row, own in zip(seen, [] if apart else rows, strict=not apart):
            row[own] = True
    token, carry = programs.begin(leaves, h, state, seen, key, levels)
    yield np.asarray(token)
    before = None
    for _ in range(1, length):
        token, carry = programs.step(leaves, token, carry, key, levels)
        if before is not None:  # which the host looks at while devices make the next
            yield np.asarray(before)
        before = token
    if before is not None:
        yield np.asarray(before)


class _Programs(NamedTuple):
    open: Any
    read: Any
    begin: Any
    step: Any


@functools.lru_cache(maxsize=8)
def _programs(structure: Any, rule: Rule, samples: int) -> _Programs:
    """Compiled functions of a model's arrays; `structure` is what else a model is."""

    def open_(leaves: list[Array], tokens: Array, ids: Array) -> tuple:
        return jax.tree.unflatten(structure, leaves).opened(tokens, ids)

    def read(leaves: list[Array], state: PyTree, tokens: Array, ids: Array) -> tuple:
        model = jax.tree.unflatten(structure, leaves)
        h, state = model.encoder.extend(tokens, state, ids)
        return h[:, -1:], state

    def begin(leaves: list[Array], h: Array, state: PyTree, seen: Any, key: Array, levels: Levels):
        model = jax.tree.unflatten(structure, leaves)
        h, state, seen = jax.tree.map(lambda a: jnp.repeat(a, samples, axis=0), (h, state, seen))
        token = pick(model.read_out(h)[:, 0], jax.random.fold_in(key, 0), rule, levels, seen)
        return token, (jnp.int32(1), state, marked(seen, token))

    def step(leaves: list[Array], token: Array, carry: tuple, key: Array, levels: Levels) -> tuple:
        model = jax.tree.unflatten(structure, leaves)
        t, state, seen = carry
        at = jax.random.fold_in(key, t)
        token, state, seen = following(model, token, state, seen, at, rule, levels)
        return token, (t + 1, state, seen)

    return _Programs(
        jax.jit(open_),
        jax.jit(read, donate_argnums=1),
        jax.jit(begin),
        jax.jit(step, donate_argnums=2),
    )


def _padded(rows: list[np.ndarray], chunk: int) -> Int[np.ndarray, "B P"]:
    """All that end together in whole chunks; -1 before them."""
    longest = max(map(len, rows))
    tokens = np.full((len(rows), -(-longest // chunk) * chunk), -1, np.int32)
    for row, own in zip(tokens, rows, strict=True):
        row[len(row) - len(own) :] = own
    return tokens
